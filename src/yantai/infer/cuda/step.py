"""The compiled step of a GPU over a model and its cache: tokens in, logits out.

Knows: kernels and graphs. Some two hundred kernels a token would be called more slowly than they
run, so they are recorded once for a cache and a number of rows, and replayed as one. A row is a
token: of one of several texts, or of a prompt. A model with anything in it that the kernels do not
know gets None, and torch decodes.
"""

import functools
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from yantai.base.log import say
from yantai.base.native.build import SWITCH
from yantai.core.cache import Cache
from yantai.core.model import Transformer
from yantai.infer.cuda.trial import fault_of, kind_of
from yantai.infer.cuda.weights import Layer, Matrix, Norm, Weights
from yantai.infer.native.step import fits

TOGETHER, MOST_ROWS = 16, 64
"""Rows that a product of several takes at once, however few there are: so each has the same bits
beside any others; and above how many texts torch computes better."""
PIECES = (16, 64, 256)
"""Tokens of a prompt that are read at once: the least of these that holds them."""
KEYS = 64
"""Keys that attention looks at at a time."""
WIDE = 8192
"""Rows of a matrix above which there are programs enough, and each should do more."""
RECORDING = threading.Lock()
"""A thread that records waits for the GPU before, which no other may do while one records."""


class Tile(NamedTuple):
    """What one program of a product does at a time.

    Attributes:
        outs: rows of the matrix.
        blocks: of 32 columns.
        warps, stages: threads, and loads that are under way.
    """

    outs: int
    blocks: int
    warps: int = 4
    stages: int = 4


# as measured on an H200, for matrices of 576 × 576 to 16,384 × 2,048; by bits, and whether wide
ONE = {
    (16, False): Tile(4, 32), (8, False): Tile(4, 16), (4, False): Tile(4, 32),
    (16, True): Tile(8, 16), (8, True): Tile(4, 16), (4, True): Tile(8, 16),
}  # fmt: skip
# with loads made ahead, each level that is looked up would be a copy of four bytes
MANY = {
    (16, False): Tile(16, 4), (8, False): Tile(16, 4, 2, 5), (4, False): Tile(16, 8, 4, 1),
    (16, True): Tile(32, 4), (8, True): Tile(32, 4, 4, 3), (4, True): Tile(32, 4, 4, 1),
}  # fmt: skip


@dataclass
class Frame:
    """What the kernels of one cache and number of rows read and write: always the same memory.

    Attributes:
        given: int64; of each row its id, the unseen places before it, its place and its row of the
            cache; and last the row whose logits are wanted, where not all are.
        stream: float32 "row dim"; the other vectors have their own widths.
    """

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

    @property
    def rows(self) -> int:
        """How many there are, those that are none included."""
        return len(self.stream)

    @property
    def says_one(self) -> bool:
        """Whether the logits of one row are wanted, not of all."""
        return len(self.logits) < self.rows


