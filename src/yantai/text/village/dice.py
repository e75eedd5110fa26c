"""Chance that can be repeated: mixing, dice and a permutation.

Knows only integers and strings. Uses no `hash()` and no `random`, so that the same seed gives the
same world in every process and every version of Python.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

MASK = (1 << 64) - 1


def mix(*parts: int | str) -> int:
    """64 well-mixed bits out of the parts (SplitMix64 finaliser; strings by FNV-1a)."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        if isinstance(part, str):
            value = 0xCBF29CE484222325
            for byte in part.encode():
                value = ((value ^ byte) * 0x100000001B3) & MASK
        else:
            value = part & MASK
        state = (state ^ value) + 0x9E3779B97F4A7C15 & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state


class Dice:
    """A SplitMix64 stream."""

    __slots__ = ("state",)

    def __init__(self, *seed: int | str) -> None:
        self.state = mix(*seed)

    def below(self, bound: int) -> int:
        """A whole number in [0, bound)."""
        self.state = state = (self.state + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        return (state ^ (state >> 31)) % bound

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return self.below(1 << 32) < share * (1 << 32)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """A new list with the items in another order (Fisher-Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result


def permute(index: int, size: int, seed: int) -> int:
    """The image of `index` under a seeded permutation of range(size).

    A four-round Feistel network on the next even number of bits, walked until it lands inside
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). A bijection, because each
    round can be undone and the walk stays on one cycle.
    """
    if not 0 <= index < size:
        raise ValueError(f"index {index} is outside range({size})")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = index
    while True:
        left, right = value >> half, value & mask
        for round_number in range(4):
            left, right = right, left ^ (mix(seed, round_number, right) & mask)
        value = left << half | right
        if value < size:
            return value
