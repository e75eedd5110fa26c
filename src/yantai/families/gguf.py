"""A decoder as one GGUF file, which llama.cpp opens; and such a file as a decoder.

Knows: the names of tensors and entries there. Its Llama turns neighbours where Hugging Face's turns
halves, so that rows of queries and keys change their places.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from yantai.base.errors import ModelFileError, UsageError
from yantai.base.files import write_atomic
from yantai.core.config import ModelConfig, RotaryScaling
from yantai.core.face import Model
from yantai.core.initialise import build_meta, materialise
from yantai.families.folder import to_ours, to_theirs
from yantai.families.gguf_file import Stored, read_gguf_file
from yantai.families.gguf_tokenizer import tokenizer_facts, tokenizer_of
from yantai.families.packed_folder import is_packed
from yantai.families.rules import Family, Merged, Renamed, TensorRow
from yantai.families.table import family_named
from yantai.text.tokenizer import Tokenizer

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
                 "gpt2": "gpt2"}  # fmt: skip
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}
FREQUENCIES = "rope_freqs.weight"
_BLOCK = "decoder.blocks.{layer}."
_PARTS = {
    "attn.norm": "attn_norm", "attn.part.out": "attn_output", "attn.part.q_norm": "attn_q_norm",
    "attn.part.k_norm": "attn_k_norm", "mlp.norm": "ffn_norm", "mlp.part.up.gate": "ffn_gate",
    "mlp.part.up.value": "ffn_up", "mlp.part.down": "ffn_down",
}  # fmt: skip
_KINDS = ("weight", "bias")


def _table(joined: bool) -> tuple[TensorRow, ...]:
    """Our names → theirs; GPT-2's queries, keys and values are one matrix."""
    rows: list[TensorRow] = [
        Renamed("embed.tokens.weight", "token_embd.weight"),
        Renamed("decoder.entry.positions.weight", "position_embd.weight"),
        Renamed("head.weight", "output.weight"),
    ]
    for kind in _KINDS:
        rows.append(Renamed(f"decoder.norm.{kind}", f"output_norm.{kind}"))
        parts = [f"{_BLOCK}attn.part.qkv.{part}.{kind}" for part in "qkv"]
        if joined:
            rows.append(Merged(tuple(parts), f"blk.{{layer}}.attn_qkv.{kind}"))
        else:
            rows += [Renamed(name, f"blk.{{layer}}.attn_{part}.{kind}")
                     for part, name in zip("qkv", parts, strict=True)]  # fmt: skip
        rows += [Renamed(f"{_BLOCK}{ours}.{kind}", f"blk.{{layer}}.{theirs}.{kind}")
                 for ours, theirs in _PARTS.items()]  # fmt: skip
    return tuple(rows)


def _named(family: Family) -> Family:
    return replace(family, tensors=_table(family.name == "gpt2"), constants=(), prefix="")


# ---------------------------------------------------------------- to a file


def write_gguf(
    path: Path, model: Model, family: Family, tokenizer: Tokenizer, kind: str = "F16"
) -> None:
    """Write the file, whole or not at all.

    Args:
        path: the file.
        model: a decoder in weights of its own.
        family: of llama, mistral, qwen2, qwen3, gpt2.
        tokenizer: byte-level BPE.
        kind: of the matrices: F32, F16, BF16, Q8_0, or Q4_0 (embedding and head in Q8_0).
            Vectors are float32.

    Raises:
        UsageError: there is no such architecture there, it has a part that is not there, or the
            tokenizer would give other ids.
    """
    try:
        from gguf import GGMLQuantizationType, GGUFWriter
        from gguf.gguf_writer import WriterState
        from gguf.quants import quantize
    except ImportError as error:
        raise UsageError(
            "E207", "gguf", "is not installed", do="pip install 'yantai[export]'"
        ) from error
    arch = ARCHITECTURES.get(family.name)
    if arch is None or family.job or is_packed(model):
        got = family.job or ("packed weights" if is_packed(model) else family.name)
        raise UsageError("E203", "model", "cannot be a GGUF file", expected="a language model of "
                         f"{', '.join(ARCHITECTURES)}, not packed", got=got)  # fmt: skip
    writer = GGUFWriter(None, arch)
    for key, value in _facts(arch, model.config, kind).items():
        _add(writer, key, value)
    for key, value in tokenizer_facts(tokenizer, model.config.vocab_size).items():
        _add(writer, key, value)
    tensors = _turned(to_theirs(model, _named(family)), model.config, arch, there=True)
    factors = _frequency_factors(model.config)
    if factors is not None:
        tensors[FREQUENCIES] = factors
    for name, tensor in tensors.items():
        type_ = GGMLQuantizationType[_kind_of(name, tensor, kind)]
        numbers = tensor.float().numpy()
        if type_ not in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            writer.add_tensor(name, quantize(numbers, type_), raw_dtype=type_)
        else:
            form = np.float32 if type_ == GGMLQuantizationType.F32 else np.float16
            writer.add_tensor(name, numbers.astype(form))

    def write(file: BinaryIO) -> None:
        writer.fout, writer.state = [file], WriterState.EMPTY  # ty: ignore[invalid-assignment]
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()

    size = sum(each.nbytes for named in writer.tensors for each in named.values())
    write_atomic(path, write, size)


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value:
        writer.add_array(key, value)