class CudaStep:
    """A model as the kernels read it; make it anew after a weight was replaced.

    Args:
        model: one that `fits`.
        records: whether kernels are recorded and replayed; else they are called.

    Attributes:
        reads_prompts: whether `prompt` is a good way to read one.
        reads_ahead: whether several tokens of a text can be read with the bits of single steps.
    """

    reads_ahead = False

    def __init__(self, model: Any, *, records: bool = True):
        self._records, self._config = records, model.config
        self._entry, self._embed = model.decoder.entry, model.embed
        weight = next(model.parameters())
        self._dtype, self._device = weight.dtype, weight.device
        self._weights = Weights(model)
        scaling = model.config.rotary_scaling
        self.reads_prompts = scaling is None or scaling.kind != "dynamic"
        self._frames: WeakKeyDictionary[Cache, dict[tuple[int, bool], Frame]]
        self._frames = WeakKeyDictionary()
        self._reading: Cache | None = None
        self._pool: Any = None
        self._stream = torch.cuda.Stream(self._device) if records else None

    def takes(self, rows: int) -> bool:
        """Whether so many texts at once are better read by it than by torch."""
        return rows <= MOST_ROWS

    @torch.inference_mode()
    def __call__(self, ids: Sequence[int], cache: Cache, padding: Sequence[int] | None) -> Tensor:
        """Float[row, vocab] on the device: the logits behind one more token of each text.

        Args:
            ids: the token of each.
            cache: what was read before, of as many rows; it grows by them.
            padding: the unseen places at the beginning of each row; None for none.
        """
        rows = len(ids)
        assert rows == cache.rows, "a cache of other rows"
        self._check(ids, cache, 1)
        unseen = list(padding or [0] * rows)
        frame = self._frame(cache, 1 << (rows - 1).bit_length(), says_one=False)
        self._run(frame, ids, unseen, [cache.filled] * rows, range(rows))
        cache.advance(1)
        return frame.logits[:rows].clone()

    @torch.inference_mode()
    def prompt(self, ids: Sequence[int], cache: Cache, padding: int = 0) -> Tensor:
        """Float[vocab] on the device: tokens of one text behind each other; the last one's logits.

        However a prompt is cut, its bits are the same. It is read in a cache that stays, for which
        the kernels are recorded, and moves from there.

        Args:
            ids: the tokens.
            cache: what was read before, of one row; it grows by all of them.
            padding: the unseen places at its beginning.
        """
        assert cache.rows == 1 and ids, "a cache of other rows"
        self._check(ids, cache, len(ids))
        before, stop = cache.filled, cache.filled + len(ids)
        own = self._reading_cache(stop)
        own.store[:, :, 0, :, :before] = cache.store[:, :, 0, :, :before]
        frame = None
        for start in range(0, len(ids), PIECES[-1]):
            piece = ids[start : start + PIECES[-1]]
            rows = next(size for size in PIECES if size >= len(piece))
            first = before + start
            frame = self._frame(own, rows, says_one=True)
            places = range(first, first + len(piece))
            self._run(frame, piece, [padding] * len(piece), places, [0] * len(piece))
        assert frame is not None
        cache.store[:, :, 0, :, before:stop] = own.store[:, :, 0, :, before:stop]
        cache.advance(len(ids))
        return frame.logits[0].clone()

    def _check(self, ids: Sequence[int], cache: Cache, more: int) -> None:
        full = f"the cache of {cache.length} positions is full"
        assert cache.filled + more <= cache.length, full
        assert cache.store.dtype == self._dtype, "a cache of another type"
        if not 0 <= min(ids) <= max(ids) < self._config.vocab_size:
            raise IndexError(f"no such token among {min(ids)} to {max(ids)}")

    def _reading_cache(self, length: int) -> Cache:
        own = self._reading
        if own is None or own.length < length:
            longer = max(PIECES[-1], 1 << (length - 1).bit_length())
            own = Cache(self._config, 1, longer, dtype=self._dtype, device=self._device)
            self._reading = own
        return own

    def _run(
        self, frame: Frame, ids: Sequence[int], unseen: Sequence[int], places: Sequence[int],
        slots: Sequence[int],
    ) -> None:  # fmt: skip
        """Tell the frame what it is about, and let the kernels run."""
        more = frame.rows - len(ids)  # rows that are none: at a place below 0
        none = [0] * more
        told = [*ids, *none, *unseen, *none, *places, *[-1] * more, *slots, *none, len(ids) - 1]
        here = torch.tensor(told)
        frame.given.copy_(here.pin_memory() if self._records else here, non_blocking=True)
        if frame.replay is not None:
            frame.replay()
            return
        self._launch(frame)
        if not self._records:
            return
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        how: dict[str, Any] = {"stream": self._stream, "capture_error_mode": "thread_local"}
        with RECORDING, torch.cuda.graph(graph, pool=self._pool, **how):
            self._launch(frame)
        frame.replay = graph.replay  # what was computed stands; a replay would say the same

    def _frame(self, cache: Cache, rows: int, *, says_one: bool) -> Frame:
        """Made at the first call for a cache and a number of rows."""
        frames = self._frames.setdefault(cache, {})
        known = frames.get((rows, says_one))
        if known is None or known.store is not cache.store:
            known = frames[rows, says_one] = self._made(cache, rows, said=1 if says_one else rows)
        return known

    def _made(self, cache: Cache, rows: int, said: int) -> Frame:
        config = self._config
        turns = cache.rotary is not None
        tables = cache.rotary if turns else (cache.store, cache.store)
        cos, sin = (each.flatten(0, 2).float() if turns else each for each in tables)
        inner, kv_inner = config.heads * config.head_dim, config.kv_heads * config.head_dim
        wide = functools.partial(torch.empty, dtype=torch.float32, device=self._device)
        ready = wide if rows == 1 else functools.partial(wide, dtype=self._dtype)
        return Frame(
            cache.store, cos, sin,
            given=torch.empty(4 * rows + 1, dtype=torch.long, device=self._device),
            stream=wide(rows, config.dim), qkv=wide(rows, inner + 2 * kv_inner),
            turned=wide(rows, inner), mixed=ready(rows, inner), hidden=ready(rows, config.hidden),
            logits=wide(said, config.vocab_size),
        )  # fmt: skip

    def _launch(self, frame: Frame) -> None:
        """All kernels of a step, one behind the other."""
        config, weights, rows = self._config, self._weights, frame.rows
        ids, unseen, here, _ = frame.given[:-1].view(4, rows, 1)
        frame.stream.copy_(self._entry(self._embed(ids), (here - unseen).clamp_min(0), None)[:, 0])
        for number, layer in enumerate(weights.layers):
            self._product(frame.stream, layer.before_attention, layer.qkv, frame.qkv)
            self._attend(frame, layer, *frame.store[number].unbind())
            self._product(frame.mixed, Norm(), layer.out, frame.stream, adds=True)
            self._product(
                frame.stream, layer.before_mlp, layer.up, frame.hidden,
                kind=config.activation, gated=config.gated,
            )  # fmt: skip
            self._product(frame.hidden, Norm(), layer.down, frame.stream, adds=True)
        last = frame.stream
        if frame.says_one:
            last = last.index_select(0, frame.given[-1:])
        self._product(last, weights.last, weights.head, frame.logits, cap=config.softcap)

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
        tile = (ONE if rows == 1 else MANY)[matrix.bits, outs >= WIDE]
        shared |= {
            "OUTS": tile.outs, "BLOCKS": tile.blocks,
            "num_warps": tile.warps, "num_stages": tile.stages,
        }  # fmt: skip
        if rows == 1:
            kernels.product_one[(-(-outs // tile.outs),)](
                x, norm.gain, norm.shift, *matrix[:4], y, y, outs, columns,
                self._config.norm_eps, cap or 0.0, norm=norm.kind,
                DEEP=16 if matrix.bits == 4 else 32, **shared,
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
        kernels.product_many[(-(-outs // tile.outs), -(-rows // TOGETHER))](
            x, *matrix[:4], y, y, rows, outs, columns, cap or 0.0, ROWS=TOGETHER, **shared
        )

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


def _is_wanted(device: torch.device) -> bool:
    """Whether kernels can be made: Triton is there, the GPU is new enough, nobody said no."""
    return (
        os.environ.get(SWITCH, "1") != "0"
        and importlib.util.find_spec("triton") is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


_FAULTS: dict[tuple[Any, ...], str] = {}
"""Of each kind of model that was tried: why torch decodes it; empty where the kernels do."""


def tried(make: Callable[[Any], Any], model: nn.Module) -> Any:
    """The step, if what it says of this kind of model is what torch says; else None, and a line."""
    kind = kind_of(model)
    try:
        step = make(model)
        fault = _FAULTS[kind] if kind in _FAULTS else fault_of(step, model)
    except Exception as error:
        step, fault = None, f"{type(error).__name__}: {error}"
    if fault and kind not in _FAULTS:
        say(f"note: torch decodes, the kernels for this GPU do not ({fault})")
    _FAULTS[kind] = fault
    return None if fault else step


def cuda_step(model: nn.Module) -> CudaStep | None:
    """The step of a GPU for a model, or None where it does not know all of it, or has failed."""
    if not isinstance(model, Transformer):
        return None
    device = next(model.parameters()).device
    if device.type != "cuda" or not fits(model, "cuda") or not _is_wanted(device):
        return None
    return tried(CudaStep, model)
