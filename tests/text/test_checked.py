"""Hostile tokenizers: each is one error that names the field, before the library sees the file."""

import copy
import json

import pytest

from yantai.base.errors import ModelFileError
from yantai.text.checked import check_tokenizer
from yantai.text.tokenizer import Tokenizer
from yantai.text.village import Village

STORIES = [row["text"] for row in Village(seed=2).documents(100)]
GOOD = json.loads(Tokenizer.train(STORIES, 400).to_json())
UNIGRAM = json.loads(Tokenizer.train(STORIES, 1500, "unigram").to_json())


def without(change, table=GOOD):
    table = copy.deepcopy(table)
    change(table)
    return table


def put(path, value):
    def change(table):
        *inner, last = path
        for key in inner:
            table = table[key]
        table[last] = value

    return change


SPLIT = ("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex")
HOSTILE = {
    "model: a list": (put(["model"], []), "model"),
    "model: no such kind": (put(["model", "type"], "Neural"), "model.type"),
    "vocab: a text": (put(["model", "vocab"], "abc"), "model.vocab"),
    "an id of 10^12": (put(["model", "vocab", "a"], 10**12), "model.vocab.'a'"),
    "a negative id": (put(["model", "vocab", "a"], -1), "model.vocab.'a'"),
    "an id that is a float": (put(["model", "vocab", "a"], 1.5), "model.vocab.'a'"),
    "an id that is true": (put(["model", "vocab", "a"], True), "model.vocab.'a'"),
    "two entries with one id": (put(["model", "vocab", "a"], 7), "has the id of"),
    "a merge of nothing known": (put(["model", "merges"], [["a", "\u4e00\u4e01"]]), "not a token"),
    "a merge of one": (put(["model", "merges"], [["a"]]), "not a tokenizer"),
    "added: a table": (put(["added_tokens"], {}), "added_tokens"),
    "added: an id that another has": (put(["added_tokens", 0, "id"], 300), "added_tokens[0].id"),
    "added: no content": (put(["added_tokens", 0, "content"], None), "added_tokens[0]"),
    "a slow expression": (put(SPLIT, "(a+)+$"), "pre_tokenizer.pretokenizers[0].pattern.Regex"),
    "a slow normaliser": (
        put(["normalizer"], {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}),
        "normalizer.pattern.Regex",
    ),
    "an expression that is a number": (put(SPLIT, 3), "Regex"),
    "text that doubles forty times": (
        put(
            ["normalizer"],
            {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}]
                * 40,
            },
        ),
        "normalizer: replacements",
    ),
    "text between all characters": (
        put(["normalizer"], {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 99}),
        "normalizer: replacements",
    ),
    "round a text, an id that its token has not": (
        put(["post_processor", "special_tokens", "<|bos|>", "ids"], [999_999]),
        "post_processor",
    ),
    "round a text, tokens that are a number": (
        put(["post_processor", "special_tokens", "<|bos|>", "tokens"], 1e308),
        "post_processor",
    ),
    "round a text, tokens nobody describes": (
        put(["post_processor", "special_tokens"], {}),
        "post_processor.special_tokens",
    ),
    "round a text, descriptions that are a text": (
        put(["post_processor", "special_tokens"], "<|bos|>"),
        "post_processor.special_tokens",
    ),
    "an unknown token that is a list": (put(["model", "unk_token"], [[]]), "model.unk_token"),
    "an unknown token that is unknown": (
        put(["model", "unk_token"], "<nothing>"),
        "model.unk_token",
    ),
    "no such decoder": (put(["decoder"], {"type": "Nothing"}), "not a tokenizer"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_with_the_field(name, tmp_path):
    change, said = HOSTILE[name]
    (tmp_path / "tokenizer.json").write_text(json.dumps(without(change)), encoding="utf-8")
    with pytest.raises(ModelFileError) as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.code == "E405"
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"model": ' + b"[" * 200_000, b'{"model": 3}', b"null"],
    ids=range(7),
)
def test_what_is_no_table_is_refused(content):
    with pytest.raises(ModelFileError):
        check_tokenizer(content, "tokenizer.json")


@pytest.mark.parametrize("score", [float("nan"), float("inf"), "1", None])
def test_scores_must_be_numbers(score):
    table = without(put(["model", "vocab", 9, 1], score), UNIGRAM)
    with pytest.raises(ModelFileError, match=r"model.vocab\[9\]"):
        check_tokenizer(json.dumps(table).encode(), "tokenizer.json")


@pytest.mark.parametrize("id", [None, -1, 10**6, "0"])
def test_pieces_need_an_id_for_what_is_unknown(id):
    table = without(put(["model", "unk_id"], id), UNIGRAM)
    with pytest.raises(ModelFileError, match=r"model.unk_id"):
        check_tokenizer(json.dumps(table).encode(), "tokenizer.json")


def test_settings_that_hold_half_a_character_are_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(GOOD), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "\ud800"}))
    with pytest.raises(ModelFileError, match=r"tokenizer_config.json: .*UTF-8"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece", "characters"])
def test_what_we_write_passes(kind):
    made = Tokenizer.train(STORIES, 1500, kind)
    check_tokenizer(made.to_json().encode(), "tokenizer.json")


@pytest.mark.parametrize("depth", [300, 900, 5_000])
def test_parts_inside_parts_end_in_an_answer(depth):
    good = json.dumps(without(put(["normalizer"], "HERE")))
    inner = '{"type": "Sequence", "normalizers": [' * depth + "]}" * depth
    content = good.replace('"HERE"', inner).encode()
    try:
        check_tokenizer(content, "tokenizer.json")
    except ModelFileError as error:
        assert depth > 300 and error.code == "E405"


def test_a_hole_in_the_ids_counts_as_rows(tmp_path):
    table = without(put(["model", "vocab", "a"], 5_000))
    (tmp_path / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    assert Tokenizer.load(tmp_path).vocab_size == 5_001


@pytest.mark.parametrize("text", ["a" * 300_000, " " * 300_000, "1" * 300_000, "天" * 100_000,
                                  "e\u0301" * 100_000, "\n" * 300_000])  # fmt: skip
def test_long_runs_of_one_thing_come_back(text, tmp_path):
    tokenizer = Tokenizer.train(STORIES, 400)
    assert tokenizer.decode(tokenizer.encode(text)) == text
