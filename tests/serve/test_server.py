"""What an ordinary client does, by the official client; and what others try."""

import base64
import json
import re
import struct
import threading
import time
from functools import partial
from importlib import resources

import httpx
import openai
import pytest
from serving import KEY, made

from yantai.base.pulse import pulse
from yantai.core.config import Labels
from yantai.serve.desk import Desk
from yantai.serve.local import LocalBackend
from yantai.serve.meter import Meter
from yantai.text.tokenizer import Tokenizer

TALK = [{"role": "user", "content": "Who are you?"}]


def test_a_chat(client, model):
    answer = client.chat.completions.create(
        model="small", messages=TALK, max_completion_tokens=30, temperature=0
    )
    assert answer.choices[0].message.content == model.chat(TALK, max_new_tokens=30)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens == len(model.chat_format.render(TALK, reply=True).ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.object == "chat.completion" and answer.model == "small"


def test_a_stream_is_the_same_in_pieces(client, model):
    stream = client.chat.completions.create(
        model="small", messages=TALK, max_tokens=30, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    pieces = list(stream)
    text = "".join(each.choices[0].delta.content or "" for each in pieces if each.choices)
    assert text == model.chat(TALK, max_new_tokens=30)
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-2].choices[0].finish_reason in ("stop", "length")
    assert pieces[-1].usage.completion_tokens > 0


def test_several_choices_by_a_seed(client):
    def asked(seed):
        found = client.chat.completions.create(
            model="small", messages=TALK, n=3, seed=seed, max_tokens=12, temperature=1.2
        )
        return [choice.message.content for choice in found.choices]

    assert asked(5) == asked(5) != asked(6)
    assert len(set(asked(5))) > 1


def test_a_stop_text_and_logprobs(client):
    free = client.chat.completions.create(
        model="small", messages=TALK, max_tokens=20, temperature=0, logprobs=True, top_logprobs=2
    )
    rows = free.choices[0].logprobs.content
    assert len(rows) in (free.usage.completion_tokens, free.usage.completion_tokens - 1)
    assert all(len(row.top_logprobs) == 2 and row.logprob <= 0 for row in rows)
    assert rows[0].logprob == pytest.approx(rows[0].top_logprobs[0].logprob)
    text = free.choices[0].message.content
    stop = text[len(text) // 2]
    cut = client.chat.completions.create(
        model="small", messages=TALK, max_tokens=20, temperature=0, stop=[stop]
    )
    assert cut.choices[0].message.content == text.partition(stop)[0]
    assert cut.choices[0].finish_reason == "stop"


def test_an_answer_keeps_to_its_schema(client):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
              "additionalProperties": False}  # fmt: skip
    answer = client.chat.completions.create(
        model="small", messages=TALK, max_tokens=60, seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
    )  # fmt: skip
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content)["ok"], bool)
    else:
        assert answer.choices[0].message.content.startswith("{")
    with pytest.raises(openai.BadRequestError, match="no grammar"):
        client.chat.completions.create(
            model="small", messages=TALK,
            response_format={"type": "json_schema",
                             "json_schema": {"name": "s", "schema": {"type": "goose"}}},
        )  # fmt: skip


def test_a_job_tells_what_it_cut(run_server, tokenizer):
    judge = made(tokenizer, job="classify", head=Labels(names=("good", "bad")))
    server = run_server({"small": LocalBackend(Desk(judge))})
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": "small", "input": ["fine", "so long " * 300]}
    answer = httpx.post(f"{server.url}/v1/classify", json=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "input[1]")
    assert "truncate: true" in error["message"]
    short = httpx.post(
        f"{server.url}/v1/classify", json={"input": "so long " * 50}, headers=headers
    )
    assert re.search(r"got \d+; ask", short.json()["error"]["message"])
    endless = {"input": "so long " * 20_000}
    long = httpx.post(f"{server.url}/v1/classify", json=endless, headers=headers)
    assert re.search(r"got more than [\d,]+; ask", long.json()["error"]["message"])
    table = httpx.post(
        f"{server.url}/v1/classify", json=body | {"truncate": True}, headers=headers
    ).json()
    assert [row.get("truncated") for row in table["data"]] == [None, True]
    read = len(tokenizer.encode("fine")) + judge.frame.room
    assert table["usage"] == {"prompt_tokens": read, "total_tokens": read}


def test_embeddings_in_both_forms(client, server):
    found = client.embeddings.create(model="small", input=["Ivan", "Anna"])  # base64 by itself
    plain = client.embeddings.create(model="small", input=["Ivan", "Anna"], encoding_format="float")
    assert [len(each.embedding) for each in found.data] == [32, 32]
    assert found.data[0].embedding == pytest.approx(plain.data[0].embedding)
    raw = httpx.post(
        f"{server.url}/v1/embeddings", headers={"authorization": f"Bearer {KEY}"},
        json={"input": "Ivan", "encoding_format": "base64"},
    ).json()["data"][0]["embedding"]  # fmt: skip
    values = struct.unpack("<32f", base64.b64decode(raw))
    assert values == pytest.approx(plain.data[0].embedding)


