"""The compiled decode step over a model and its cache: one token a row, logits out.

Knows: which modules hold which pointers. A model with anything in it that the step does not know
(a hook, an adapter, a type, a device) gets None, and torch decodes.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from yantai.adapt.packed import levels_on
from yantai.adapt.quantize import PackedHead, PackedLinear, PackedTable
from yantai.base.device import has_fast_bfloat16
from yantai.base.native.build import library
from yantai.core.attention import Attention
from yantai.core.cache import Cache
from yantai.core.face import Embedding
from yantai.core.head import Head
from yantai.core.layers import MLP, Joint, LayerNorm, Linear, Point, RMSNorm, Table
from yantai.core.model import Transformer
from yantai.core.stack import Block, Entry, Stack, Sublayer

SOURCE = Path(__file__).with_name("decode.cpp")
TOGETHER = 256
"""Tokens of a prompt that are read in one step."""
SHORT, LONG = 32, 512
"""Without products of many rows, where torch has to unpack or to widen: up to how many tokens of a
prompt, or texts side by side, the step is faster; and how many tokens torch reads at a time."""
MOST_ROWS, MOST_OF_MANY = 8, 64
"""Above this many prompts side by side a product is computing, no longer reading, and torch does
that better; above the second number also where the step has products of many rows."""

KNOWN = frozenset({
    Attention, Block, Embedding, Entry, Head, Joint, LayerNorm, Linear, MLP, nn.ModuleList,
    PackedHead, PackedLinear, PackedTable, Point, RMSNorm, Stack, Sublayer, Table, Transformer,
})  # fmt: skip
PLAIN = {
    "shape": "decoder", "norm_where": "before", "norm_embedding": False, "position_offset": 0,
    "token_types": 0, "head": "plain",
}  # fmt: skip
ACTIVATIONS = ("gelu", "gelu_tanh", "silu", "relu", "relu_squared")
POINTER, WHOLE, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


def _structure(**fields: type) -> type[ctypes.Structure]:
    return type("_", (ctypes.Structure,), {"_fields_": list(fields.items())})


# the same names in the same order as in weights.h and parts.h
Matrix = _structure(
    weight=POINTER, scales=POINTER, levels=POINTER, bias=POINTER, rows=WHOLE, columns=WHOLE,
    bits=WHOLE, group=WHOLE,
)  # fmt: skip
Norm = _structure(weight=POINTER, bias=POINTER)
Layer = _structure(
    before_attention=Norm, before_mlp=Norm, of_query=Norm, of_key=Norm,
    qkv=Matrix, out=Matrix, up=Matrix, down=Matrix,
)  # fmt: skip
Model = _structure(
    layers=WHOLE, dim=WHOLE, heads=WHOLE, kv_heads=WHOLE, head_dim=WHOLE, hidden=WHOLE,
    vocab=WHOLE, window=WHOLE, is_bfloat16=WHOLE, is_layer_norm=WHOLE, is_gated=WHOLE,
    activation=WHOLE, norm_eps=FLOAT, scale=FLOAT, softcap=FLOAT, tokens=Matrix,
    positions=POINTER, last=Norm, head=Matrix, layer=POINTER,
)  # fmt: skip
Step = _structure(
    rows=WHOLE, room=WHOLE, filled=WHOLE, length=WHOLE, threads=WHOLE, behind=WHOLE, alone=WHOLE,
    said=WHOLE, ids=POINTER, padding=POINTER,
    cos=POINTER, sin=POINTER, cache=POINTER, scratch=POINTER, logits=POINTER,
)  # fmt: skip


class NativeStep:
    """A model as the compiled step reads it.

    It holds every tensor whose memory it points to. Make it anew after a weight was replaced.

    Attributes:
        reads_prompts: whether `prompt` is a good way to read one.
        multiplies_many: whether it has products of many rows itself.
        reads_ahead: whether `read` gives the bits of single steps.
    """

    reads_ahead = True

    def __init__(self, model: Any, loaded: ctypes.CDLL):
        self._scratch_floats, self._decode_step = loaded.scratch_floats, loaded.decode_step
        self._scratch_floats.restype = WHOLE
        self._held: list[Tensor] = []
        self._dtype = next(model.parameters()).dtype
        self.multiplies_many = bool(loaded.reads_many()) and self._dtype == torch.bfloat16
        codes = any(isinstance(module, PackedLinear) for module in model.modules())
        slow = self._dtype == torch.bfloat16 and not has_fast_bfloat16(torch.device("cpu"))
        self.reads_prompts = self.multiplies_many or codes or slow
        self._network = model
        self._vocab = model.config.vocab_size
        self._layers = (Layer * model.config.layers)(*map(self._layer, model.decoder.blocks))
        self._model = self._describe(model)
        self._tables: WeakKeyDictionary[Cache, tuple[Tensor, Tensor]] = WeakKeyDictionary()

    def __call__(self, ids: Sequence[int], cache: Cache, padding: Sequence[int] | None) -> Tensor:
        """Float[row, vocab]: the logits behind one more token of each row; the cache grows by it.

        Args:
            ids: the token of each row.
            cache: what was read before, of as many rows.
            padding: the unseen places at the beginning of each row; None for none.
        """
        assert len(ids) == cache.rows, "a cache of other rows"
        return self._run(ids, cache, list(padding or [0] * len(ids)), said=len(ids))

    def read(self, ids: Sequence[int], cache: Cache, padding: int) -> Tensor:
        """Float[token, vocab]: several tokens of one row, behind each other, in one step.

        The logits are those of as many steps of one token, to the bit.

        Args:
            ids: the tokens.
            cache: what was read before, of one row; it grows by all of them.
            padding: the unseen places at its beginning.
        """
        assert cache.rows == 1, "a cache of other rows"
        return self._run(ids, cache, [padding] * len(ids), said=len(ids), behind=True, alone=True)

    @torch.inference_mode()
    def prompt(self, ids: Sequence[int], cache: Cache, padding: int = 0) -> Tensor:
        """Float[vocab]: tokens of one row behind each other; the logits behind the last alone.

        Vectors are rounded to bfloat16 as torch rounds them, so these are no bits of single steps.
        But however a prompt is cut, and however much of it was read before by this, its bits are
        the same. That is so where it has products of many rows; else a long prompt is read by
        torch but for its end, so that nobody unpacks the head, and a short one a few tokens a step.

        Args:
            ids, cache, padding: as of `read`.
        """
        assert cache.rows == 1, "a cache of other rows"
        assert ids and cache.filled + len(ids) <= cache.length, "a prompt that does not fit"
        together = TOGETHER if self.multiplies_many else MOST_ROWS
        if not self.multiplies_many and len(ids) > SHORT and not padding:
            long, ids = ids[:-1], ids[-1:]
            for start in range(0, len(long), LONG):
                self._network.hidden(torch.tensor([long[start : start + LONG]]), cache=cache)
        for start in range(0, len(ids), together):
            piece = ids[start : start + together]
            logits = self._run(piece, cache, [padding] * len(piece), said=1, behind=True)
        return logits[0]

    def takes(self, rows: int) -> bool:
        """Whether so many rows at once are better read by it than by torch."""
        if self.multiplies_many:
            return rows <= MOST_OF_MANY
        return rows <= (SHORT if self.reads_prompts else MOST_ROWS)

    @torch.inference_mode()
    def _run(
        self, ids: Sequence[int], cache: Cache, padding: list[int], *, said: int,
        behind: bool = False, alone: bool = False,
    ) -> Tensor:  # fmt: skip
        rows, more = len(ids), len(ids) if behind else 1
        assert cache.filled + more <= cache.length, f"the cache of {cache.length} positions is full"
        assert cache.store.dtype == self._dtype, "a cache of another type"
        if not 0 <= min(ids) <= max(ids) < self._vocab:
            raise IndexError(f"no such token among {min(ids)} to {max(ids)}")
        here = torch.tensor([list(ids), padding])
        cos, sin = self._angles(cache)
        logits = torch.empty(said, self._vocab)
        step = Step(
            rows=rows, room=cache.store.shape[2], filled=cache.filled, length=cache.length,
            threads=torch.get_num_threads(), behind=behind, alone=alone, said=said,
            ids=here[0].data_ptr(), padding=here[1].data_ptr(),
            cos=None if cos is None else cos.data_ptr(),
            sin=None if sin is None else sin.data_ptr(),
            cache=cache.store.data_ptr(), logits=logits.data_ptr(),
        )  # fmt: skip
        where = ctypes.byref(self._model), ctypes.byref(step)
        scratch = torch.empty(self._scratch_floats(*where))
        step.scratch = scratch.data_ptr()
        self._decode_step(*where)
        cache.advance(more)
        return logits

    def _angles(self, cache: Cache) -> tuple[Tensor | None, Tensor | None]:
        """Of each position, made once a cache; the engine goes from one cache to another."""
        if cache.rotary is None:
            return None, None
        if cache not in self._tables:
            cos, sin = (table.flatten(0, 2).float().contiguous() for table in cache.rotary)
            self._tables[cache] = (cos, sin)
        return self._tables[cache]

    def _describe(self, model: Any) -> ctypes.Structure:
        config, positions = model.config, model.decoder.entry.positions
        return Model(
            layers=config.layers, dim=config.dim, heads=config.heads, kv_heads=config.kv_heads,
            head_dim=config.head_dim, hidden=config.hidden, vocab=config.vocab_size,
            window=config.window or 0, is_layer_norm=config.norm == "layer",
            is_bfloat16=self._dtype == torch.bfloat16, is_gated=config.gated,
            activation=ACTIVATIONS.index(config.activation), norm_eps=config.norm_eps,
            scale=config.head_dim**-0.5 if "scores" in config.scaled else 1.0,
            softcap=config.softcap or 0.0, tokens=self._rows([model.embed.tokens]),
            positions=self._hold(positions.weight) if positions is not None else None,
            last=self._norm(model.decoder.norm), head=self._matrix(model.head),
            layer=ctypes.cast(self._layers, POINTER),
        )  # fmt: skip

    def _layer(self, block: Any) -> ctypes.Structure:
        attention, mlp = block.attn.part, block.mlp.part
        return Layer(
            before_attention=self._norm(block.attn.norm), before_mlp=self._norm(block.mlp.norm),
            of_query=self._norm(getattr(attention, "q_norm", None)),
            of_key=self._norm(getattr(attention, "k_norm", None)),
            qkv=self._joint(attention.qkv), out=self._matrix(attention.out),
            up=self._joint(mlp.up), down=self._matrix(mlp.down),
        )  # fmt: skip

    def _norm(self, norm: Any) -> ctypes.Structure:
        if norm is None:
            return Norm()
        bias = getattr(norm, "bias", None)
        return Norm(self._hold(norm.weight.float()), self._hold_float(bias))

    def _matrix(self, linear: Linear) -> ctypes.Structure:
        return self._rows([linear])

    def _joint(self, joint: Joint) -> ctypes.Structure:
        return self._rows(joint.parts)

    def _rows(self, parts: Sequence[Any]) -> ctypes.Structure:
        """One matrix of parts that lie behind each other in memory."""
        first = parts[0]
        held: dict[str, Any] = {}
        if isinstance(first, PackedLinear | PackedTable):
            held["weight"] = self._hold(joined([part.codes for part in parts]))
            held["scales"] = self._hold(joined([part.scales for part in parts]))
            held |= {"bits": first.form.bits, "group": first.form.group}
            held["levels"] = (
                self._hold(levels_on(torch.device("cpu"))) if first.form.bits == 4 else None
            )
            columns = first.codes.shape[1] * 8 // first.form.bits
        else:
            held["weight"] = self._hold(joined([part.weight.detach() for part in parts]))
            columns = first.weight.shape[1]
        biases = [part.bias for part in parts if getattr(part, "bias", None) is not None]
        held["bias"] = self._hold(torch.cat([bias.float() for bias in biases])) if biases else None
        rows = sum(len(part.codes if "bits" in held else part.weight) for part in parts)
        return Matrix(rows=rows, columns=columns, **held)

    def _hold_float(self, values: Tensor | None) -> int | None:
        return None if values is None else self._hold(values.float())

    def _hold(self, values: Tensor) -> int:
        assert values.is_contiguous()
        self._held.append(values.detach())
        return values.data_ptr()


def joined(parts: list[Tensor]) -> Tensor:
    """The same memory where the parts lie behind each other in it, else a copy of them there."""
    at = parts[0].data_ptr()
    for part in parts:
        if part.data_ptr() != at or not part.is_contiguous():
            return torch.cat(parts)
        at += part.numel() * part.element_size()
    rows = sum(map(len, parts))
    return parts[0].as_strided((rows, *parts[0].shape[1:]), parts[0].stride())


def native_step(model: nn.Module) -> NativeStep | None:
    """The compiled step for a model, or None where it does not know all of it."""
    if not isinstance(model, Transformer) or not fits(model):
        return None
    loaded = library(SOURCE)
    return NativeStep(model, loaded) if loaded is not None else None


def fits(model: Transformer, device: str = "cpu") -> bool:
    """Whether a compiled step computes all that this model computes, on that kind of device."""
    tensors, config = list(model.parameters()), model.config
    dtype = tensors[0].dtype
    return (
        all(getattr(config, name) == value for name, value in PLAIN.items())
        and config.position in ("rotary", "learned", "none")
        and set(config.scaled) <= {"scores"}
        and "head" not in config.biases
        and not model.training
        and model.decoder is not None
        and model.decoder.around is None
        and dtype in (torch.bfloat16, torch.float32)
        and model.compute_dtype in (None, dtype)
        and all(each.device.type == device and each.dtype == dtype for each in tensors)
        and all(_is_plain(module) for module in model.modules())
    )


def _is_plain(module: nn.Module) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks
    return type(module) in KNOWN and not hooks and _is_whole(module)


def _is_whole(module: nn.Module) -> bool:
    """Whether the parts of a joint product are one matrix, or can be made one."""
    if not isinstance(module, Joint) or module.packed is not None:
        return True
    forms = {part.form if isinstance(part, PackedLinear) else None for part in module.parts}
    return len(forms) == 1 and None not in forms
