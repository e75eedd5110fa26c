"""What would spoil rows of two texts: a column out of step, targets that were cut or are shared.

Knows: sources, targets, and the order in which they stand in their file.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yantai.life.doctor_case import MANY, SOME, Case, Finding, share_of

STRETCH, APART, TOGETHER = 40, 0.2, 0.65
"""Rows side by side, and rank correlations of lengths that such a stretch has by chance rarely."""
NAMED = re.compile(r"\d+|[A-Z][a-z]{2,}")


def out_of_step(case: Case) -> Iterator[Finding]:
    """Targets whose numbers and names are those of a neighbour's source."""
    rows = sorted(case.train, key=_line_of)
    said = [(set(NAMED.findall(row.source)), set(NAMED.findall(row.target))) for row in rows]
    for step in (1, -1):
        odd = []
        for place, (_, target) in enumerate(said):
            other = place + step
            if not 0 <= other < len(said) or not target:
                continue
            own, theirs = len(said[place][0] & target), len(said[other][0] & target)
            if theirs > own:
                odd.append(rows[place])
        if share_of(case, odd) > SOME:
            where = "next" if step == 1 else "row before"
            line = f"{len(odd):,} targets have the numbers or names of the {where}"
            yield ("problem", f"{odd[0].place}: {line}: are the two columns out of step?")
            return


def _line_of(row: Any) -> int:
    return int(re.sub(r"\D", "", row.place.rpartition(":")[2]) or 0)


def lengths_out_of_step(case: Case) -> Iterator[Finding]:
    """Targets as long as a neighbour's source would have them be, for a stretch of the rows.

    Translations are long where their sources are, whatever the languages: where that holds for the
    row before or behind and not for the row itself, a column has slipped.
    """
    rows = sorted(case.train, key=_line_of)
    sources, targets = (
        np.array([math.log1p(len(getattr(row, name))) for row in rows])
        for name in ("source", "target")
    )
    for start in range(1, len(rows) - STRETCH, STRETCH // 2):
        own = _alike(sources[start : start + STRETCH], targets[start : start + STRETCH])
        for step, neighbour in ((-1, "row before"), (1, "next row")):
            moved = sources[start + step : start + step + STRETCH]
            other = _alike(moved, targets[start : start + STRETCH])
            if own < APART and other > TOGETHER:
                line = f"from about here on targets are as long as the source of the {neighbour}"
                yield ("problem", f"{rows[start].place}: {line}: are the columns out of step?")
                return


def _alike(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The correlation of their ranks; 0 where all are alike."""
    if len(one) < STRETCH or one.std() == 0 or other.std() == 0:
        return 0.0
    from scipy.stats import spearmanr  # seconds to import

    return float(spearmanr(one, other).statistic)


def cut_targets(case: Case) -> Iterator[Finding]:
    """Targets that were cut at a length."""
    sizes = Counter(len(row.target) for row in case.train)
    longest = max(sizes, default=0)
    cut = [row for row in case.train if len(row.target) == longest and row.target[-1:].isalnum()]
    piled = len(cut) > 3 * sizes[longest - 1] or longest > 20
    wide = any(each > "\u2e80" for row in cut[:1] for each in row.target)
    if longest > (9 if wide else 20) and piled and share_of(case, cut) > SOME:
        line = f"{len(cut):,} targets are {longest} characters long, and none is longer"
        yield ("problem", f"{cut[0].place}: {line}: were they cut?")


def one_target(case: Case) -> Iterator[Finding]:
    """Texts that belong to more than one other: those of the batch are told apart from it."""
    groups = defaultdict(list)
    for row in case.train:
        groups[row.target.strip()].append(row)
    again = [group for group in groups.values() if len(group) > 1]
    rows = sum(len(group) - 1 for group in again)
    if rows / max(1, len(case.train)) > MANY:
        first, second = again[0][:2]
        line = f"{rows:,} rows have the target of another, such as {second.place} and {first.place}"
        yield (
            "problem",
            f"{second.place}: {line}: in a batch the right text would count as a wrong one",
        )
