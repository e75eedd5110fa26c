"""Requests: what ordinary clients send passes, everything else is a 400 that names the field."""

import asyncio
import contextlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yantai.serve.reading import asked_of, read_request
from yantai.serve.schema import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    TaskRequest,
)

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
SHAPES = (ChatRequest, CompletionRequest, EmbeddingRequest, TaskRequest)


def read(shape=ChatRequest, **fields):
    return read_request(json.dumps(fields).encode(), shape)


def test_neutral_values_of_ordinary_clients_pass():
    request = read(
        **HELLO, model="m", top_p=1, presence_penalty=0, frequency_penalty=0.0, user="me", n=1,
        store=False, stream=True, stream_options={"include_usage": True}, tools=[], logit_bias={},
        tool_choice="auto", max_completion_tokens=20, metadata={"a": "b"}, seed=3, stop=None,
        response_format={"type": "text"}, logprobs=False,
    )  # fmt: skip
    assert (request.limit, request.stops, request.top_p) == (20, (), 1)
    assert request.messages[0].plain() == {"role": "user", "content": "Hello"}


def test_parts_of_a_message_are_joined_and_a_developer_is_the_system():
    parts = [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]
    said = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    request = read(messages=said)
    assert [each.plain()["content"] for each in request.messages] == ["Be kind.", "你好"]
    assert request.messages[0].plain()["role"] == "system"


BAD = [
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    (HELLO | {"temperature": 3}, "temperature"),
    (HELLO | {"temperature": "hot"}, "temperature"),
    (HELLO | {"temprature": 1}, "temprature"),
    (HELLO | {"n": 0}, "n"),
    (HELLO | {"n": 1_000_000}, "n"),
    (HELLO | {"n": 1.5}, "n"),
    (HELLO | {"seed": 2**63}, "seed"),
    (HELLO | {"max_tokens": -1}, "max_tokens"),
    (HELLO | {"max_tokens": 2**63}, "max_tokens"),
    (HELLO | {"stop": ["x"] * 10_000}, "stop"),
    (HELLO | {"stop": ""}, "stop"),
    (HELLO | {"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    (HELLO | {"logit_bias": {str(n): 1 for n in range(3000)}}, "logit_bias"),
    (HELLO | {"logit_bias": {"-1": 1}}, "logit_bias"),
    (HELLO | {"logit_bias": {"5": 101}}, "logit_bias"),
    (HELLO | {"tools": [{"type": "function"}]}, "tools"),
    (HELLO | {"audio": {"voice": "x"}}, "audio"),
    (HELLO | {"response_format": {"type": "xml"}}, "response_format.type"),
    (HELLO | {"response_format": {"type": "json_schema"}}, "response_format"),
    (HELLO | {"max_tokens": "5"}, "max_tokens"),
    (HELLO | {"max_tokens": True}, "max_tokens"),
    (HELLO | {"temperature": "0.5"}, "temperature"),
    (HELLO | {"stream": "true"}, "stream"),
    (HELLO | {"stream": 1}, "stream"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda each: str(each)[:60])
def test_what_is_wrong_is_named(fields, param):
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert caught.value.status == 400
    assert caught.value.param == param
    assert set(caught.value.body()["error"]) == {"message", "type", "param", "code"}


def test_a_mistyped_name_gets_a_suggestion():
    with pytest.raises(ApiError, match="did you mean 'temperature'"):
        read(**HELLO, temprature=1)


def test_two_fields_that_need_each_other():
    with pytest.raises(ApiError, match="top_logprobs needs logprobs"):
        read(**HELLO, top_logprobs=2)
    with pytest.raises(ApiError, match="stream_options needs stream"):
        read(**HELLO, stream_options={"include_usage": True})
    with pytest.raises(ApiError, match="best_of"):
        read(CompletionRequest, prompt="x", best_of=2)


@pytest.mark.parametrize("name", ["json_schema", "regex"])
def test_a_format_without_its_grammar_or_with_anothers(name):
    with pytest.raises(ApiError, match=f"type '{name}' needs {name}, which is missing"):
        read(**HELLO, response_format={"type": name})
    with pytest.raises(ApiError, match="type 'text' and regex do not go together"):
        read(**HELLO, response_format={"type": "text", "regex": "a"})


@pytest.mark.parametrize(
    "prompt", ["x", ["x", "y"], [1, 2, 3], [[1, 2], [3]]], ids=["text", "texts", "ids", "lists"]
)
def test_prompts_and_inputs_have_four_forms(prompt):
    assert read(CompletionRequest, prompt=prompt).prompt == prompt
    assert read(EmbeddingRequest, input=prompt).input == prompt


@pytest.mark.parametrize("empty", [[], [""], [[]], ""])
def test_nothing_is_no_input(empty):
    with pytest.raises(ApiError):
        read(EmbeddingRequest, input=empty)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe{}", b'{"a": NaN}', b'{"a": 1, "a": 2}',
        b'{"a": "\x00"}',
        b'{"n": 1e400, "messages": [{"role": "user", "content": "x"}]}',
        b"[" * 1000 + b"]" * 1000, b'{"a":' * 1000 + b"1" + b"}" * 1000,
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_a_body_that_is_no_request_is_a_400(body):
    for shape in SHAPES:
        with pytest.raises(ApiError) as caught:
            read_request(body, shape)
        assert caught.value.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = sorted({name for shape in SHAPES for name in shape.model_fields})


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6))
def test_any_values_of_known_fields_are_read_or_refused(table):
    body = json.dumps(table).encode()
    for shape in SHAPES:
        try:
            read_request(body, shape)
        except ApiError as error:
            assert error.status == 400 and error.message


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body):
    for shape in SHAPES:
        try:
            read_request(body, shape)
        except ApiError as error:
            assert error.status == 400 and error.message
        else:
            assert set(json.loads(body)) <= set(shape.model_fields)


