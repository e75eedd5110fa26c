"""The single-file format of llama2.c: a header of seven numbers, then float32 arrays, no names.

Knows: that file and the vocabulary file beside it. Both are bounded before anything is allocated.
Positions turn neighbouring pairs there and halves here, so rows of q and k are put in our order.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

from yantai.base.errors import ModelFileError
from yantai.core.config import ModelConfig
from yantai.core.initialise import build_meta, materialise
from yantai.core.model import Transformer
from yantai.families.rules import checked_config
from yantai.families.weights import pickled
from yantai.text.tokenizer import Tokenizer

NAMES = ("<unk>", "<s>", "</s>")
HEADER = struct.Struct("<7i")
LONGEST_ENTRY = 512
MAX_VOCABULARY_BYTES = 64_000_000
FIELDS = ("dim", "hidden", "layers", "heads", "kv_heads", "vocab_size", "max_positions")


def read_llama2c(path: Path) -> Transformer:
    """The model in such a file, float32, in evaluation mode.

    Raises:
        ModelFileError: the header makes no model, or the file has not the size it says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        if _looks_pickled(head):
            raise pickled(path)
        if len(head) < HEADER.size:
            raise ModelFileError("E401", path, "too short for a header", expected=HEADER.size)
        config, shared = _config(HEADER.unpack(head), path)
        shapes = _shapes(config, shared)
        numbers = sum(int(np.prod(shape)) for shape in shapes.values())
        if size != HEADER.size + 4 * numbers:
            raise ModelFileError(
                "E403", path, "not of the size that its header gives",
                expected=f"{HEADER.size + 4 * numbers} bytes", got=f"{size} bytes",
            )  # fmt: skip
        arrays = {
            name: torch.from_numpy(np.fromfile(file, "<f4", int(np.prod(shape))).reshape(shape))
            for name, shape in shapes.items()
        }
    model = materialise(build_meta(config), "cpu")
    ours = _rename(arrays, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(ours[name])
    return model.eval()


def _looks_pickled(head: bytes) -> bool:
    """A zip file, or a pickle's first opcode; a width that begins alike has two zero bytes."""
    return head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[2:4] != b"\0\0")


