"""How threads of OpenMP wait for each other, decided before any of them is begun.

Knows: the environment. GNU's OpenMP reads it once, when torch is imported, and has no other switch.
"""

import os

SPINS = "20000"
"""Rounds that a thread looks whether the others are there before it sleeps; libgomp's own number is
fifteen times as much, and costs a training whose core another program wants nine tenths of its
speed. Without such a program no difference was seen (LOG, 2026-11-29)."""


def wait_briefly() -> None:
    """Let threads that wait give their core away soon, unless the user has said how they wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