def test_pictures_are_said_to_be_not_supported():
    parts = [{"type": "text", "text": "What is it?"},
             {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]  # fmt: skip
    with pytest.raises(ApiError, match="'image_url' is not supported; the model reads text") as got:
        read(messages=[{"role": "user", "content": parts}])
    assert got.value.param == "messages[0].content"


@pytest.mark.parametrize(("entries", "turns"), [(10, False), (60_000, True)])
def test_others_have_their_turn_while_a_long_body_is_read(entries, turns):
    body = json.dumps({"model": "m", "prompt": list(range(10_000, 10_000 + entries))}).encode()

    class Asked:
        async def body(self):
            return body

    async def ask():
        seen = []

        async def other():
            while True:
                seen.append(0)
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        found = await asked_of(Asked(), CompletionRequest)
        beside.cancel()
        return len(found.prompt), bool(seen)

    assert asyncio.run(ask()) == (entries, turns)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"1", None, "the body is a number, not an object"),
        (b'{"prompt": "a", "n": 1, "n": 2}', "n", "there twice"),
        (b'{"prompt": "a", "best_of": 3}', "best_of", "not supported"),
        (b'{"prompt": "a", "stream_options": {}}', "stream_options", "needs stream"),
        (b'{"prompt": "a", "suffix": "b"}', "suffix", "not supported here"),
        (b'{"prompt": "a", "promt": "b"}', "promt", "did you mean 'prompt'"),
        (b"\xff", None, "not UTF-8: byte 0xff at 1"),
        (b"\xef\xbb\xbf{}", None, "not JSON: a byte-order mark before it"),
    ],
)  # fmt: skip
def test_errors_name_the_field_and_say_what_it_is(body, param, words):
    with pytest.raises(ApiError) as refused:
        read_request(body, CompletionRequest)
    assert refused.value.param == param and words in refused.value.message


@pytest.mark.parametrize("message", [5, "x", [1]])
def test_no_name_of_ours_is_in_an_error(message):
    with pytest.raises(ApiError) as refused:
        read_request(json.dumps({"messages": [message]}).encode(), ChatRequest)
    assert refused.value.message == "messages[0]: should be an object"


PARTS = "messages[0].content"
HOUSE = [
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "mark": {}}]}]},
     f"{PARTS}[0].mark: unknown field", "unknown_parameter"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
     f"{PARTS}[0].text: is missing", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": ["x"]}]},
     f"{PARTS}[0]: should be an object", "invalid_type"),
    ({"messages": [{"role": "user", "content": 3}]},
     f"{PARTS}: should be a text or a list", "invalid_type"),
    ({"messages": [{"role": "user"}]}, f"{PARTS}: is missing", "missing_required_parameter"),
    ({"messages": []}, "messages: should have at least 1 of them", "invalid_value"),
    ({"messages": [{"role": "robot", "content": "x"}]},
     "messages[0].role: should be 'system', 'developer', 'user' or 'assistant'", "invalid_value"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]},
     "messages[0].tool_calls: is not supported here", "invalid_value"),
    (HELLO | {"n": 1.5}, "n: should be a whole number", "invalid_type"),
    (HELLO | {"n": 0}, "n: should be at least 1", "invalid_value"),
    (HELLO | {"top_p": 0}, "top_p: should be more than 0", "invalid_value"),
    (HELLO | {"temperature": 3}, "temperature: should be at most 2", "invalid_value"),
    (HELLO | {"stop": [5]}, "stop[0]: should be a text", "invalid_type"),
    (HELLO | {"stop": 5}, "stop: should be a text or a list", "invalid_type"),
    (HELLO | {"stream": 1}, "stream: should be true or false", "invalid_type"),
    (HELLO | {"logit_bias": {"{x}": 1}}, "logit_bias: '{x}' is no token id", "invalid_value"),
    (HELLO | {"seed": 2**63}, f"seed: should be less than {2**63}", "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message", "code"), HOUSE, ids=lambda each: str(each)[:60])
def test_what_is_wrong_is_said_in_words_of_this_house(fields, message, code):
    with pytest.raises(ApiError) as refused:
        read(**fields)
    assert (refused.value.message, refused.value.code) == (message, code)


@pytest.mark.parametrize("inside", [False, True])
def test_a_name_of_any_length_comes_back_cut(inside):
    odd = {"x" * 100_000: 1}
    fields = {"messages": [HELLO["messages"][0] | odd]} if inside else HELLO | odd
    with pytest.raises(ApiError) as refused:
        read(**fields)
    assert len(refused.value.param) <= 200 and len(refused.value.message) <= 220


@given(st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)), JSON, max_size=3))
def test_no_words_of_pydantic_come_out(table):
    with contextlib.suppress(ApiError):
        try:
            read_request(json.dumps(HELLO | table).encode(), ChatRequest)
        except ApiError as error:
            assert not re.search(r"Input|valid|Field|after validation", error.message)
            raise
