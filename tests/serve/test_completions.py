"""Completions as scripts and evaluations ask for them: prompts and their tokens, and who pays."""

import re
import time
from functools import partial

import httpx
import openai
import pytest
from serving import KEY, Stub

from yantai.serve.desk import Desk
from yantai.serve.local import LocalBackend

TALK = [{"role": "user", "content": "Who are you?"}]


def test_completions_of_several_prompts(client, model):
    found = client.completions.create(
        model="small", prompt=["One", "Two"], max_tokens=6, temperature=0, n=1, logprobs=1
    )
    texts = [prompt + choice.text for prompt, choice in
             zip(["One", "Two"], found.choices, strict=True)]  # fmt: skip
    assert texts == model.generate(["One", "Two"], max_new_tokens=6)
    assert [choice.index for choice in found.choices] == [0, 1]
    assert len(found.choices[0].logprobs.tokens) == len(found.choices[0].logprobs.token_logprobs)
    echoed = client.completions.create(
        model="small", prompt="One", max_tokens=6, temperature=0, echo=True
    )
    assert echoed.choices[0].text == texts[0]
    streamed = client.completions.create(
        model="small", prompt=["One", "Two"], max_tokens=6, temperature=0, stream=True, echo=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    pieces, said = list(streamed), ["", ""]
    for piece in pieces:
        for choice in piece.choices:
            said[choice.index] += choice.text
    assert said == texts and pieces[-1].usage == found.usage


@pytest.mark.parametrize("prompt", ["Anna had 3 鹅 and a 😀.", [9, 70, 71, 300]])
def test_a_prompt_is_scored_token_by_token(client, model, prompt):
    """As evaluations ask for it: nothing new, the prompt back, how likely each of its tokens is."""
    asked = {"model": "small", "prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 2}
    found = client.completions.create(**asked)
    choice = found.choices[0]
    ids = model._encode(prompt) if isinstance(prompt, str) else prompt
    first = int(ids[0] == model.tokenizer.bos_id)
    text = model.tokenizer.decode(ids[first:], skip_special=False)
    assert choice.text == text and choice.finish_reason == "length"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(ids), 0)
    rows = choice.logprobs
    logs = model.logits([ids])[0].log_softmax(-1)
    expected = [float(logs[place, id]) for place, id in enumerate(ids[1:])]
    if not first:  # nothing stands before the first token, not even BOS
        assert rows.token_logprobs.pop(0) is None and rows.top_logprobs.pop(0) is None
    assert rows.token_logprobs == pytest.approx(expected, abs=1e-4)
    assert all(len(each) in (2, 3) for each in rows.top_logprobs)  # its own is told, too
    whole = [place for place, token in enumerate(rows.tokens) if "bytes:" not in token]
    assert len(whole) > 2
    for place in whole:
        assert text.startswith(rows.tokens[place], rows.text_offset[place])
    streamed = list(client.completions.create(**asked, stream=True))
    assert streamed[0].choices[0].logprobs.tokens == rows.tokens
    assert streamed[0].choices[0].text == text


@pytest.mark.parametrize("stream", [False, True])
def test_places_of_tokens_go_on_behind_an_echo(client, model, stream):
    hidden = {"bytes:"} | set(model.tokenizer.control)  # of them no text says where they are
    answer = client.completions.create(
        model="small", prompt="One", max_tokens=8, temperature=0, echo=True, logprobs=0,
        stream=stream,
    )  # fmt: skip
    choices = [piece.choices[0] for piece in (answer if stream else [answer])]
    text = "".join(choice.text for choice in choices)
    rows = [each for choice in choices if choice.logprobs for each in
            zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True)]  # fmt: skip
    assert text.startswith("One") and len(rows) >= 8
    assert [place for _, place in rows] == sorted(place for _, place in rows)
    wrong = [(token, place) for token, place in rows
             if not any(each in token for each in hidden)
             and not text.startswith(token, place)]  # fmt: skip
    assert not wrong, text


def test_near_the_end_of_the_context_a_completion_is_shorter(client, model):
    room = model.network.config.max_positions
    found = client.completions.create(model="small", prompt=[9] * (room - 3), temperature=0)
    assert 1 <= found.usage.completion_tokens <= 3
    with pytest.raises(openai.BadRequestError, match="context") as caught:
        client.completions.create(model="small", prompt=[9] * (room - 3), max_tokens=4)
    assert caught.value.code == "context_length_exceeded"


def test_completions_keep_to_an_expression(client):
    found = client.completions.create(
        model="small", prompt="One", max_tokens=20, temperature=0,
        extra_body={"response_format": {"type": "regex", "regex": "[ab]{3}"}},
    )  # fmt: skip
    assert re.fullmatch("[ab]{3}", found.choices[0].text)


