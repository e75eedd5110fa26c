"""What a look of the doctor is given, and what it says.

Knows: a recipe, a job, its rows; shares that are no accident. A finding is a level and a line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from yantai.life.jobs.job import Job
from yantai.training.recipe import Finetune

Finding = tuple[str, str]
SOME, MANY = 0.05, 0.2
"""Shares of the rows from which on a thing is no accident."""


@dataclass(frozen=True)
class Case:
    """What is looked at.

    Attributes:
        settings: the recipe.
        job: what is taught.
        train: its rows.
    """

    settings: Finetune
    job: Job
    train: Sequence[Any]


def share_of(case: Case, rows: Sequence[Any]) -> float:
    """How many of all rows these are."""
    return len(rows) / max(1, len(case.train))
