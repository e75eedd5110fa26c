"""Files of llama.cpp: what is written is read back, by its library too; hostile ones are not."""

import json
import random
import struct

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

import yantai
from yantai.base.errors import ModelFileError, UsageError
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.core.position import rotary_angles
from yantai.families import gguf as writer
from yantai.families.gguf import read_gguf, write_gguf
from yantai.families.gguf_file import read_gguf_file
from yantai.families.rules import Fixed
from yantai.families.table import family_named
from yantai.text.tokenizer import Tokenizer
from yantai.text.village import Village

library = pytest.importorskip("gguf", reason="gguf is not installed")

TEXTS = [
    "", "One  two\n\n three\t12345 67", "砚台，墨水。", "don't I'LL Ünïcode 👩🏽‍🔬",
    "<|im_end|> <|im_start|>user", "\u00a0\u3000 \r\n x", "a" * 50, "½ ²³ ७८९ ⅷ",
]  # fmt: skip
KINDS = ("llama", "mistral", "qwen2", "qwen3", "gpt2")


def model_of(name, tokenizer, **changes):
    """A small one of a family, whose tensors are all different."""
    family = family_named(name)
    fixed = {row.ours: row.value for row in family.config if isinstance(row, Fixed)}
    own = {"activation": "gelu_tanh"} if name == "gpt2" else {"kv_heads": 1}
    config = ModelConfig(**family.fixed() | {
        "vocab_size": tokenizer.vocab_size + 3, "dim": 64, "layers": 2, "heads": 2, "kv_heads": 2,
        "head_dim": 32, "hidden": 96, "max_positions": 128, "activation": "silu",
    } | own | fixed | changes)  # fmt: skip
    core = build(config, seed=1, table="gpt2")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return core.eval(), family


@pytest.fixture
def written(tokenizer, tmp_path):
    def write(name="llama", kind="F32", own=None, **changes):
        core, family = model_of(name, own or tokenizer, **changes)
        write_gguf(tmp_path / "m.gguf", core, family, own or tokenizer, kind)
        return core, tmp_path / "m.gguf"

    return write


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_the_model_again(written, tokenizer, name, tied):
    core, path = written(name, tied=tied)
    again, family, own = read_gguf(path)
    ids = torch.randint(tokenizer.vocab_size, (1, 100))
    with torch.inference_mode():
        assert torch.equal(again(ids), core(ids))
    assert family.name == {"mistral": "llama"}.get(name, name)
    assert [own.prompt(text) for text in TEXTS] == [tokenizer.prompt(text) for text in TEXTS]
    assert (own.bos_id, own.eos_id, own.pad_id) == (
        tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id,
    )  # fmt: skip
    assert own.control == tokenizer.control and own.chat_template == tokenizer.chat_template
    assert own.decode([*range(300, 400)]) == tokenizer.decode([*range(300, 400)])


def test_the_door_opens_it(written, tokenizer):
    core, path = written("qwen3")
    model = yantai.load(path)
    assert model.eos_ids == {tokenizer.eos_id}
    assert isinstance(model.generate("One", max_new_tokens=3), str)
    with torch.inference_mode():
        ids = [[5, 6, 7]]
        assert torch.equal(model.logits(ids), core(torch.tensor(ids)))


@pytest.mark.parametrize(
    ("kind", "near"), [("F16", 2e-3), ("BF16", 2e-2), ("Q8_0", 4e-2), ("Q4_0", 0.4)]
)
def test_fewer_bits_are_what_their_library_makes_of_them(written, kind, near):
    core, path = written("qwen3", kind, tied=False)
    theirs = {each.name: each for each in library.GGUFReader(path).tensors}
    _, stored = read_gguf_file(path)
    assert {*stored} == {*theirs}
    for name, each in stored.items():
        mine = writer._unpacked(each).float().numpy()
        other = library.quants.dequantize(theirs[name].data, theirs[name].tensor_type)
        np.testing.assert_array_equal(mine, other.reshape(mine.shape))
        if mine.ndim == 1:
            assert each.kind == "F32"
    assert stored["output.weight"].kind == ("Q8_0" if kind == "Q4_0" else kind)
    ids = torch.randint(500, (1, 60))
    again = read_gguf(path, dtype=torch.float32)[0]
    with torch.inference_mode():
        then, now = core(ids), again(ids)
    assert 0 < float((then - now).pow(2).mean() / then.pow(2).mean()) ** 0.5 < near


