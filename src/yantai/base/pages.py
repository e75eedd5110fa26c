"""One piece of memory in large pages, handed out tensor by tensor.

Knows: bytes. Weights that are read from end to end at each token spend a tenth of that time on
looking up small pages.
"""

import mmap

import torch
from torch import Tensor

ALIGNMENT = 64
SMALLEST = 16 * 2**20


class LargePages:
    """Room for tensors of `size` bytes in all; the memory lives as long as any of them.

    Where the system knows no large pages, or the room is too small to gain by them, `place` gives
    back what it was given.
    """

    def __init__(self, size: int, count: int):
        self._memory: Tensor | None = None
        self._used = 0
        if size < SMALLEST or not hasattr(mmap, "MADV_HUGEPAGE"):
            return
        try:
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            memory = mmap.mmap(-1, size + count * ALIGNMENT, flags=private)
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without them, or a limit on address space
            return
        self._memory = torch.frombuffer(memory, dtype=torch.uint8)

    def place(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor on the CPU, row after row, here; itself if there is no room for it."""
        size = tensor.numel() * tensor.element_size()
        if self._memory is None or self._used + size > len(self._memory) or size == 0:
            return tensor
        here = self._memory[self._used : self._used + size].view(tensor.dtype).view(tensor.shape)
        self._used += -(-size // ALIGNMENT) * ALIGNMENT
        return here.copy_(tensor)
