"""Questions and their answers at the desk: what is streamed is what the model says at once."""

import queue
import threading
import time

import pytest
import torch
from serving import made

from yantai.core.config import Labels
from yantai.serve.desk import Desk

TALK = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def desk(tokenizer):
    opened = Desk(made(tokenizer), slots=4, waiting=8)
    yield opened
    opened.close()


class Client:
    """Collects what is sent, and waits for the ends."""

    def __init__(self, desk, id=1, **question):
        self.sent = queue.Queue()
        self.texts, self.ends, self.error, self.prompt = {}, {}, None, None
        self.rows = []
        desk.ask(id, question, self.sent.put)

    def finish(self, count=1):
        while len(self.ends) < count and self.error is None:
            table = self.sent.get(timeout=60)
            self.error = table.get("error", self.error)
            self.prompt = table.get("prompt_tokens", self.prompt)
            index = table.get("index", 0)
            self.texts[index] = self.texts.get(index, "") + table.get("text", "")
            self.rows += table.get("logprobs") or []
            if "end" in table:
                self.ends[index] = table
        return self


def test_a_chat_says_what_the_model_says_at_once(desk):
    client = Client(desk, do="chat", messages=TALK, max_new_tokens=30, temperature=0.0).finish()
    assert client.texts[0] == desk.model.chat(TALK, max_new_tokens=30)
    assert client.ends[0]["end"] in ("stop", "length")
    assert client.prompt == len(desk.model.chat_format.render(TALK, reply=True).ids)


def test_a_completion_goes_on_behind_its_prompt(desk):
    client = Client(desk, do="complete", prompt="One morning", max_new_tokens=12, temperature=0.0)
    expected = desk.model.generate("One morning", max_new_tokens=12)
    assert "One morning" + client.finish().texts[0] == expected


def test_a_whole_text_is_sent_once_at_its_end(desk):
    asked = {"do": "chat", "messages": TALK, "max_new_tokens": 30, "temperature": 0.0}
    Client(desk, **asked).finish()  # from now on the prompt is known
    pieces, once = [], []
    for sent, whole in ((pieces, False), (once, True)):
        client = Client(desk, **asked, whole=whole, logprobs=1)
        put = client.sent.get
        client.sent.get = lambda put=put, sent=sent, **wait: sent.append(put(**wait)) or sent[-1]
        sent.append(client.finish())
    assert [table for table in once[:-1] if "text" in table] == once[1:2]
    assert len([table for table in pieces[:-1] if "text" in table]) > 5
    assert len(once) == 3  # the prompt's tokens, the text with its end, the client
    told = [[table["end"], table["tokens"], table["reused"]] for table in (once[-2], pieces[-2])]
    assert once[-1].texts == pieces[-1].texts and told[0] == told[1]
    assert once[-1].rows == pieces[-1].rows and len(once[-1].rows) >= 30


def test_ids_are_a_prompt_too_and_must_be_tokens(desk):
    ids = desk.model.tokenizer.prompt("One morning")
    both = [Client(desk, do="complete", prompt=prompt, max_new_tokens=6, temperature=0.0).finish()
            for prompt in ("One morning", ids)]  # fmt: skip
    assert both[0].texts == both[1].texts
    odd = Client(desk, do="complete", prompt=[5, 10**6], max_new_tokens=6).finish()
    assert odd.error["status"] == 400 and "no such token" in odd.error["message"]


def test_several_answers_draw_for_themselves_and_again_the_same(desk):
    question = {"do": "chat", "messages": TALK, "n": 3, "temperature": 1.0, "seed": 5,
                "max_new_tokens": 20}  # fmt: skip
    first, second = (Client(desk, **question).finish(3) for _ in range(2))
    assert first.texts == second.texts
    assert len(set(first.texts.values())) == 3


def test_a_stop_text_ends_it_and_is_not_shown(desk):
    free = Client(desk, do="chat", messages=TALK, max_new_tokens=30, temperature=0.0).finish()
    text = free.texts[0]
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    cut = Client(
        desk, do="chat", messages=TALK, max_new_tokens=30, temperature=0.0, stop=(stop,)
    ).finish()
    assert cut.texts[0] == text.partition(stop)[0]
    assert cut.ends[0]["end"] == "stop" and cut.ends[0]["tokens"] <= free.ends[0]["tokens"]


def test_chances_are_those_of_the_model_before_any_rule(desk):
    client = Client(
        desk, do="complete", prompt="One", max_new_tokens=4, temperature=0.5, seed=1, logprobs=3
    ).finish()
    ids = desk.model.tokenizer.prompt("One")
    assert len(client.rows) == client.ends[0]["tokens"]
    for row in client.rows:
        logs = desk.model.logits([ids])[0, -1].float().log_softmax(-1)
        assert row["logprob"] == pytest.approx(float(logs[row["id"]]), abs=1e-4)
        assert [each["id"] for each in row["top"]] == logs.topk(3).indices.tolist()
        ids = [*ids, row["id"]]


