"""Codes as numbers, by the compiled part: one pass over memory where torch needs ten.

Knows: pointers. Where the part cannot be made, or does not know a type or a device, there is None,
and `packed.py` does it in torch's steps, to the same bits.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from yantai.base.native.build import NUMBERS, library

SOURCE = Path(__file__).with_name("unpack.cpp")
WHOLE, POINTER = ctypes.c_int64, ctypes.c_void_p


def unpacked(
    codes: Tensor, scales: Tensor, levels: Tensor, bits: int, group: int, dtype: torch.dtype
) -> Tensor | None:
    """The matrix that codes stand for, "row column".

    Args:
        codes, scales: as of `packed.py`.
        levels: sixteen float32 numbers, of four bits.
        bits, group: of the form.
        dtype: of the result.
    """
    plain = codes.device.type == "cpu" and codes.is_contiguous() and scales.is_contiguous()
    if not plain or dtype not in NUMBERS or scales.dtype != torch.bfloat16 or not codes.numel():
        return None
    loaded = library(SOURCE, NUMBERS[dtype])
    if loaded is None:
        return None
    rows, columns = len(codes), codes.shape[1] * 8 // bits
    out = torch.empty(rows, columns, dtype=dtype)
    pointers = [POINTER(each.data_ptr()) for each in (codes, scales, levels, out)]
    numbers = (rows, columns, group, bits, torch.get_num_threads())
    loaded.unpack(*pointers, *map(WHOLE, numbers))
    return out
