"""One training of a search: settings out of a recipe and chosen values, a score back.

Knows: the two verbs that train. A trial never reads a test part.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from yantai.base.config import build
from yantai.life.finetune import teach
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Finetune, Pretrain


@dataclass(frozen=True)
class Trial:
    """What all trials of a study share.

    Attributes:
        verb: pretrain or finetune.
        recipe: its settings, without those that are searched.
        out: the study's folder.
        prune: whether a trial that falls behind is stopped.
    """

    verb: Literal["pretrain", "finetune"]
    recipe: dict[str, Any]
    out: Path
    prune: bool = False

    def settings(self, values: dict[str, Any], folder: Path, seed: int) -> Pretrain | Finetune:
        """The settings of one trial.

        Raises:
            UsageError: a field is unknown, or a value is not allowed.
        """
        first = self.recipe.get("seed", 0)
        table = {**self.recipe, **values, "out": folder, "seed": first + seed}
        if self.verb == "finetune":
            table.setdefault("split_seed", first)  # the test part of one is never read by another
        return build(Finetune if self.verb == "finetune" else Pretrain, table, "search")


def run_trial(
    base: Trial,
    values: dict[str, Any],
    folder: Path,
    seed: int,
    *,
    watch: Any = None,
    threads: int | None = None,
) -> float:
    """Train, and give the best validation score; high is good.

    Args:
        base: what all trials share.
        values: of the searched fields.
        folder: of this trial; what weighs much is removed at the end.
        seed: added to the recipe's.
        watch: Optuna's trial, which is told every score and may end it.
        threads: of this process.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a session that was stopped in it
    settings = base.settings(values, folder, seed)
    if threads is not None and settings.threads is None:
        settings = settings.model_copy(update={"threads": threads})
    report = reporter(watch) if watch is not None and base.prune else None
    try:
        if isinstance(settings, Finetune):
            result = teach(settings, report, tested=False).result
        else:
            result = pretrain(settings, report)
    finally:
        for name in ("checkpoints", "model", "last", "body", "tokens", "tokenizer"):
            shutil.rmtree(folder / name, ignore_errors=True)
    return float(result["best_score"])


def reporter(watch: Any) -> Callable[[int, float], None]:
    """Tell Optuna a score; it may say that this is enough."""
    import optuna

    validations = 0

    def report(step: int, score: float) -> None:
        nonlocal validations
        validations += 1
        watch.report(score, validations)
        if watch.should_prune():
            raise optuna.TrialPruned

    return report
