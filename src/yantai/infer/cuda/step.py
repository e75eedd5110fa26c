"""The decoding step of a GPU over a model and its cache: one token a row, logits out.

Knows: which modules hold which weights, and graphs. Some two hundred kernels a token would be
called more slowly than they run, so they are recorded once for a cache and a number of rows, and
replayed as one. A model with anything in it that the kernels do not know gets None, and torch
decodes.
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from yantai.adapt.packed import LEVELS
from yantai.adapt.quantize import PackedLinear, PackedTable
from yantai.base.log import say
from yantai.core.cache import Cache
from yantai.core.model import Transformer
from yantai.infer.native.step import fits, joined

NORMS = {"rms": 1, "rms_wide": 1, "layer": 2}
TOGETHER, MOST_ROWS = 16, 64
"""Rows that a product of several takes at once, however few there are: so each has the same bits
beside any others; and above how many torch computes better."""


class Tile(NamedTuple):
    """What one program of a product does at a time.

    Attributes:
        outs: rows of the matrix.
        blocks: of 32 columns.
        warps, stages: threads, and loads that are under way.
    """

    outs: int
    blocks: int
    warps: int
    stages: int


ONE, MANY = Tile(8, 8, 4, 3), Tile(16, 4, 4, 4)
KEYS = 64
"""Keys that attention looks at at a time."""


class Matrix(NamedTuple):
    """A matrix as a product reads it.

    Attributes:
        weight: numbers or codes, "out column".
        scales, levels: of codes; else the weight again, unread.
        bias: float32, or None.
    """

    weight: Tensor
    scales: Tensor
    levels: Tensor
    bias: Tensor | None
    outs: int
    columns: int
    bits: int
    group: int


class Norm(NamedTuple):
    """Gain and shift, float32, and their number in the kernels; 0 and None for none."""

    gain: Tensor | None
    shift: Tensor | None
    kind: int


@dataclass(frozen=True)
class Layer:
    """The weights of a block."""

    before_attention: Norm
    before_mlp: Norm
    of_query: Norm
    of_key: Norm
    qkv: Matrix
    out: Matrix
    up: Matrix
    down: Matrix


@dataclass
class Frame:
    """What the kernels of one cache and number of rows read and write: always the same memory.

    Attributes:
        given: int64; ids, unseen places, and the place that is written.
        stream: float32 "row dim"; the other vectors have their own widths.
    """

    rows: int
    store: Tensor
    cos: Tensor
    sin: Tensor
    given: Tensor
    stream: Tensor
    qkv: Tensor
    turned: Tensor
    mixed: Tensor
    hidden: Tensor
    logits: Tensor
    replay: Callable[[], None] | None = field(default=None, repr=False)


class CudaStep:
    """A model as the kernels read it.

    It holds every tensor whose memory they read. Make it anew after a weight was replaced.

    Args:
        model: one that `fits`.
        records: whether kernels are recorded and replayed; else they are called.
    """

    reads_prompts = reads_ahead = False

    def __init__(self, model: Any, *, records: bool = True):
        self._records, self._config = records, model.config
        self._entry, self._embed = model.decoder.entry, model.embed
        weight = next(model.parameters())
        self._dtype, self._device = weight.dtype, weight.device
        self._levels = torch.tensor(LEVELS, device=self._device)
        self._layers = [self._layer(block) for block in model.decoder.blocks]
        self._last, self._head = self._norm(model.decoder.norm), self._matrix([model.head])
        self._frames: WeakKeyDictionary[Cache, dict[int, Frame]] = WeakKeyDictionary()
        self._pool: Any = None

    def takes(self, rows: int) -> bool:
        """Whether so many rows at once are better read by it than by torch."""
        return rows <= MOST_ROWS

    @torch.inference_mode()
    def __call__(self, ids: Sequence[int], cache: Cache, padding: Sequence[int] | None) -> Tensor:
        """Float[row, vocab] on the device: the logits behind one more token of each row.

        Args:
            ids: the token of each row.
            cache: what was read before, of as many rows; it grows by them.
            padding: the unseen places at the beginning of each row; None for none.
        """
        rows = len(ids)
        assert rows == cache.rows, "a cache of other rows"
        assert cache.filled < cache.length, f"the cache of {cache.length} positions is full"
        assert cache.store.dtype == self._dtype, "a cache of another type"
        if not 0 <= min(ids) <= max(ids) < self._config.vocab_size:
            raise IndexError(f"no such token among {min(ids)} to {max(ids)}")
        frame = self._frame(cache, rows)
        more = frame.rows - rows  # they see what they write alone
        unseen = list(padding or [0] * rows) + [cache.filled] * more
        told = torch.tensor([*ids, *[0] * more, *unseen, cache.filled])
        frame.given.copy_(told.pin_memory() if self._records else told, non_blocking=True)
        self._run(frame)
        cache.advance(1)
        return frame.logits[:rows].clone()

    def _run(self, frame: Frame) -> None:
        if frame.replay is not None:
            frame.replay()
            return
        self._launch(frame)
        if not self._records:
            return
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        torch.cuda.current_stream().synchronize()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self._launch(frame)
        frame.replay = graph.replay  # what was computed stands; a replay would say the same

    def _frame(self, cache: Cache, rows: int) -> Frame:
        """Of the next power of two, as far as the cache has rows: then there are few of them."""
        rows = min(1 << (rows - 1).bit_length(), cache.store.shape[2])
        frames = self._frames.setdefault(cache, {})
        if rows not in frames or frames[rows].store is not cache.store:
            frames[rows] = self._made(cache, rows)
        return frames[rows]

    def _made(self, cache: Cache, rows: int) -> Frame:
        config = self._config
        turns = cache.rotary is not None
        tables = cache.rotary if turns else (cache.store, cache.store)
        cos, sin = (each.flatten(0, 2).float() if turns else each for each in tables)
        inner, kv_inner = config.heads * config.head_dim, config.kv_heads * config.head_dim
        wide = functools.partial(torch.empty, dtype=torch.float32, device=self._device)
        ready = wide if rows == 1 else functools.partial(wide, dtype=self._dtype)
        return Frame(
            rows, cache.store, cos, sin,
            given=torch.empty(2 * rows + 1, dtype=torch.long, device=self._device),
            stream=wide(rows, config.dim), qkv=wide(rows, inner + 2 * kv_inner),
            turned=wide(rows, inner), mixed=ready(rows, inner), hidden=ready(rows, config.hidden),
            logits=wide(rows, config.vocab_size),
        )  # fmt: skip

    def _launch(self, frame: Frame) -> None:
        """All kernels of a token, one behind the other."""
        config, rows, given = self._config, frame.rows, frame.given
        ids, unseen, here = given[:rows, None], given[rows:-1, None], given[-1]
        x = self._entry(self._embed(ids), (here - unseen).clamp_min(0), None)
        frame.stream.copy_(x[:, 0])
        nothing = Norm(None, None, 0)
        for number, layer in enumerate(self._layers):
            keys, values = frame.store[number].unbind()
            self._product(frame.stream, layer.before_attention, layer.qkv, frame.qkv)
            self._attend(frame, layer, keys, values)
            self._product(frame.mixed, nothing, layer.out, frame.stream, adds=True)
            kind = config.activation
            self._product(
                frame.stream, layer.before_mlp, layer.up, frame.hidden,
                kind=kind, gated=config.gated,
            )  # fmt: skip
            self._product(frame.hidden, nothing, layer.down, frame.stream, adds=True)
        self._product(frame.stream, self._last, self._head, frame.logits, cap=config.softcap)

    def _product(
        self, x: Tensor, norm: Norm, matrix: Matrix, y: Tensor, *, adds: bool = False,
        kind: str | None = None, gated: bool = False, cap: float | None = None,
    ) -> None:  # fmt: skip
        from yantai.base import kernels

        rows, outs, columns = len(x), matrix.outs // (2 if gated else 1), matrix.columns
        shared: dict[str, Any] = {
            "bits": matrix.bits, "group": matrix.group, "gated": gated, "adds": adds,
            "kind": -1 if kind is None else kernels.ACTIVATIONS.index(kind),
            "has_bias": matrix.bias is not None, "capped": cap is not None,
        }  # fmt: skip
        if rows == 1:
            tile = ONE
            kernels.product_one[(-(-outs // tile.outs),)](
                x, norm.gain, norm.shift, *matrix[:4], y, y, outs, columns,
                self._config.norm_eps, cap or 0.0, norm=norm.kind, **shared,
                OUTS=tile.outs, BLOCKS=tile.blocks, DEEP=16 if matrix.bits == 4 else 32,
                num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
            return
        if norm.kind:
            ready = x.new_empty(x.shape, dtype=self._dtype)
            wide = min(4096, 1 << (columns - 1).bit_length())
            kernels.normed[(rows,)](
                x, norm.gain, norm.shift, ready, columns, self._config.norm_eps,
                norm=norm.kind, WIDE=wide, num_warps=4,
            )  # fmt: skip
            x = ready
        tile = MANY
        kernels.product_many[(-(-outs // tile.outs), -(-rows // TOGETHER))](
            x, *matrix[:4], y, y, rows, outs, columns, cap or 0.0, **shared,
            ROWS=TOGETHER, OUTS=tile.outs, BLOCKS=tile.blocks,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip

    def _attend(self, frame: Frame, layer: Layer, keys: Tensor, values: Tensor) -> None:
        from yantai.base.kernels import look, place

        config, rows = self._config, frame.rows
        heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim
        length, padded = frame.store.shape[4], max(16, 1 << (width - 1).bit_length())
        shape = heads, kv_heads, width, length, keys.stride(0), rows
        place[(rows, heads + 2 * kv_heads)](
            frame.qkv, *layer.of_query[:2], *layer.of_key[:2], frame.cos, frame.sin, frame.given,
            keys, values, frame.turned, *shape, config.norm_eps,
            norm=layer.of_query.kind, turns=frame.cos is not frame.store, D=padded, num_warps=1,
        )  # fmt: skip
        shared = heads // kv_heads
        look[(rows, kv_heads)](
            frame.turned, keys, values, frame.given, frame.mixed, *shape, config.window or 0,
            width**-0.5 if "scores" in config.scaled else 1.0,
            shared=shared, QUERIES=max(16, 1 << (shared - 1).bit_length()), D=padded, KEYS=KEYS,
            num_warps=4, num_stages=2,
        )  # fmt: skip

    def _layer(self, block: Any) -> Layer:
        attention, mlp = block.attn.part, block.mlp.part
        return Layer(
            before_attention=self._norm(block.attn.norm), before_mlp=self._norm(block.mlp.norm),
            of_query=self._norm(attention.q_norm), of_key=self._norm(attention.k_norm),
            qkv=self._matrix(attention.qkv.parts), out=self._matrix([attention.out]),
            up=self._matrix(mlp.up.parts), down=self._matrix([mlp.down]),
        )  # fmt: skip

    def _norm(self, norm: Any) -> Norm:
        if norm is None:
            return Norm(None, None, 0)
        shift = getattr(norm, "bias", None)
        return Norm(
            norm.weight.detach().float(), None if shift is None else shift.detach().float(),
            NORMS[self._config.norm],
        )  # fmt: skip

    def _matrix(self, parts: Sequence[Any]) -> Matrix:
        """One matrix of parts that lie behind each other in memory, or are laid so."""
        first = parts[0]
        biases = [part.bias.detach().float() for part in parts if part.bias is not None]
        bias = torch.cat(biases) if biases else None
        if isinstance(first, PackedLinear | PackedTable):
            weight, scales = (joined([getattr(part, name) for part in parts])
                              for name in ("codes", "scales"))  # fmt: skip
            bits, group = first.form.bits, first.form.group
            columns = weight.shape[1] * 8 // bits
            return Matrix(weight, scales, self._levels, bias, len(weight), columns, bits, group)
        weight = joined([part.weight.detach() for part in parts])
        return Matrix(weight, weight, weight, bias, *weight.shape, 16, 1)


@functools.cache
def _works(device: int) -> bool:
    """Whether the kernels can be made: Triton, its compiler, a GPU that is new enough."""
    if importlib.util.find_spec("triton") is None:
        return False
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from yantai.base.kernels import activated

        return activated is not None
    except Exception as error:
        say(f"note: no kernels for this GPU ({error}); torch decodes")
        return False


def cuda_step(model: nn.Module) -> CudaStep | None:
    """The step of a GPU for a model, or None where it does not know all of it."""
    if not isinstance(model, Transformer):
        return None
    device = next(model.parameters()).device
    if device.type != "cuda" or not fits(model, "cuda") or not _works(device.index or 0):
        return None
    return CudaStep(model)
