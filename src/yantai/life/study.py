"""The study of a search: where it is kept, who takes which trial, what a stop leaves behind.

Knows: Optuna and its journal. A trial is taken by one process at a time, under a lock, so that a
study makes as many as were asked for, whoever works on it; one that a stop cut off does not count
and is taken up again.
"""

import fcntl
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from yantai.base.config import Config
from yantai.base.errors import NumericsError, ResourceError, UsageError, YantaiError
from yantai.base.files import make_folder, write_atomic
from yantai.base.log import say
from yantai.life.settings import Tune
from yantai.life.trial import Trial, run_trial

CATCHES = (NumericsError, ResourceError, UsageError)
"""What values may break; other errors no values mend."""


class Range(Config):
    """Numbers between two borders."""

    low: float
    high: float
    log: bool = Field(False, description="even in the logarithm")
    whole: bool = Field(False, description="whole numbers alone")


class Space(Config):
    """What is searched: field → range, or the values to choose among."""

    fields: dict[str, Range | tuple[Any, ...]]

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Values of one trial."""
        found: dict[str, Any] = {}
        for name, choice in self.fields.items():
            if isinstance(choice, Range) and choice.whole:
                found[name] = trial.suggest_int(
                    name, int(choice.low), int(choice.high), log=choice.log
                )
            elif isinstance(choice, Range):
                found[name] = trial.suggest_float(name, choice.low, choice.high, log=choice.log)
            else:
                found[name] = trial.suggest_categorical(name, list(choice))
        return found


def import_optuna() -> Any:
    """Optuna, or what to do without it."""
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "E207", "optuna", "is not installed", do="pip install 'yantai[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failures are told in a line of ours
    return optuna


def begin_study(settings: Tune, recipe: str) -> Any:
    """The study of the folder, new or old."""
    journal = settings.out / "study.journal"
    if journal.exists() and not settings.resume:
        raise UsageError(
            "E204", settings.out, "holds a study already",
            do="go on with it by --resume, or choose another --out",
        )  # fmt: skip
    study = open_study(journal, settings.seed, prune=settings.prune)
    known = study.user_attrs.get("recipe")
    if known is not None and known != recipe:
        raise UsageError(
            "E205", settings.recipe, "is not the recipe that the study was begun with",
            do="restore it, or choose another --out",
        )  # fmt: skip
    study.set_user_attr("recipe", recipe)
    return study


def open_study(journal: Path, seed: int, *, prune: bool) -> Any:
    """The study of a journal; every process opens it for itself."""
    optuna = import_optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name="yantai",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=8),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
        if prune
        else optuna.pruners.NopPruner(),
    )


def put_back(study: Any, out: Path) -> None:
    """End the trials that a stop cut off, and queue their values; call it before anybody works."""
    states = import_optuna().trial.TrialState
    for each in study.get_trials(states=(states.RUNNING,)):
        study.tell(each.number, state=states.FAIL)
        study.enqueue_trial(each.params, skip_if_exists=False)
        shutil.rmtree(trial_folder(out, each.number), ignore_errors=True)
        say(f"trial {each.number}: was cut off by a stop and is taken up again")


def trial_folder(out: Path, number: int) -> Path:
    """Where a trial is run."""
    return out / "trials" / f"{number:04d}"


def counted_trials(study: Any) -> list[Any]:
    """Those that were tried or are tried now; no queued ones, none that a stop cut off."""
    return [
        each for each in study.trials
        if each.state.name != "WAITING" and not is_cut_off(each)
    ]  # fmt: skip


def is_cut_off(trial: Any) -> bool:
    """Whether it ended without a word: what values broke has an error."""
    return trial.state.name == "FAIL" and "error" not in trial.user_attrs


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One process at a time; the kernel drops the lock with the process."""
    with (folder / ".trials.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def take_trials(settings: Tune, base: Trial, space: Space, worker: int) -> None:
    """Take trials from the study until there are enough of them."""
    optuna = import_optuna()
    states = optuna.trial.TrialState
    journal = settings.out / "study.journal"
    before = len(open_study(journal, 0, prune=False).trials)  # or a session would repeat the last
    study = open_study(journal, settings.seed + 1000 * before + worker, prune=settings.prune)
    threads = 1 if settings.workers > 1 else None
    while True:
        with _alone(settings.out):
            if len(counted_trials(study)) >= settings.trials:
                return
            trial = study.ask()
            values = space.suggest(trial)
        folder = trial_folder(settings.out, trial.number)
        make_folder(folder.parent)
        try:
            score = run_trial(base, values, folder, 0, watch=trial, threads=threads)
        except optuna.TrialPruned:
            study.tell(trial, state=states.PRUNED)
        except YantaiError as error:
            line = f"error[{error.code}] {error}"
            trial.set_user_attr("error", line)
            study.tell(trial, state=states.FAIL)
            write_atomic(folder.with_suffix(".error.txt"), line + "\n")
            say(f"trial {trial.number}: {line}")
            if not isinstance(error, CATCHES):
                raise
        else:
            study.tell(trial, score)
            say(f"trial {trial.number}: {score:.4f} {values}")
