"""GPT-2's and BERT's vocabularies: the expected ids are those that come with the real ones."""

import json

import pytest

from yantai.base.errors import ModelFileError
from yantai.text.classic import END
from yantai.text.tokenizer import Tokenizer

BYTES = Tokenizer.train(["plain"], 261).bytes_of_ids
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "天", "气", ",", "a"]


def gpt2_files(folder):
    made = Tokenizer.train(["the cat and the cats"] * 9, 280)
    letters = [made.token(id) for id in range(5, 261)]
    merges = [["t", "h"], ["th", "e"], ["c", "a"], ["ca", "t"], ["Ġ", "cat"]]
    names = [*letters, *("".join(pair) for pair in merges), END]
    vocabulary = {name: id for id, name in enumerate(names)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return vocabulary


def test_two_files_are_gpt2s(tmp_path):
    vocabulary = gpt2_files(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert [tokenizer.token(id) for id in tokenizer.encode("the cats")] == ["the", "Ġcat", "s"]
    assert tokenizer.eos_id == tokenizer.bos_id == vocabulary[END]
    assert tokenizer.decode(tokenizer.encode("天 the <|endoftext|>")) == "天 the <|endoftext|>"
    assert vocabulary[END] not in tokenizer.encode(END)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("vocab.json", "[1]", "ids"),
        ("vocab.json", "{", "JSON"),
        ("vocab.json", '{"a": 1}', "ids"),
        ("vocab.json", '{"a": 0, "b": 0}', "ids"),
        ("merges.txt", "#version: 0.2\nt h\nq q q", "merges.txt:3"),
        ("merges.txt", "t zz", "merges.txt:1"),
        ("merges.txt", b"\xff", "byte 0"),
        ("tokenizer_config.json", "[]", "table"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, said):
    gpt2_files(tmp_path)
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelFileError, match=said):
        Tokenizer.load(tmp_path)


def test_one_file_is_berts(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    ids = tokenizer.prompt("The CATS, 天气!")
    assert [tokenizer.token(id) for id in ids] == [
        "[CLS]", "the", "cat", "##s", ",", "天", "气", "[UNK]", "[SEP]",
    ]  # fmt: skip
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id, tokenizer.pad_id) == (2, 3, 4, 0)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = Tokenizer.load(tmp_path)
    assert cased.encode("CATS") == [1] and cased.encode("cats") == [6, 7]


@pytest.mark.parametrize(
    ("names", "said"), [(BERT[1:], "special"), ([*BERT, "cat"], "'cat' stands twice")]
)
def test_a_damaged_list_is_named(tmp_path, names, said):
    (tmp_path / "vocab.txt").write_text("\n".join(names), encoding="utf-8")
    with pytest.raises(ModelFileError, match=said):
        Tokenizer.load(tmp_path)


def expected_ids(path):
    return [
        [int(id) for id in line.split(",") if id.strip()]
        for line in path.read_text(encoding="utf-8").split("\n")
    ]


def lines_of(path):
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line.replace("\\n", "\n").replace("\\s", " ") for line in lines]


@pytest.mark.parametrize("name", ["gpt2", "bert_base_cased"])
def test_real_vocabularies_give_the_ids_that_are_known(data, tmp_path, name):
    kit = data / "tok_reference" / "kitoken"
    source = kit / "models" / "tokenizers" / f"{name}.json"
    (tmp_path / "tokenizer.json").write_bytes(source.read_bytes())
    tokenizer = Tokenizer.load(tmp_path)
    lines = lines_of(kit / "data" / "small_input.txt")
    expected = expected_ids(kit / "data" / "tokenizers" / f"small_tokens_{name}.txt")
    compared = 0
    for line, ids in zip(lines, expected, strict=False):
        if any(token in line for token in tokenizer.control):
            continue  # there, a control token's name in a text is that token; here it is text
        assert tokenizer.encode(line) == ids, line
        compared += 1
    assert compared >= 20


def test_gpt2s_two_files_are_its_tokenizer_json(data, tmp_path):
    reference = data / "tok_reference"
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((reference / "gpt2" / name).read_bytes())
    old = Tokenizer.load(tmp_path)
    whole = tmp_path / "whole"
    whole.mkdir()
    source = reference / "kitoken" / "models" / "tokenizers" / "gpt2.json"
    (whole / "tokenizer.json").write_bytes(source.read_bytes())
    new = Tokenizer.load(whole)
    for name in ("mixed_input.txt", "utf8_input.txt", "small_input.txt"):
        text = (reference / "kitoken" / "data" / name).read_text(encoding="utf-8")
        assert old.encode(text) == new.encode(text)


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("uncased", "Unaffable Ångström!", ["una", "##ffa", "##ble", "angstrom", "!"]),
        ("chinese", "北京的天气 is nice", ["北", "京", "的", "天", "气", "is", "nice"]),
    ],
)
def test_real_berts_lists_are_read(data, tmp_path, name, text, pieces):
    source = data / "tok_reference" / "bert" / f"bert-base-{name}-vocab.txt"
    (tmp_path / "vocab.txt").write_bytes(source.read_bytes())
    tokenizer = Tokenizer.load(tmp_path)
    found = [tokenizer.token(id) for id in tokenizer.encode(text)]
    assert "".join(found).replace("##", "") == "".join(pieces).replace("##", "")
    assert tokenizer.token(tokenizer.mask_id) == "[MASK]"
    from transformers import BertTokenizer

    reference = BertTokenizer(str(tmp_path / "vocab.txt"))
    assert reference(text).input_ids == tokenizer.prompt(text)
