"""The mistakes that are looked for before every fine-tuning, since they cost nothing to see.

Knows: rates that nobody means, and rows that are in two parts. `yantai doctor` knows many more.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yantai.base.log import counted, say
from yantai.life.doctor_case import Finding
from yantai.life.jobs.job import Job
from yantai.training.recipe import Finetune

SANE = {"rate": (1e-6, 0.05), "matrix_rate": (1e-5, 0.1)}


def look_first(asked: Finetune, job: Job, parts: Mapping[str, Sequence[Any]]) -> None:
    """Say what is odd before the first step; the run goes on.

    Args:
        asked: the recipe as it was given.
        job: what is learned.
        parts: rows of `train`, `valid`, `test`.
    """
    for kind, line in (*odd_rates(asked), *rows_in_both(job, parts, {})):
        if kind == "problem":
            say(f"doctor: {line}")


def odd_rates(settings: Finetune) -> Iterator[Finding]:
    """Rates that are orders of magnitude from what anything learns at."""
    for name, (low, high) in SANE.items():
        rate = getattr(settings, name)
        if rate is not None and not low <= rate <= high:
            yield ("problem", f"{name} {rate:g} is far from sane ({low:g} to {high:g})")


def key_of(text: str) -> str:
    """A text without what does not matter: case, spaces, punctuation at its ends."""
    return re.sub(r"\s+", " ", text).strip(" .,!?;:。，！？；：").casefold()


def rows_in_both(
    job: Job, parts: Mapping[str, Sequence[Any]], files: Mapping[str, Any]
) -> Iterator[Finding]:
    """Texts of the validation or test part that training has too, but for case and the like."""
    train = parts["train"]
    known = {key_of(job.text_of(row)): row for row in train}
    letters = {job.text_of(row) for row in train}
    for part in ("valid", "test"):
        same = [row for row in parts.get(part, []) if key_of(job.text_of(row)) in known]
        if not same:
            continue
        twin = known[key_of(job.text_of(same[0]))]
        exactly = sum(job.text_of(row) in letters for row in same)
        be = "is" if len(same) == 1 else "are"
        line = f"{counted(len(same), 'row')} {be} in the training part too"
        if exactly < len(same):
            line += f" ({exactly:,} to the letter, others but for case, spaces or a full stop)"
        where = files.get(part) or f"the {part} part"
        yield ("problem", f"{where}: {line}, such as {same[0].place}, which is {twin.place}")