def test_models_are_named(client):
    assert [each.id for each in client.models.list()] == ["small"]
    assert client.models.retrieve("small").id == "small"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("large")


def test_mistakes_are_what_the_client_expects(client, server):
    with pytest.raises(openai.NotFoundError, match="there are: small"):
        client.chat.completions.create(model="large", messages=TALK)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="small", messages=TALK, temperature=9)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "word " * 500}]
        )
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(
            model="small", messages=TALK,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )  # fmt: skip
    wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.chat.completions.create(model="small", messages=TALK)


def test_too_many_are_told_to_wait(run_server, model):
    server = run_server({"small": LocalBackend(Desk(model))}, meter=Meter(20))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        client.chat.completions.create(model="small", messages=TALK, max_tokens=20)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="small", messages=TALK, max_tokens=20)
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_a_client_that_goes_stops_the_work(server, model):
    backend = server.service.backends["small"]
    body = {"messages": TALK, "stream": True, "max_tokens": 70, "n": 4}
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json=body,
        headers={"authorization": f"Bearer {KEY}"},
    ) as answer:  # fmt: skip
        next(answer.iter_lines())
    for _ in range(200):
        if backend.figures["active"] == backend.figures["waiting"] == 0:
            break
        time.sleep(0.02)
    assert backend.figures["active"] == 0


def test_a_draining_server_says_so(server):
    server.service.is_draining = True
    headers = {"authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{server.url}/readyz").status_code == 503
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", json={"messages": TALK}, headers=headers
    )
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"


def test_a_stream_is_one_event_a_line(server):
    body = {"messages": TALK, "stream": True, "max_tokens": 5, "temperature": 0}
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    for line in events[:-1]:
        assert json.loads(line.removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_the_page_is_here_alone(server):
    """No key to look at it, nothing from elsewhere, and no script but its own files."""
    page = httpx.get(f"{server.url}/")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    named = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    seen = set()
    while named:
        path = named.pop()
        if path in seen:
            continue
        seen.add(path)
        found = httpx.get(f"{server.url}{path}")
        assert found.status_code == 200 and found.headers["x-content-type-options"] == "nosniff"
        assert "http://" not in found.text.replace("http://www.w3.org", "")
        assert "https://" not in found.text
        assert "innerHTML" not in found.text and "eval(" not in found.text
        named += [f"/page/{name}" for name in re.findall(r'from "\./([\w.]+)"', found.text)]
    assert {"/page/app.js", "/page/chat.js", "/page/jobs.js", "/page/style.css"} <= seen
    assert httpx.get(f"{server.url}/page/../run.py").status_code in (401, 404)
    assert "<script>" not in page.text and "style=" not in page.text


def test_both_languages_of_the_page_say_the_same_things():
    text = (resources.files("yantai.serve") / "page" / "words.js").read_text(encoding="utf-8")
    english, chinese = text.split("  zh: {")
    keys = [set(re.findall(r"(\w+): \"", part)) for part in (english, chinese)]
    assert keys[0] == keys[1] and len(keys[0]) > 40


def test_curves_are_those_of_the_run(run_server, model, tmp_path):
    rows = [{"step": n, "loss": 5 - n / 1000, "tokens": n} for n in range(1, 5001)]
    rows.insert(1234, {"step": 1234, "valid_loss": 4.5, "seconds": 3.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = run_server({"small": LocalBackend(Desk(model))})
    server.service.logs["small"] = tmp_path / "metrics.jsonl"
    headers = {"authorization": f"Bearer {KEY}"}
    data = httpx.get(f"{server.url}/v1/models/small/curves", headers=headers).json()["data"]
    assert len(data) <= 2001 and {"step": 1234, "valid_loss": 4.5, "seconds": 3.0} in data
    assert httpx.get(f"{server.url}/v1/models/none/curves", headers=headers).status_code == 404


def test_a_conversation_goes_on_with_the_answer_as_it_came(client):
    answer = client.chat.completions.create(model="small", messages=TALK, max_tokens=5)
    said = answer.choices[0].message
    for turn in (said, said.model_dump(), said.model_dump() | {"tool_calls": []}):
        talk = [*TALK, turn, {"role": "user", "content": "More."}]
        assert client.chat.completions.create(model="small", messages=talk, max_tokens=2).id
    called = said.model_dump() | {"tool_calls": [{"id": "1"}]}
    with pytest.raises(openai.BadRequestError, match="tool_calls"):
        client.chat.completions.create(model="small", messages=[*TALK, called])


def test_whole_numbers_of_a_schema_stay_whole(client):
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}
    answer = client.chat.completions.create(
        model="small", messages=TALK, temperature=0, max_tokens=40, logit_bias={"13": -100},
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
    )  # fmt: skip
    if answer.choices[0].finish_reason == "stop":
        assert 1 <= len(json.loads(answer.choices[0].message.content)) <= 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"1000000": 1}}, "logit_bias"),
        ({"repetition_penalty": 1e-38}, "repetition_penalty"),
        ({"prompt": "a" * 3_000_000}, "prompt"),
        ({"prompt": [5] * 300_000}, "prompt"),
        ({"prompt": [5] * 150_000}, "prompt"),
    ],
)
def test_what_no_model_could_do_is_refused_at_once(server, fields, param):
    body = {"model": "small", "prompt": "One", "max_tokens": 2} | fields
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"].startswith(param)
    if fields.get("prompt") == "a" * 3_000_000:
        assert error["code"] == "context_length_exceeded" and "3,000,000" in error["message"]


