"""How the blocks of a model are called in training: compiled, recomputed, or both.

Knows: what is before and what is behind the attention of a block. Each of these pieces is compiled
once, and all layers share the code. Attention itself stays outside: who sees whom is found on the
host, and its kernels are compiled already. Names and weights of the model are as they were.
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from yantai.base.log import duration, say
from yantai.core.cache import Cache
from yantai.core.face import Model
from yantai.core.head import loss_of_chunk
from yantai.core.layers import look
from yantai.core.model import Transformer
from yantai.core.position import Rotary
from yantai.core.stack import Block, Sight

LONG_FLOPS = 1e16
LONG_SECONDS = 120.0
"""Shorter runs would be over before the compilation has paid."""


def compiles(
    asked: bool | None, device: torch.device, *, flops: float, seconds: float | None
) -> bool:
    """Whether a run compiles its blocks.

    Args:
        asked: what the recipe says; None asks for it in long runs on a GPU.
        device: of the model.
        flops: of all steps, where their number is known, else 0.
        seconds: the budget of time, where there is one.
    """
    if asked is not None:
        return asked
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return flops >= LONG_FLOPS if seconds is None else seconds >= LONG_SECONDS


def arrange(model: Model, *, compiled: bool, recompute: bool, trial: Callable[[], Tensor]) -> bool:
    """Say how a model's blocks are called; returns whether they are compiled.

    Args:
        model: changed in place; one without blocks is left alone.
        compiled: whether to try; where that fails blocks are called as they are, and it is told.
        recompute: whether to keep nothing inside a block for the backward.
        trial: the loss of a batch of the run, with which the code is made.
    """
    if not isinstance(model, Transformer):
        return False
    compiled = compiled and _compile(model, recompute, trial)
    if not compiled:
        _set_around(model, _as_it_is, recompute)
    return compiled


def _compile(model: Transformer, recompute: bool, trial: Callable[[], Tensor]) -> bool:
    began = time.perf_counter()
    pieces = CompiledBlock()
    _set_around(model, pieces, recompute)
    parameters = [each for each in model.parameters() if each.requires_grad]
    try:
        if parameters[0].device.type == "cuda":
            model.head.of_chunk = torch.compile(loss_of_chunk)
        torch.autograd.grad(trial(), parameters, allow_unused=True)
    except Exception as error:  # whatever a compiler, its cache or its shell may say
        model.head.of_chunk = None
        _say_failed(error)
        return False
    if pieces.failed:  # and was told: the loss goes with the blocks
        model.head.of_chunk = None
        return False
    say(f"blocks compiled in {duration(time.perf_counter() - began)}")
    return True


def _set_around(model: Transformer, call: Callable, recompute: bool) -> None:
    for stack in model.stacks:
        stack.around = _recomputed(call) if recompute else None if call is _as_it_is else call


def _as_it_is(block: Block, *inputs: Any) -> Tensor:
    return block(*inputs)


def _recomputed(call: Callable) -> Callable:
    def around(block: Block, *inputs: Any) -> Tensor:
        return checkpoint(call, block, *inputs, use_reentrant=False)

    return around


def _say_failed(error: Exception) -> None:
    first = next(iter(str(error).strip().splitlines()), "")
    say(f"note: blocks are not compiled, the run goes on without: {type(error).__name__}: {first}")


def _failures() -> tuple[type[Exception], ...]:
    from torch._dynamo import exc

    return exc.TorchDynamoException, getattr(exc, "FailOnRecompileLimitHit", RecursionError)


class CompiledBlock:
    """A block's call in compiled pieces while it learns, and as it is while it is asked."""

    def __init__(self) -> None:
        self.failed = False
        pieces: list[Callable[..., Any]] = [
            torch.compile(piece, fullgraph=True, dynamic=False) for piece in (_begin, _cross, _end)
        ]
        self._begin, self._cross, self._end = pieces

    def __call__(
        self, block: Block, x: Tensor, sight: Sight, cache: Cache | None, layer: int
    ) -> Tensor:
        """The block's output."""
        if self.failed or cache is not None or not (block.training and torch.is_grad_enabled()):
            return block(x, sight, cache, layer)
        try:
            return self._pieces(block, x, sight)
        except _failures() as error:  # of a shape that the trial had not, or of too many shapes
            self.failed = True
            _say_failed(error)
            return block(x, sight, cache, layer)

    def _pieces(self, block: Any, x: Tensor, sight: Sight) -> Tensor:
        x = look(block.resid_pre, x)
        mixed = block.attn.part.mix(*self._begin(block, x, sight.rotary), sight.mask)
        if block.cross is not None:
            assert sight.memory is not None
            x, *heads = self._cross(block, x, mixed, sight.memory.hidden)
            mixed = block.cross.part.mix(*heads, sight.memory.mask)
        return look(block.resid_post, self._end(block, x, mixed))


def _begin(block: Any, x: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of the stream."""
    return block.attn.part.read(block.attn.enter(x), None, rotary)


def _cross(block: Any, x: Tensor, mixed: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
    """The stream behind its own attention; and what the attention across needs."""
    x = block.attn.leave(x, block.attn.part.write(mixed))
    return x, *block.cross.part.read(block.cross.enter(x), memory)


def _end(block: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """The stream behind the last attention and the MLP."""
    last = block.attn if block.cross is None else block.cross
    x = look(block.resid_mid, last.leave(x, last.part.write(mixed)))
    return block.mlp(x)