def test_each_id_of_a_prompt_has_its_row_even_bos(client, model):
    """Evaluations count the ids that they sent, and one more that they asked for."""
    bos = model.tokenizer.bos_id
    asked = {"model": "small", "echo": True, "logprobs": 1, "temperature": 0}
    found = client.completions.create(prompt=[bos, 70, 71], max_tokens=1, **asked).choices[0]
    assert len(found.logprobs.tokens) == 4
    assert [each is None for each in found.logprobs.token_logprobs] == [True, False, False, False]
    for place, end in enumerate(sorted(model._turn_ends())):  # an end is a token, too
        forced = client.completions.create(
            prompt=[bos, 70, 71], max_tokens=3, logit_bias={str(end): 100}, **asked
        )
        assert len(forced.choices[0].logprobs.tokens) == 4, place
        assert forced.usage.completion_tokens == 1
    alone = client.completions.create(
        model="small", prompt="One", max_tokens=1, temperature=0, logprobs=0
    ).choices[0]
    assert list(alone.logprobs.top_logprobs[0]) == alone.logprobs.tokens


@pytest.mark.parametrize("prompt", [[[]], [[5], []]])
def test_a_prompt_of_no_ids_among_others_is_refused(client, prompt):
    for asked in ({"max_tokens": 0, "echo": True, "logprobs": 1}, {"max_tokens": 2}):
        with pytest.raises(openai.BadRequestError, match="is empty"):
            client.completions.create(model="small", prompt=prompt, **asked)


def test_more_prompts_than_may_wait_are_answered_one_behind_another(client):
    found = client.completions.create(model="small", prompt=["One"] * 40, max_tokens=1)
    assert len(found.choices) == 40
    with pytest.raises(openai.BadRequestError, match="at most 4 prompts are streamed"):
        client.completions.create(model="small", prompt=["One"] * 40, max_tokens=1, stream=True)


def leave(server, body, seconds):
    """Ask, and be gone before the answer."""
    headers = {"authorization": f"Bearer {KEY}"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=seconds)


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_pays_for_what_was_read_and_said(run_server, model, stream):
    """A key's tokens are counted, whether somebody waits for the end or not."""
    backend = LocalBackend(Desk(model)) if stream else Stub("complete", pause=600)
    server = run_server({"small": backend})
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": "small", "prompt": "One", "max_tokens": 70, "logit_bias": {"1": -100}}
    if stream:
        with httpx.stream(
            "POST", f"{server.url}/v1/completions", json=body | {"stream": True}, headers=headers
        ) as answer:
            lines = answer.iter_lines()
            for _ in range(8):
                next(lines)
    else:
        leave(server, body, seconds=0.5)
    counted, until = server.service.tokens, time.monotonic() + 30
    while counted["prompt"] == 0 or (stream and counted["said"] < 3):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_prompts_that_were_read_are_paid_for_by_who_leaves(run_server):
    backend = Stub("complete", slow=0.3)
    server = run_server({"small": backend})
    leave(server, {"prompt": ["One"] * 200, "max_tokens": 0, "echo": True}, seconds=1.5)
    until = time.monotonic() + 30
    while server.service.tokens["prompt"] < 3:
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["suffix", "truncate"])
def test_what_is_said_to_be_nothing_is_as_if_it_were_not_said(run_server, name):
    path, body = {
        "suffix": ("completions", {"prompt": "One", "max_tokens": 2, "suffix": ""}),
        "truncate": ("classify", {"input": "One", "truncate": None}),
    }[name]
    backend = Stub("complete", "classify", answers=[{"label": "one", "score": 1.0}])
    server = run_server({"small": backend})
    post = partial(httpx.post, f"{server.url}/v1/{path}", timeout=60,
                   headers={"authorization": f"Bearer {KEY}"})  # fmt: skip
    assert post(json=body).status_code == 200, post(json=body).text
    plain = {key: value for key, value in body.items() if key != name}
    assert post(json=plain | {name: "words"}).status_code == 400


def test_a_client_that_goes_stops_the_reading_of_its_prompts(run_server):
    backend = Stub("complete", slow=0.5)
    server = run_server({"small": backend})
    leave(server, {"prompt": ["One"] * 200, "max_tokens": 0, "echo": True}, seconds=0.5)
    begun = 0
    while len(backend.asked) > begun:  # a further wave begins every half second
        begun = len(backend.asked)
        time.sleep(2)
    assert 0 < begun < 200