def test_entries_are_what_their_library_reads(written, tokenizer):
    core, path = written("mistral", window=48)
    fields = library.GGUFReader(path).fields

    def entry(name):
        return fields[name].contents()

    assert entry("general.architecture") == "llama"
    assert entry("llama.context_length") == 48  # as far as it sees alike
    assert entry("llama.attention.head_count_kv") == 1
    assert entry("tokenizer.ggml.pre") == "qwen2" and entry("tokenizer.ggml.model") == "gpt2"
    tokens = entry("tokenizer.ggml.tokens")
    assert len(tokens) == core.config.vocab_size and tokens[-1].startswith("[PAD")
    kinds = entry("tokenizer.ggml.token_type")
    assert [kinds[id] for id in tokenizer.control.values()] == [3] * len(tokenizer.control)
    assert kinds[-3:] == [5, 5, 5]
    assert entry("tokenizer.ggml.add_bos_token") is True
    assert entry("tokenizer.chat_template") == tokenizer.chat_template


def test_llama_3_divides_its_frequencies(written):
    scaling = {"kind": "llama3", "factor": 8.0, "original_positions": 64, "slow": 1.0, "fast": 4.0}
    core, path = written("llama", rotary_scaling=scaling, max_positions=512)
    factors = library.GGUFReader(path).tensors
    found = next(each.data for each in factors if each.name == "rope_freqs.weight")
    places = torch.ones(1, 1, dtype=torch.long)
    plain = core.config.model_copy(update={"rotary_scaling": None})
    angles = [torch.atan2(*reversed(rotary_angles(places, config, torch.float64, 512)[:2]))
              for config in (core.config, plain)]  # fmt: skip
    ratio = (angles[1] / angles[0]).flatten()[: len(found)]
    np.testing.assert_allclose(found, ratio.numpy(), rtol=1e-4)
    with pytest.raises(ModelFileError, match="rope_freqs"):
        read_gguf(path)


def test_linear_scaling_comes_back(written):
    scaling = {"kind": "linear", "factor": 4.0, "original_positions": 32}
    core, path = written("qwen2", rotary_scaling=scaling)
    ids = torch.randint(500, (1, 100))
    with torch.inference_mode():
        assert torch.equal(read_gguf(path)[0](ids), core(ids))


def test_what_llama_cpp_would_compute_otherwise_is_refused(written, tokenizer, tmp_path):
    yarn = {"kind": "yarn", "factor": 4.0, "original_positions": 32}
    with pytest.raises(UsageError, match="rotary_scaling"):
        written("llama", rotary_scaling=yarn)
    with pytest.raises(UsageError, match="activation"):
        written("gpt2", activation="gelu")
    with pytest.raises(UsageError, match="cannot be a GGUF file"):
        written("bert", vocab_size=10)
    rows = [row["text"] for row in Village(seed=3).documents(200)]
    for kind in ("unigram", "wordpiece", "characters"):
        other = Tokenizer.train(rows, 1600, kind)
        with pytest.raises(UsageError, match="other ids"):
            written("llama", own=other)
    table = json.loads(tokenizer.to_json())
    for key, value in (
        ("normalizer", {"type": "NFC"}),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True,
                           "trim_offsets": True}),
    ):  # fmt: skip
        changed = Tokenizer(Backend.from_str(json.dumps(table | {key: value})))
        with pytest.raises(UsageError, match=key):
            written("llama", own=changed)
    assert not (tmp_path / "m.gguf").exists()