def test_what_does_not_fit_is_said_with_both_numbers(desk):
    long = [{"role": "user", "content": "word " * 200}]
    client = Client(desk, do="chat", messages=long, max_new_tokens=5).finish()
    assert client.error["status"] == 400
    assert client.error["code"] == "context_length_exceeded"
    assert (
        "at most 96" in client.error["message"]
        and "tokens of the prompt" in client.error["message"]
    )


def test_a_penalty_and_a_bias_reach_the_engine(desk):
    banned = {id: -100.0 for id in range(desk.model.tokenizer.vocab_size) if id != 77}
    client = Client(
        desk, do="complete", prompt="One", max_new_tokens=3, temperature=0.0, bias=banned
    )
    assert client.finish().texts[0] == desk.model.tokenizer.decode([77] * client.ends[0]["tokens"])


def test_a_client_that_goes_frees_its_place(desk):
    client = Client(desk, id=42, do="chat", messages=TALK, n=2, max_new_tokens=60, temperature=1.0)
    desk.cancel(42)
    client.finish(2)
    assert {each["end"] for each in client.ends.values()} <= {"cancelled", "stop", "length"}
    assert desk.engine.waiting == 0
    desk.cancel(42)  # nobody is there


@pytest.mark.parametrize("question", [
    {"do": "complete", "prompt": "One", "max_new_tokens": 80},
    {"do": "embed", "input": ["One", "Two"] * 50},
    {"do": "echo", "prompt": "One"},
])  # fmt: skip
def test_who_has_gone_before_a_question_was_read_is_not_answered(desk, question, caplog):
    told = queue.Queue()
    desk.expect(71)
    desk.cancel(71)
    desk.ask(71, question, told.put)
    assert told.empty() and not desk.engine.is_busy
    # while it is read: the text is long, and a client is not patient
    sizes = desk.model.tokenizer.encode_batch

    def leave(texts):
        desk.cancel(72)
        return sizes(texts)

    fitting = desk._fitting
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk.model.tokenizer, "encode_batch", leave)
        patch.setattr(desk, "_fitting", lambda asked: (desk.cancel(72), fitting(asked))[1])
        desk.ask(72, question, told.put)
    end = time.monotonic() + 30
    while desk.engine.is_busy:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "answers" not in str(list(told.queue)) and desk._asked == {}
    if question["do"] == "complete":
        while "end" not in (table := told.get(timeout=30)):
            pass
        assert table["end"] == "cancelled" and table["tokens"] < 80
    assert desk._open == desk.jobs._open == {}
    assert caplog.records == []


def test_too_many_are_told_so(tokenizer):
    small = Desk(made(tokenizer), slots=1, waiting=1)
    gate = threading.Event()
    small.engine.call(lambda items: [gate.wait(30) for _ in items], 0)
    question = {"do": "chat", "messages": TALK, "max_new_tokens": 2}
    clients = [Client(small, id=n, **question) for n in range(3)]
    gate.set()
    errors = [client.finish().error for client in clients]
    assert [error and error["status"] for error in errors] == [None, None, 429]
    small.close()


def test_jobs_are_answered_in_order(tokenizer):
    head = Labels(names=("bad", "good"), bias=False)
    judge = Desk(made(tokenizer, job="classify", head=head))
    assert judge.describe()["can"] == ["classify"]
    texts = [f"text {number}" for number in range(5)]
    sent = queue.Queue()
    judge.ask(1, {"do": "classify", "input": texts}, sent.put)
    found = sent.get(timeout=60)
    from yantai import classify

    expected = classify(judge.model, texts)
    assert [each["labels"][0] for each in found["answers"]] == [each.label for each in expected]
    judge.ask(2, {"do": "tag", "input": texts}, sent.put)
    assert sent.get(timeout=60)["error"]["status"] == 400
    judge.close()


def test_vectors_of_a_decoder(desk):
    sent = queue.Queue()
    desk.ask(1, {"do": "embed", "input": ["Ivan", "Anna"]}, sent.put)
    vectors = torch.tensor(sent.get(timeout=60)["answers"])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_an_answer_that_is_cut_does_not_end_inside_a_character(desk, whole):
    """The first of three bytes again and again: two are no character, the last one has begun."""
    begin = desk.model.tokenizer.bytes_of_ids.index(b"\xe5")
    asked = {"max_new_tokens": 3, "temperature": 0.0, "bias": {begin: 1000.0}, "whole": whole}
    for question in ({"do": "chat", "messages": TALK}, {"do": "complete", "prompt": "One"}):
        client = Client(desk, **question, **asked).finish()
        assert (client.texts[0], client.ends[0]["end"]) == ("\ufffd\ufffd", "length")
        assert client.ends[0]["tokens"] == 3