def _kind_of(name: str, tensor: Tensor, kind: str) -> str:
    """Vectors and positions stay exact; rows that are no whole blocks take the next best type."""
    if tensor.ndim == 1 or name.startswith("position"):
        return "F32"
    if kind in ("Q8_0", "Q4_0") and tensor.shape[-1] % 32:
        return "F16"
    outer = name in ("token_embd.weight", "output.weight")
    return "Q8_0" if kind == "Q4_0" and outer else kind


def _facts(arch: str, config: ModelConfig, kind: str) -> dict[str, Any]:
    """The entries about the network."""
    own: dict[str, Any] = {
        "context_length": config.max_positions, "embedding_length": config.dim,
        "block_count": config.layers, "feed_forward_length": config.hidden,
        "attention.head_count": config.heads, "attention.head_count_kv": config.kv_heads,
        "vocab_size": config.vocab_size,
    }  # fmt: skip
    if config.window is not None:  # which that architecture does not know: no more than it sees
        own["context_length"] = min(config.window, config.max_positions)
    if arch == "gpt2":
        _only(config.activation == "gelu_tanh", "config.activation", config.activation)
        _only("scores" in config.scaled, "config.scaled", "unscaled scores")
        own["attention.layer_norm_epsilon"] = config.norm_eps
    else:
        own |= {
            "attention.layer_norm_rms_epsilon": config.norm_eps,
            "attention.key_length": config.head_dim, "attention.value_length": config.head_dim,
            "rope.dimension_count": config.head_dim, "rope.freq_base": float(config.rotary_base),
        }  # fmt: skip
        scaling = config.rotary_scaling
        if scaling is not None and scaling.kind != "llama3":
            _only(scaling.kind == "linear", "config.rotary_scaling", scaling.kind)
            own |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}
    facts = {f"{arch}.{key}": value for key, value in own.items()}
    return facts | {"general.name": "yantai", "general.file_type": FILE_TYPES[kind]}


def _only(there: bool, where: str, got: object) -> None:
    if not there:
        raise UsageError("E203", where, "is not in llama.cpp's form of this family", got=got)


def _turned(
    tensors: Mapping[str, Tensor], config: ModelConfig, arch: str, *, there: bool
) -> dict[str, Tensor]:
    """Rows of queries and keys, from halves to neighbours, or back."""
    if arch != "llama":
        return dict(tensors)
    found = {}
    for name, tensor in tensors.items():
        heads = {"attn_q": config.heads, "attn_k": config.kv_heads}.get(name.split(".")[-2])
        if heads is not None and name.startswith("blk."):
            half, rest = config.head_dim // 2, tensor.shape[1:]
            parts = (2, half) if there else (half, 2)
            tensor = tensor.reshape(heads, *parts, *rest).transpose(1, 2).reshape(tensor.shape)
        found[name] = tensor.contiguous()
    return found


def _frequency_factors(config: ModelConfig) -> Tensor | None:
    """What Llama 3 divides each frequency by, a number a pair; None for other models."""
    scaling: RotaryScaling | None = config.rotary_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float64)
    waves = 2 * torch.pi * config.rotary_base ** (pairs / config.head_dim)
    smooth = (scaling.original_positions / waves - scaling.slow) / (scaling.fast - scaling.slow)
    smooth = smooth.clamp(0, 1)
    return (1 / ((1 - smooth) / scaling.factor + smooth)).float()


# ---------------------------------------------------------------- from a file


