"""Which compiled parts a run of this type takes, in words, for receipts and for resuming."""

from pathlib import Path

import torch

from yantai.base.native.build import NUMBERS, library
from yantai.core.native import elementwise, range_attention


def kernels(dtype: torch.dtype, device: torch.device) -> str:
    """Names of the compiled libraries with the hash of what they were made from, or `torch`."""
    if dtype not in NUMBERS or device.type != "cpu":
        return "torch"
    sources = (elementwise.SOURCE, range_attention.SOURCE)
    found = [library(source, NUMBERS[dtype]) for source in sources]
    return ", ".join(Path(each._name).stem for each in found if each is not None) or "torch"