def test_the_tokenizer_of_gpt2(written):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = {piece: id for id, piece in enumerate([*letters, "Ġt", "he", "Ġthe"])}
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
    backend = Backend(models.BPE(spelled, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    own = Tokenizer(backend, {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"})
    _, path = written("gpt2", own=own)
    again = read_gguf(path)[2]
    assert read_gguf_file(path)[0]["tokenizer.ggml.pre"] == "gpt-2"
    assert [again.prompt(text) for text in TEXTS] == [own.prompt(text) for text in TEXTS]
    assert 258 in own.encode("in the end")


def test_a_vocabulary_of_sentencepiece_is_called_what_it_is(written):
    backend = Backend(models.BPE({"<unk>": 0, "▁": 1, "a": 2}, [], unk_token="<unk>",
                                 byte_fallback=True))  # fmt: skip
    with pytest.raises(UsageError, match="got BPE with byte fallback, as SentencePiece has it"):
        written("llama", own=Tokenizer(backend))


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_head_that_is_turned_in_part_is_refused(written, monkeypatch, name):
    facts = writer._facts
    key = f"{name}.rope.dimension_count"
    monkeypatch.setattr(writer, "_facts", lambda *given: facts(*given) | {key: 16})
    with pytest.raises(ModelFileError, match=f"{key}: .*expected 32, got 16") as caught:
        read_gguf(written(name)[1])
    assert caught.value.code == "E401"


def test_a_write_that_fails_leaves_nothing(written, tmp_path, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(yantai.YantaiError, match="space"):
        written()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- hostile files


def text(value):
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def a_file(keys=b"", tensors=b"", count=(0, 0), version=3, magic=b"GGUF", rest=b"\0" * 256):
    head = magic + struct.pack("<IQQ", version, *count)
    return head + keys + tensors + rest


def entry(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def tensor(name="t", shape=(32,), kind=0, offset=0):
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


ONE = entry("general.alignment", 4, struct.pack("<I", 32))
HOSTILE = {
    "empty": b"",
    "magic": a_file(magic=b"GGML"),
    "version 1": a_file(version=1),
    "version of the other end": a_file(version=3 << 24),
    "2^63 tensors": a_file(count=(1 << 63, 0)),
    "2^63 entries": a_file(count=(0, 1 << 63)),
    "43 bytes that hang": a_file(
        entry("a", 9, struct.pack("<IQ", 9, 1 << 61)), count=(0, 1), rest=b""
    ),
    "nested arrays": a_file(
        entry("a", 9, struct.pack("<IQIQ", 9, 1, 9, 1) * 9), count=(0, 1)
    ),
    "a long array": a_file(entry("a", 9, struct.pack("<IQ", 4, 1 << 40)), count=(0, 1)),
    "many texts": a_file(entry("a", 9, struct.pack("<IQ", 8, 1 << 22)), count=(0, 1)),
    "a long text": a_file(text("a") + struct.pack("<IQ", 8, 1 << 62), count=(0, 1)),
    "no UTF-8": a_file(entry("a", 8, text(b"\xff\xfe")), count=(0, 1)),
    "a type of nothing": a_file(entry("a", 13, b"\0" * 8), count=(0, 1)),
    "an entry twice": a_file(ONE + ONE, count=(0, 2)),
    "a tensor twice": a_file(ONE, tensor() + tensor(offset=128), count=(2, 1)),
    "tensors in each other": a_file(
        ONE, tensor("a") + tensor("b", offset=32), count=(2, 1), rest=b"\0" * 999
    ),
    "rank 0": a_file(tensors=tensor(shape=()), count=(1, 0)),
    "rank 5": a_file(tensors=tensor(shape=(2,) * 5), count=(1, 0)),
    "a size of 0": a_file(tensors=tensor(shape=(0,)), count=(1, 0)),
    "a product of 2^64": a_file(tensors=tensor(shape=(1 << 32, 1 << 32)), count=(1, 0)),
    "a kind of nothing": a_file(tensors=tensor(kind=99), count=(1, 0)),
    "half a block": a_file(tensors=tensor(shape=(40,), kind=8), count=(1, 0)),
    "past the end": a_file(tensors=tensor(shape=(1 << 20,)), count=(1, 0)),
    "an offset past the end": a_file(tensors=tensor(offset=1 << 62), count=(1, 0)),
    "an offset beside": a_file(tensors=tensor(offset=7), count=(1, 0)),
    "cut": a_file(ONE, count=(0, 1))[:30],
} | {
    f"alignment {value}": a_file(
        entry("general.alignment", 4, struct.pack("<I", value)), tensor(), count=(1, 1)
    )
    for value in (0, 13, 1 << 31)
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_their_byte(tmp_path, name):
    path = tmp_path / "bad.gguf"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ModelFileError, match=r"bad\.gguf") as caught:
        read_gguf_file(path)
    assert caught.value.code == "E404"
    with pytest.raises(ModelFileError):
        yantai.load(path)


def test_damaged_files_open_or_are_refused(written):
    """Bytes changed, cut out and doubled: one error of ours, or a model."""
    _, path = written("qwen3", "Q8_0", layers=1)
    whole = path.read_bytes()
    header = whole.index(b"blk.0") + 4000
    dice = random.Random(0)
    opened = 0
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(header)
            way = dice.randrange(4)
            if way == 0:
                raw[at] = dice.randrange(256)
            elif way == 1:
                raw[at : at + 8] = struct.pack("<Q", dice.choice([0, 1 << 31, 1 << 63, 2**64 - 1]))
            elif way == 2:
                del raw[at : at + dice.randint(1, 40)]
            else:
                raw[at:at] = raw[at : at + dice.randint(1, 40)]
        path.write_bytes(raw)
        try:
            yantai.load(path)
            opened += 1
        except ModelFileError:
            continue
    assert 0 < opened < 300
