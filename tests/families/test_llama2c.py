"""Files of llama2.c: a plain loop over arrays is the oracle; for real weights, its own program."""

import hashlib
import struct

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend

import yantai
from yantai.base.errors import ModelFileError, UsageError
from yantai.families.llama2c import HEADER, read_llama2c, read_vocabulary

SIZES = {
    "dim": 24, "hidden": 40, "layers": 2, "heads": 4, "kv_heads": 2, "vocab": 270, "context": 32,
}  # fmt: skip
WORDS = [" ", "a", "b", "c", "ab", " a", " ab", "abc", "cab", "▁x", "é"]

# The program's own output at temperature 0 for 512 steps (karpathy/llama2.c, run.c, gcc -O2).
REFERENCE = {
    "Once upon a time": "e0c267ef267cb50130db210849536569e50920fbfdf130bc9784d6d5ae66aaad",
    "": "e0c267ef267cb50130db210849536569e50920fbfdf130bc9784d6d5ae66aaad",
    "The dog": "74e6e1d9b4db1d4413a59f39252533485517fb74ac0d1f722dfc7a48432bede1",
}


def arrays_of(sizes, shared):
    layers, dim, hidden = sizes["layers"], sizes["dim"], sizes["hidden"]
    width = dim // sizes["heads"]
    keys, angles = sizes["kv_heads"] * width, (sizes["context"], width // 2)
    shapes = {
        "tokens": (sizes["vocab"], dim), "norm1": (layers, dim), "q": (layers, dim, dim),
        "k": (layers, keys, dim), "v": (layers, keys, dim), "out": (layers, dim, dim),
        "norm2": (layers, dim), "w1": (layers, hidden, dim), "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim), "last": (dim,), "cos": angles, "sin": angles,
    }  # fmt: skip
    if not shared:
        shapes["head"] = (sizes["vocab"], dim)
    random = np.random.default_rng(0)
    return {name: random.normal(0, 0.3, shape).astype("<f4") for name, shape in shapes.items()}


def written(folder, shared=True, **changes):
    sizes = SIZES | changes
    arrays = arrays_of(sizes, shared)
    vocab = sizes["vocab"] if shared else -sizes["vocab"]
    numbers = [*list(sizes.values())[:5], vocab, sizes["context"]]
    path = folder / "model.bin"
    path.write_bytes(HEADER.pack(*numbers) + b"".join(array.tobytes() for array in arrays.values()))
    return path, arrays


def vocabulary(folder, count=270):
    entries = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [
        f"<0x{byte:02X}>".encode() for byte in range(256)
    ]
    entries += [word.encode() for word in WORDS]
    assert len(entries) == count
    rows = [struct.pack("<fi", -float(n), len(text)) + text for n, text in enumerate(entries)]
    (folder / "tokenizer.bin").write_bytes(struct.pack("<i", 8) + b"".join(rows))


def normed(x, weight):
    return weight * x / np.sqrt((x * x).mean() + 1e-5)


def oracle(arrays, ids):
    """Logits of each position, one position after another, pairs turned side by side."""
    w = {name: array.astype(np.float64) for name, array in arrays.items()}
    heads, kv_heads = SIZES["heads"], SIZES["kv_heads"]
    width = SIZES["dim"] // heads
    cache = [([], []) for _ in range(SIZES["layers"])]
    logits = []
    for place, id in enumerate(ids):
        x = w["tokens"][id]
        for layer, (keys, values) in enumerate(cache):
            h = normed(x, w["norm1"][layer])
            q, k, v = (w[name][layer] @ h for name in ("q", "k", "v"))
            for vector in (q, k):
                for i in range(0, len(vector), 2):
                    angle = place * 10_000.0 ** (-(i % width) / width)
                    a, b = vector[i], vector[i + 1]
                    vector[i] = a * np.cos(angle) - b * np.sin(angle)
                    vector[i + 1] = a * np.sin(angle) + b * np.cos(angle)
            keys.append(k.reshape(kv_heads, width))
            values.append(v.reshape(kv_heads, width))
            mixed = []
            for head, query in enumerate(q.reshape(heads, width)):
                group = head // (heads // kv_heads)
                scores = np.array([query @ key[group] for key in keys]) / np.sqrt(width)
                chances = np.exp(scores - scores.max())
                chances /= chances.sum()
                mixed.append(
                    sum(c * value[group] for c, value in zip(chances, values, strict=True))
                )
            x = x + w["out"][layer] @ np.concatenate(mixed)
            h = normed(x, w["norm2"][layer])
            a, b = w["w1"][layer] @ h, w["w3"][layer] @ h
            x = x + w["w2"][layer] @ (a / (1 + np.exp(-a)) * b)
        logits.append(w.get("head", w["tokens"]) @ normed(x, w["last"]))
    return np.stack(logits)


@pytest.mark.parametrize("shared", [True, False])
def test_logits_are_those_of_a_plain_loop(tmp_path, shared):
    path, arrays = written(tmp_path, shared)
    ids = [1, 5, 260, 9, 266, 266, 12]
    model = yantai.load(path, dtype="float64")
    # norms and angles are float32 in any model, as in the reference implementations
    assert np.abs(model.logits(ids)[0].numpy() - oracle(arrays, ids)).max() < 1e-5


def test_a_folder_made_of_it_is_the_same_model(tmp_path):
    path, _ = written(tmp_path)
    vocabulary(tmp_path)
    model = yantai.load(path)
    model.save(tmp_path / "folder")
    again = yantai.load(tmp_path / "folder")
    assert torch.equal(again.logits([1, 5, 260]), model.logits([1, 5, 260]))
    assert again.eos_ids == model.eos_ids == {1}
    assert again.tokenizer.prompt("ab cab") == model.tokenizer.prompt("ab cab")


def test_its_tokenizer_merges_by_score_and_spells_the_rest_in_bytes(tmp_path):
    vocabulary(tmp_path)
    path, _ = written(tmp_path)
    tokenizer = yantai.load(path).tokenizer
    ids = tokenizer.prompt("ab ca中")
    assert [tokenizer.token(id) for id in ids] == [
        "<s>", "▁ab", "▁", "c", "a", "<0xE4>", "<0xB8>", "<0xAD>",
    ]  # fmt: skip
    assert tokenizer.decode(ids) == "ab ca中"
    assert tokenizer.decode(tokenizer.encode("ab"), after=tokenizer.encode("c")) == " ab"


def test_without_a_vocabulary_it_is_ids_in_and_logits_out(tmp_path):
    model = yantai.load(written(tmp_path)[0])
    assert model.logits([1, 2]).shape == (1, 2, 270)
    with pytest.raises(ModelFileError, match="tokenizer"):
        model.generate("a")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:20], "too short"),
        (lambda data: data[:-4], "not of the size"),
        (lambda data: data + bytes(4), "not of the size"),
        (lambda data: struct.pack("<i", -24) + data[4:], "dim"),
        (lambda data: struct.pack("<i", 2**31 - 1) + data[4:], "dim|heads"),
        (lambda data: data[:12] + struct.pack("<i", 0) + data[16:], "heads"),
        (lambda data: data[:12] + struct.pack("<i", 5) + data[16:], "heads"),
        (lambda data: data[:16] + struct.pack("<i", 3) + data[20:], "kv_heads"),
        (lambda data: data[:8] + struct.pack("<i", 1000) + data[12:], "not of the size"),
        (lambda data: b"PK\x03\x04" + data[4:], "pickle"),
        (lambda data: b"\x80\x04\x95\x10" + data[4:], "pickle"),
        (lambda data: b"\x80\x02}q" + data[4:], "pickle"),
    ],
)
def test_a_damaged_file_is_refused_before_anything_is_allocated(tmp_path, change, said):
    path, _ = written(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelFileError, match=said):
        read_llama2c(path)


