"""The compiled decoding step of a model, on whichever device it is.

Knows: that there are two, for a CPU and for a GPU; both are called alike.
"""

import torch
from torch import Tensor, nn

from yantai.infer.cuda.step import CudaStep, cuda_step
from yantai.infer.native.step import NativeStep, native_step

CompiledStep = NativeStep | CudaStep


def compiled_step(model: nn.Module) -> CompiledStep | None:
    """The step for a model, or None where torch decodes."""
    return native_step(model) or cuda_step(model)


def at_hand(logits: Tensor) -> Tensor:
    """The logits where tokens are chosen: in the memory of the processor.

    A choice is made of many small questions, and a GPU takes its time to answer each.
    """
    if logits.device.type != "cuda":
        return logits
    here = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
    here.copy_(logits, non_blocking=True)
    torch.cuda.current_stream(logits.device).synchronize()
    return here
