"""What comes out keeps to its grammar, whatever a model would say; hostile ones are refused."""

import json
import re
import time

import pytest
import torch

from yantai.base.errors import DataError
from yantai.infer.row import Row
from yantai.infer.settings import Generation

grammar = pytest.importorskip("yantai.infer.grammar", exc_type=ImportError)

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "kind": {"enum": ["baker", "面包师"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def grammars(tokenizer):
    return grammar.Grammars(tokenizer, frozenset({tokenizer.eos_id}))


def said(tokenizer, guide, seed, limit=200):
    """A text drawn from noise within the grammar, and why it ended."""
    row = Row([5], Generation(max_new_tokens=limit, temperature=1.0, seed=seed),
              frozenset({tokenizer.eos_id}), guide=guide)  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    while not row.ended:
        row.choose(torch.randn(tokenizer.vocab_size, generator=generator))
    return tokenizer.decode(row.ids[1:]), row.ended


@pytest.mark.parametrize("seed", range(6))
def test_noise_within_a_schema_is_json_of_that_schema(grammars, tokenizer, seed):
    text, ended = said(tokenizer, grammars.guide("json_schema", SCHEMA), seed)
    assert ended == "stop"
    table = json.loads(text)
    assert set(table) == {"name", "age", "kind"} and len(table["name"]) <= 12
    assert 0 <= table["age"] <= 130 and table["kind"] in ("baker", "面包师")


@pytest.mark.parametrize("pattern", ["[a-c]{3}-[0-9]+", "(yes|no|也许)", "伊凡.{2}"])
def test_noise_within_an_expression_matches_it(grammars, tokenizer, pattern):
    for seed in range(4):
        text, ended = said(tokenizer, grammars.guide("regex", pattern), seed, limit=60)
        if ended == "stop":
            assert re.fullmatch(pattern, text)


def test_a_grammar_is_made_once_and_walked_by_each_alone(grammars, tokenizer):
    first, second = (grammars.guide("regex", "(ab|cd)+") for _ in range(2))
    one, _ = said(tokenizer, first, 1, limit=20)
    other, _ = said(tokenizer, second, 1, limit=20)
    assert one == other
    assert len(grammars._made) <= grammar.KEPT
    for number in range(grammar.KEPT + 5):
        grammars.guide("regex", f"x{number}")
    assert len(grammars._made) == grammar.KEPT


BAD = {
    "an open bracket": ("regex", "(((a"),
    "nothing to repeat": ("regex", "foo**("),
    "nested parens": ("regex", "(" * 60_000 + ")" * 60_000),
    "a huge count": ("regex", "(a{0,1000000}){0,1000000}"),
    "a cycle": ("json_schema", {"$ref": "#"}),
    "an unknown type": ("json_schema", {"type": "goose"}),
    "a large schema": ("json_schema", {"enum": [str(n) * 20 for n in range(10_000)]}),
    "deep": ("json_schema", json.loads('{"items":' * 200 + "{}" + "}" * 200)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_grammar_is_refused_or_made_in_time(grammars, name):
    began = time.process_time()
    try:
        guide = grammars.guide(*BAD[name])
        guide.allowed(torch.zeros(100))
    except DataError as error:
        assert "response_format" in str(error) and len(str(error)) < 500
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
        ("json_schema", {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        ("regex", r"[^\s\S]"),
        ("regex", "(a{1000}){1000}"),
    ],
)
def test_what_nothing_satisfies_or_fails_later_is_refused_at_once(grammars, kind, text):
    with pytest.raises(DataError, match="no grammar"):
        grammars.guide(kind, text)


def test_the_empty_text_satisfies_an_empty_expression(grammars, tokenizer):
    assert said(tokenizer, grammars.guide("regex", ""), seed=0)[0] == ""


@pytest.mark.parametrize("space", ["\n", " ", "\t"])
def test_a_model_that_loves_spaces_comes_to_an_end(grammars, tokenizer, space):
    loved = set(tokenizer.encode(space))
    guide, ids = grammars.guide("json_schema", SCHEMA), []
    logits = torch.zeros(tokenizer.vocab_size)
    logits[list(loved)] = 50.0
    for id in tokenizer.encode("\n" * 8) + tokenizer.encode("  " * 8):
        logits[id] = 40.0  # runs of them, too
    for _ in range(300):
        ids.append(int(guide.allowed(logits).argmax()))
        if guide.take(ids[-1]):
            break
    assert set(json.loads(tokenizer.decode(ids))) == {"name", "age", "kind"}