def test_long_texts_are_told_before_they_are_tokens(server, model, monkeypatch):
    seen = []
    encode = type(model.tokenizer).encode_batch
    monkeypatch.setattr(
        type(model.tokenizer), "encode_batch",
        lambda self, texts: (seen.extend(map(len, texts)), encode(self, texts))[1],
    )  # fmt: skip
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": "small", "input": ["Ivan", "a b " * 500_000]}
    answer = httpx.post(f"{server.url}/v1/embeddings", json=body, headers=headers, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == "input[1]"
    most = model.network.config.max_positions * max(100, model.tokenizer.longest)
    assert seen and max(seen) <= most < 2_000_000


def test_a_template_that_refuses_a_conversation_is_a_400_with_its_line(
    run_server, tokenizer, tmp_path
):
    tokenizer.save(tmp_path)
    own = type(tokenizer).load(tmp_path)
    own.chat_template = (
        "{% for message in messages %}\n"
        "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ message.content }}{% endfor %}"
    )
    server = run_server({"small": LocalBackend(Desk(made(own)))})
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    with client, pytest.raises(openai.BadRequestError, match=r"chat_template:2.*messages\[1\]"):
        client.chat.completions.create(model="small", messages=[*TALK, *TALK])


def test_a_long_question_and_a_blank_text(run_server):
    words = Tokenizer.train(["Anna has it. who"] * 9, 300, kind="wordpiece")
    finder = made(words, "bert", job="span", head=Labels(names=("start", "end")))
    server = run_server({"small": LocalBackend(Desk(finder))})
    post = partial(httpx.post, f"{server.url}/v1/answer", timeout=60,
                   headers={"authorization": f"Bearer {KEY}"})  # fmt: skip
    blank = post(json={"input": ["   ", "Anna has it."], "question": ["Who?", "Who?"]})
    assert blank.status_code == 400 and blank.json()["error"]["param"] == "input"
    nothing = post(json={"input": ["\u200b", "Anna has it."], "question": ["Who?", "Who?"]})
    assert nothing.status_code == 200  # no letters, but no blank either
    long = {"input": "Anna has it.", "question": "who " * 3000}
    refused = post(json=long).json()["error"]
    assert refused["param"] == "question" and refused["code"] == "context_length_exceeded"
    table = post(json=long | {"truncate": True}).json()
    assert table["data"][0]["truncated"] and table["usage"]["prompt_tokens"] < 200


def test_a_text_without_end_is_not_read_piece_by_piece_either(run_server, tokenizer):
    finder = made(tokenizer, "bert", job="span", head=Labels(names=("start", "end")))
    server = run_server({"small": LocalBackend(Desk(finder))})
    body = {"model": "small", "input": "a goose " * 60_000, "question": "who?"}
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{server.url}/v1/answer", json=body, headers=headers, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == "input"


def test_a_client_that_goes_stops_its_jobs_too(run_server, model):
    backend, meter = LocalBackend(Desk(model)), Meter(1000, lambda: 0.0)
    server, jobs = run_server({"small": backend}, meter=meter), backend.desk.jobs
    steps, ended = [], threading.Event()

    def endless(texts):
        try:
            while len(steps) < 3000:
                steps.append(len(texts))
                time.sleep(0.01)
                pulse()
        finally:
            ended.set()
        return texts

    jobs._answerers["embed"] = endless
    body = {"model": "small", "input": ["Ivan"] * 100}
    headers = {"authorization": f"Bearer {KEY}"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/embeddings", json=body, headers=headers, timeout=0.5)
    assert ended.wait(20) and len(steps) < 2000
    assert meter._bucket("tester", 1000).left == 1000 - 200  # what it was about is used up
    until = time.monotonic() + 20
    while backend.figures["calls"] or jobs._open:
        assert time.monotonic() < until, "what nobody waits for is still in line"
        time.sleep(0.01)
