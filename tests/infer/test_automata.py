"""Schemas as the library keeps them: no text gets through that its bounds forbid."""

import pytest

from yantai.base.errors import DataError

automata = pytest.importorskip("yantai.infer.automata", exc_type=ImportError)


@pytest.fixture(scope="module")
def accepts(tokenizer):
    ends = [tokenizer.eos_id]
    tokens = automata.vocabulary(tokenizer.to_json(), tokenizer.vocab_size, ends)

    def run(schema, text):
        walk = automata.automaton(tokens, ends, "json_schema", schema)
        return all(walk.consume_token(id) for id in tokenizer.encode(text)) and walk.is_accepting()

    return run


@pytest.mark.parametrize(
    ("schema", "texts", "others"),
    [
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
         ("0", "-5", "9007199254740991"), ("9007199254740992", "-9223372036854775807")),
        ({"type": "number", "minimum": -1e300, "maximum": 0}, ("-3.5", "0"), ("0.5",)),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 1e-5, "type": "number"},
         ("0.000005",), ("0", "0.00001", "-0")),
        ({"exclusiveMinimum": 0, "maximum": 0.5, "type": "number"}, ("0.5", "0.001"), ("0",)),
        ({"exclusiveMaximum": 0, "minimum": -0.5, "type": "number"}, ("-0.5",), ("-0", "0")),
        ({"exclusiveMinimum": 0, "maximum": 5, "type": "number"}, ("0.25", "5"), ("0", "6")),
        ({"items": {"type": "integer", "maximum": 1e30}}, ("[7]",), ("[9007199254740993]",)),
        ({"properties": {"default": {"type": "integer", "maximum": 1e30}}, "type": "object"},
         ('{"default": 3}',), ('{"default": 9007199254740993}',)),
        ({"properties": {"minimum": {"type": "integer", "minimum": -1e30}}, "type": "object"},
         ('{"minimum": 3}',), ('{"minimum": "a"}',)),
    ],
)  # fmt: skip
def test_what_lies_within_bounds_is_accepted_and_nothing_else(accepts, schema, texts, others):
    assert [accepts(schema, text) for text in texts] == [True] * len(texts)
    assert [accepts(schema, text) for text in others] == [False] * len(others)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 1e30, "maximum": 1e31},
        {"type": "integer", "minimum": -(2**63), "maximum": -(2**63) + 1},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-12},
        {"anyOf": [{"type": "integer"}, {"type": "integer", "exclusiveMinimum": 1e17}]},
    ],
)
def test_bounds_that_cannot_be_kept_are_refused(schema):
    with pytest.raises(DataError, match="no grammar"):
        automata.bounded(schema)


def test_a_bound_that_may_be_kept_stays_as_it_is():
    schema = {"type": "integer", "minimum": 0, "maximum": 130, "enum": [2**60]}
    assert automata.bounded(schema) == schema


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("regex", "(((a", "unclosed group, at character 3, '('"),
        ("regex", "面{3,1}包", "the start must be <= the end, at character 2, '{3,1}'"),
        ("regex", "x" * 500 + "[z-a]", "the start must be <= the end, at character 502, 'z-a'"),
        ("json_schema", {"pattern": "a("}, "unclosed group, at character 2, '('"),
        ("json_schema", {"type": "goose"}, "no grammar: Invalid type: goose"),
    ],
)
def test_what_is_wrong_with_a_grammar_is_said_in_one_line(tokenizer, kind, text, said):
    ends = [tokenizer.eos_id]
    tokens = automata.vocabulary(tokenizer.to_json(), tokenizer.vocab_size, ends)
    with pytest.raises(DataError) as caught:
        automata.automaton(tokens, ends, kind, text)
    assert str(caught.value).endswith(said) and len(str(caught.value)) < 400