def read_gguf(
    path: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> tuple[Model, Family, Tokenizer]:
    """Open a file.

    Args:
        path: the file.
        dtype: of the weights in memory; None keeps F32, F16 as float32 and BF16.
        device: where to put them.

    Raises:
        ModelFileError: the file is damaged, or of what is not read.
    """
    facts, stored = read_gguf_file(path)
    where = str(path)
    arch = facts.get("general.architecture")
    if arch not in ARCHITECTURES.values():
        raise ModelFileError(
            "E402", f"{where}:general.architecture", "not supported",
            expected=", ".join(sorted({*ARCHITECTURES.values()})), got=arch,
        )  # fmt: skip
    family = family_named(str(arch))
    tokenizer = tokenizer_of(facts, where)
    config = family.read_config(_hugging_face(str(arch), facts, stored, where), where)
    if FREQUENCIES in stored:
        raise ModelFileError("E402", f"{where}:{FREQUENCIES}", "scaled frequencies are not read")
    meta = build_meta(config)
    shapes = {name: each.shape for name, each in stored.items()}
    _fits(shapes, meta, family, where)
    named = {name: _unpacked(each) for name, each in stored.items()}
    ours = to_ours(_turned(named, config, str(arch), there=False), meta, _named(family), path)
    kinds = {each.kind for each in stored.values()}
    model = materialise(meta, device, dtype or (
        torch.bfloat16 if "BF16" in kinds else torch.float32
    ))  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(ours[name])
    return model.eval(), family, tokenizer


def _hugging_face(
    arch: str, facts: Mapping[str, Any], stored: Mapping[str, Stored], where: str
) -> dict[str, Any]:
    """The entries about the network, as config.json has them."""

    def entry(name: str, default: Any = None) -> Any:
        value = facts.get(f"{arch}.{name}", default)
        if value is None:
            raise ModelFileError("E401", f"{where}:{arch}.{name}", "the entry is missing")
        return value

    embedding = stored.get("token_embd.weight")
    if embedding is None:
        raise ModelFileError("E403", where, "missing tensor 'token_embd.weight'")
    tied = {"vocab_size": embedding.shape[0], "tie_word_embeddings": "output.weight" not in stored}
    if arch == "gpt2":
        return tied | {
            "n_embd": entry("embedding_length"), "n_layer": entry("block_count"),
            "n_head": entry("attention.head_count"), "n_inner": entry("feed_forward_length"),
            "n_positions": entry("context_length"), "activation_function": "gelu_new",
            "layer_norm_epsilon": entry("attention.layer_norm_epsilon"),
        }  # fmt: skip
    heads = entry("attention.head_count")
    kind, factor = (facts.get(f"{arch}.rope.scaling.{name}") for name in ("type", "factor"))
    rotary: dict[str, Any] = {"rope_theta": entry("rope.freq_base", 10_000.0)}
    if kind not in (None, "none"):
        rotary |= {"rope_type": kind, "factor": factor}
    width = entry("embedding_length")
    head_dim = width // heads if isinstance(heads, int) and heads > 0 else 0
    head_dim = entry("attention.key_length", head_dim)
    _turn_whole(entry("rope.dimension_count", head_dim), head_dim, f"{where}:{arch}")
    return tied | {
        "hidden_size": width, "num_hidden_layers": entry("block_count"),
        "num_attention_heads": heads, "intermediate_size": entry("feed_forward_length"),
        "num_key_value_heads": entry("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": entry("context_length"), "rope_parameters": rotary,
        "rms_norm_eps": entry("attention.layer_norm_rms_epsilon"),
        "attention_bias": arch != "qwen2" and "blk.0.attn_q.bias" in stored,
        "mlp_bias": "blk.0.ffn_up.bias" in stored,
    }  # fmt: skip


def _turn_whole(turned: Any, head_dim: Any, where: str) -> None:
    """Whether all of a head turns with its position."""
    if turned != head_dim:
        raise ModelFileError(
            "E401", f"{where}.rope.dimension_count", "not the size of a head",
            expected=head_dim, got=turned,
        )  # fmt: skip


def _fits(shapes: Mapping[str, tuple[int, ...]], meta: Model, family: Family, where: str) -> None:
    """Whether the numbers are there that the entries promise, before any is unpacked."""
    there = sum(int(np.prod(shape)) for shape in shapes.values())
    wanted = sum(each.numel() for each in meta.parameters())
    tied = meta.embed.tokens.weight.numel()
    if there not in (wanted, wanted + tied):
        raise ModelFileError(
            "E403", where, f"other tensors than a {family.name} of these entries has",
            expected=f"{wanted:,} numbers", got=f"{there:,}",
        )  # fmt: skip


def _unpacked(stored: Stored) -> Tensor:
    """The numbers of a tensor: float32, or bfloat16 as it stands."""
    data = stored.data
    if stored.kind == "BF16":
        return torch.from_numpy(data.copy()).view(torch.bfloat16).reshape(stored.shape)
    if stored.kind in ("F32", "F16"):
        form = np.float32 if stored.kind == "F32" else np.float16
        return torch.from_numpy(data.view(form).astype(np.float32)).reshape(stored.shape)
    width = 34 if stored.kind == "Q8_0" else 18
    blocks = data.reshape(-1, width)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    if stored.kind == "Q8_0":
        codes = blocks[:, 2:].view(np.int8).astype(np.float32)
    else:  # the low halves of the bytes, then the high ones; 8 is zero
        halves = blocks[:, 2:]
        codes = np.concatenate((halves & 15, halves >> 4), 1).astype(np.float32) - 8
    with np.errstate(all="ignore"):  # a scale may be anything; it is the file's
        return torch.from_numpy(scales * codes).reshape(stored.shape)
