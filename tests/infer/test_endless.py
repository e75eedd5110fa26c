"""Schemas without end are told from those that may end."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.infer.endless import is_endless


def of(needed, **properties):
    """A table with these required."""
    return {"type": "object", "properties": properties, "required": needed}


SELF = {"$ref": "#"}
ENDLESS = {
    "itself": SELF,
    "a property of itself": of(["a"], a=SELF),
    "items of itself": {"type": "array", "items": SELF, "minItems": 1},
    "first items of itself": {"type": "array", "prefixItems": [SELF], "minItems": 1},
    "two that need each other": {
        "$ref": "#/$defs/a",
        "$defs": {"a": of(["b"], b={"$ref": "#/$defs/b"}), "b": of(["a"], a={"$ref": "#/$defs/a"})},
    },
    "no way out": of(["a"], a={"anyOf": [SELF, {"type": "array", "items": SELF, "minItems": 2}]}),
    "all of": of(["a"], a={"allOf": [{"type": "string"}, SELF]}),
    "others": {"type": "object", "required": ["x"], "additionalProperties": SELF},
    "either of two": {"type": ["object", "array"], "required": ["x"], "minItems": 1,
                      "additionalProperties": SELF, "items": SELF},
}  # fmt: skip
ENDING = {
    "a list of itself": of(["a"], a={"type": "array", "items": SELF}),
    "optional": of([], a=SELF),
    "nullable": of(["a"], a={"anyOf": [SELF, {"type": "null"}]}),
    "a type or null": {"type": ["object", "null"], "required": ["a"], "properties": {"a": SELF}},
    "a value": of(["a"], a={"enum": [1], "$ref": "#"}),
    "a tree whose leaf comes last": {
        "$ref": "#/$defs/a",
        "$defs": {
            "a": of(["x"], x={"$ref": "#/$defs/b"}),
            "b": {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/c"}]},
            "c": of(["y"], y={"type": "integer"}),
        },
    },
    "a name by its pattern": {"type": "object", "required": ["a"], "additionalProperties": SELF,
                              "patternProperties": {"^a$": {"type": "string"}}},
    "another document": {"$ref": "https://example.org/schema"},
    "a place that is not there": {"$ref": "#/$defs/none"},
    "an escaped name": {"$ref": "#/$defs/a~1b~0", "$defs": {"a/b~": {"type": "string"}}},
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_what_requires_itself_is_endless(name):
    assert is_endless(ENDLESS[name])


@pytest.mark.parametrize("name", ENDING)
def test_what_may_end_is_not(name):
    assert not is_endless(ENDING[name])


def test_many_that_need_each_other_are_no_work():
    names = [f"d{number}" for number in range(300)]
    defs = {name: of(names, **{each: {"$ref": f"#/$defs/{each}"} for each in names[:3]})
            for name in names}  # fmt: skip
    began = time.process_time()
    assert is_endless({"$ref": "#/$defs/d0", "$defs": defs})
    chain = {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(5000)}
    assert not is_endless({"$ref": "#/$defs/d0", "$defs": chain})
    assert time.process_time() - began < 5


KEYS = st.sampled_from(
    ["type", "properties", "required", "items", "minItems", "prefixItems", "anyOf", "$ref", "allOf"]
)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.sampled_from(["object", "array", "#", "a"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=20,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_table_is_judged(schema):
    assert isinstance(is_endless(json.loads(json.dumps(schema))), bool)
    assert not is_endless({"anyOf": [schema, {"type": "null"}]})  # there is a way out