@pytest.mark.parametrize("cut", [2, 9, 40, -1])
def test_a_damaged_vocabulary_is_refused(tmp_path, cut):
    vocabulary(tmp_path)
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelFileError):
        read_vocabulary(path, 270)


def test_a_width_that_looks_like_a_pickle_is_a_width(tmp_path):
    path, _ = written(tmp_path, dim=640, hidden=8, layers=1, heads=4, vocab=3, context=8)
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert read_llama2c(path).config.dim == 640


def test_any_other_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UsageError, match="a file"):
        yantai.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("prompt", REFERENCE)
def test_real_weights_tell_what_their_own_program_tells(data, prompt):
    model = yantai.load(data / "weights_stories260k" / "stories260K.bin", dtype="float32")
    room = 512 - len(model.tokenizer.prompt(prompt))
    text = model.generate(prompt, max_new_tokens=room)
    assert hashlib.sha256(text.encode() + b"\n").hexdigest() == REFERENCE[prompt]
    shown = prompt + "".join(model.stream(prompt, max_new_tokens=room))
    assert shown == text


def test_the_written_tokenizer_is_one_that_others_read(tmp_path):
    vocabulary(tmp_path)
    model = yantai.load(written(tmp_path)[0])
    model.save(tmp_path / "folder")
    backend = Backend.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    assert backend.encode("ab").ids == model.tokenizer.prompt("ab")