def _config(numbers: tuple[int, ...], path: Path) -> tuple[ModelConfig, bool]:
    given: dict[str, Any] = dict(zip(FIELDS, numbers, strict=True))
    shared = given["vocab_size"] > 0  # a head of its own is told by a minus
    given["vocab_size"] = abs(given["vocab_size"])
    if given["heads"] < 1 or given["dim"] % max(1, given["heads"]):
        raise ModelFileError(
            "E401", f"{path}: byte 12", "heads must divide the width", got=given["heads"]
        )
    given |= {"head_dim": given["dim"] // given["heads"], "tied": shared, "norm_eps": 1e-5}
    places = {name: f"byte {4 * number} ({name})" for number, name in enumerate(FIELDS)}
    return checked_config(ModelConfig, given, str(path), places), shared


def _shapes(config: ModelConfig, shared: bool) -> dict[str, tuple[int, ...]]:
    """Arrays in the order of the file."""
    layers, dim, hidden = config.layers, config.dim, config.hidden
    keys = config.kv_heads * config.head_dim
    angles = (config.max_positions, config.head_dim // 2)
    shapes: dict[str, tuple[int, ...]] = {
        "tokens": (config.vocab_size, dim), "attn_norm": (layers, dim), "q": (layers, dim, dim),
        "k": (layers, keys, dim), "v": (layers, keys, dim), "out": (layers, dim, dim),
        "mlp_norm": (layers, dim), "gate": (layers, hidden, dim), "down": (layers, dim, hidden),
        "value": (layers, hidden, dim), "norm": (dim,), "cos": angles, "sin": angles,
    }  # fmt: skip
    return shapes if shared else shapes | {"head": (config.vocab_size, dim)}


def _rename(arrays: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    ours = {"embed.tokens.weight": arrays["tokens"], "decoder.norm.weight": arrays["norm"]}
    if "head" in arrays:
        ours["head.weight"] = arrays["head"]
    places = {
        "attn_norm": "attn.norm", "q": "attn.part.qkv.q", "k": "attn.part.qkv.k",
        "v": "attn.part.qkv.v", "out": "attn.part.out", "mlp_norm": "mlp.norm",
        "gate": "mlp.part.up.gate", "value": "mlp.part.up.value", "down": "mlp.part.down",
    }  # fmt: skip
    for name, place in places.items():
        for layer in range(config.layers):
            value = arrays[name][layer]
            if name in ("q", "k"):
                value = _halves(value, config.head_dim)
            ours[f"decoder.blocks.{layer}.{place}.weight"] = value
    return ours


def _halves(weight: Tensor, head_dim: int) -> Tensor:
    """Rows 0, 2, 4, … of each head before its rows 1, 3, 5, …"""
    heads = weight.view(-1, head_dim // 2, 2, weight.shape[1])
    return heads.transpose(1, 2).reshape(weight.shape)


def read_tokenizer(model: Path, count: int) -> Tokenizer | None:
    """The vocabulary that lies beside a model file, if one does; its first three ids are special.

    Raises:
        ModelFileError: it is damaged, or not of this size.
    """
    places = (model.with_name("tokenizer.bin"), model.with_name(f"tok{count}.bin"))
    path = next((each for each in places if each.is_file()), None)
    if path is None:
        return None
    backend = Backend.from_str(tokenizer_json(read_vocabulary(path, count)))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": NAMES[1], "eos_token": NAMES[2],
        "unk_token": NAMES[0], "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    return Tokenizer(backend, settings)


def read_vocabulary(path: Path, count: int) -> list[tuple[bytes, float]]:
    """The entries of the vocabulary file, each with its score.

    Raises:
        ModelFileError: the file ends early, goes on behind its end, or an entry is too long.
    """
    if path.stat().st_size > MAX_VOCABULARY_BYTES:
        raise ModelFileError(
            "E401", path, "too large", expected=f"under {MAX_VOCABULARY_BYTES:,} bytes"
        )
    data = path.read_bytes()
    if len(data) < 4:
        raise ModelFileError("E401", path, "too short for a header", expected="4 bytes")
    longest = min(struct.unpack_from("<i", data)[0], LONGEST_ENTRY)
    entries, at = [], 4
    for number in range(count):
        if at + 8 > len(data):
            raise ModelFileError(
                "E401", f"{path}: byte {at}", "ends early", expected=f"{count} entries"
            )
        score, size = struct.unpack_from("<fi", data, at)
        at += 8
        if not 0 <= size <= max(longest, 0) or at + size > len(data):
            raise ModelFileError(
                "E401", f"{path}: byte {at - 4}", f"entry {number} has size {size}"
            )
        if not math.isfinite(score):
            raise ModelFileError("E401", f"{path}: byte {at - 8}", f"entry {number} has no score")
        entries.append((data[at : at + size], score))
        at += size
    if at != len(data):
        raise ModelFileError("E401", f"{path}: byte {at}", "bytes behind the last entry")
    return entries


def tokenizer_json(entries: list[tuple[bytes, float]]) -> str:
    """The same vocabulary as a `tokenizers` file: pairs merge by score, bytes are the rest.

    The first three entries are unknown, begin and end; then, in SentencePiece's habit, 256 bytes.
    """
    names = [_name(number, text) for number, (text, _) in enumerate(entries)]
    number_of = {name: number for number, name in enumerate(names)}
    merges = []
    for name in sorted(names[259:], key=lambda name: -entries[number_of[name]][1]):
        splits = [(name[:at], name[at:]) for at in range(1, len(name))]
        known = [pair for pair in splits if pair[0] in number_of and pair[1] in number_of]
        merges += sorted(known, key=lambda pair: (number_of[pair[0]], number_of[pair[1]]))
    special = [
        {"id": number, "content": names[number], "special": True, "single_word": False,
         "lstrip": False, "rstrip": False, "normalized": False}
        for number in range(3)
    ]  # fmt: skip
    begin = [{"SpecialToken": {"id": NAMES[1], "type_id": 0}}]
    text = [{"Sequence": {"id": "A", "type_id": 0}}]
    bos = {"id": NAMES[1], "ids": [1], "tokens": [NAMES[1]]}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {
            "type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing", "single": begin + text,
            "pair": begin + text + [{"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {NAMES[1]: bos},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                back, {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": names[0], "fuse_unk": True,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "byte_fallback": True,
            "ignore_merges": False, "vocab": number_of,
            "merges": [list(pair) for pair in merges],
        },
    }, ensure_ascii=False)  # fmt: skip


def _name(number: int, text: bytes) -> str:
    if number < 3:
        return NAMES[number]
    if number < 259:
        return f"<0x{number - 3:02X}>"
    return text.decode("utf-8", errors="replace").replace(" ", "▁")
