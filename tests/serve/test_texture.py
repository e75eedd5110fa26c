"""Counts of what a body holds, before it is parsed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yantai.serve import texture
from yantai.serve.reading import read_request
from yantai.serve.schema import ApiError, ChatRequest, CompletionRequest
from yantai.serve.texture import too_many

HEAVY = {
    "empty lists": b'{"prompt":[' + b",".join([b"[]"] * 300_000) + b"]}",
    "unknown keys": json.dumps({f"k{number}": 1 for number in range(60_000)}).encode(),
    "parts": json.dumps({"messages": [{"content": [{"text": "a"}] * 60_000}]}).encode(),
    "numbers": json.dumps({"prompt": list(range(500_000))}).encode(),
    "only quotes": b'"' * 4_000_000,
    "brackets": b"[" * 4_000_000,
}


@pytest.mark.parametrize("name", HEAVY)
def test_what_no_client_needs_is_refused_unparsed(name, monkeypatch):
    monkeypatch.setattr("yantai.serve.reading.parse_object", None)
    with pytest.raises(ApiError, match="more than") as refused:
        read_request(HEAVY[name], CompletionRequest)
    assert refused.value.status == 400


def test_large_texts_and_long_conversations_pass():
    text = 'one, [two] {three}: "four" \\ 五 ' * 50_000
    assert read_request(json.dumps({"prompt": text}).encode(), CompletionRequest).prompt == text
    plain = json.dumps({"prompt": text}, ensure_ascii=False).encode()
    assert read_request(plain, CompletionRequest).prompt == text
    talk = {"messages": [{"role": "user", "content": "a"}] * 4096}
    assert len(read_request(json.dumps(talk).encode(), ChatRequest).messages) == 4096
    ids = {"prompt": list(range(200_000))}
    assert read_request(json.dumps(ids).encode(), CompletionRequest).prompt[-1] == 199_999


VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\[]{},:墨', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=30,
)


@given(VALUES)
def test_the_counts_are_those_of_the_values(value):
    lists = strings = 0
    left = [value]
    while left:
        each = left.pop()
        lists += isinstance(each, list | dict)
        strings += isinstance(each, str) + (len(each) if isinstance(each, dict) else 0)
        left += each.values() if isinstance(each, dict) else each if isinstance(each, list) else []
    body = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texture, "MOST_LISTS", lists)
        patch.setattr(texture, "MOST_STRINGS", strings)
        assert too_many(body) is None
        if lists and len(body) > lists:
            patch.setattr(texture, "MOST_LISTS", lists - 1)
            assert "lists" in str(too_many(body))
