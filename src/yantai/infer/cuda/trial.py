"""Whether the kernels say what torch says, asked once for each kind of model before they are used.

Knows: a step and the model that it stands for. A driver, a compiler or a chip that nobody has tried
may make something else of a kernel; then torch decodes, and a line says so.
"""

from typing import Any

import torch
from torch import Tensor

from yantai.adapt.quantize import PackedLinear
from yantai.core.cache import Cache

PROMPT = 19
"""Tokens that are read."""
FAR = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far all logits together may be off, as a share: bfloat16 is rounded in another order."""


def kind_of(model: Any) -> tuple[Any, ...]:
    """What decides which kernels a model needs."""
    first = next(model.parameters())
    forms = {each.form for each in model.modules() if isinstance(each, PackedLinear)}
    return str(model.config), first.dtype, first.device, frozenset(forms)


@torch.inference_mode()
def fault_of(step: Any, model: Any) -> str:
    """What is wrong with a step: an error, or how far it is off; empty where nothing is.

    A prompt, two tokens behind it, and a token of each of two texts are read both ways.
    """
    try:
        return next((why for why in _faults(step, model)), "")
    except Exception as error:  # of a compiler, a driver, a kernel
        first = next(iter(str(error).strip().splitlines()), "")
        return f"{type(error).__name__}: {first}"


def _faults(step: Any, model: Any):
    config, parameter = model.config, next(model.parameters())
    device, dtype, count = parameter.device, parameter.dtype, min(PROMPT, config.max_positions - 2)
    ids = [(7 * place + 3) % config.vocab_size for place in range(count)]
    read = torch.tensor([ids], device=device)
    ours, theirs = (Cache(config, 1, count + 2, dtype=dtype, device=device) for _ in range(2))
    expected = model(read, cache=theirs)[0, -1]
    if step.reads_prompts:
        yield from _difference("a prompt", step.prompt(ids, ours), expected)
    else:
        model.hidden(read, cache=ours)
    for place in range(2):  # the second one sees what the first has left
        expected = model(read[:, place : place + 1], cache=theirs)[0]
        yield from _difference("a token", step(ids[place : place + 1], ours, None), expected)

    ours, theirs = (Cache(config, 2, count + 1, dtype=dtype, device=device) for _ in range(2))
    both = torch.cat((read, read.flip(1)))
    for cache in (ours, theirs):
        model.hidden(both, cache=cache)
    expected = model(both[:, :1], cache=theirs)[:, 0]
    yield from _difference("two texts", step(both[:, 0].tolist(), ours, None), expected)


def _difference(what: str, got: Tensor, expected: Tensor):
    got, wanted = got.double().cpu(), expected.double().cpu()
    share = float((got - wanted).norm() / wanted.norm().clamp_min(1e-30))
    if not share < FAR[expected.dtype]:
        yield f"logits of {what} are off by a share of {share:.2g}"
