"""`yantai tune`: a recipe whose fields are searched; trials, finalists, the best recipe.

Knows: search spaces and the order of a study. Optuna chooses what is tried, and which trial is not
worth its end; its journal is a file, so that several processes can work on one study and a stopped
one goes on. Finalists are run again with the same further seeds. A trial is scored by its
validation part; no test part is read.

    OUT/study.journal  trials/0000/…  finalists/0-1/…  best.yaml  study.json  study.html
"""

import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from yantai.base.config import Config, build, read_yaml
from yantai.base.errors import NumericsError, ResourceError, UsageError, YantaiError
from yantai.base.files import FolderLock, sha256_text, write_atomic, write_json
from yantai.base.log import say
from yantai.evaluate.compare import paired_t
from yantai.life.settings import Tune
from yantai.life.trial import Trial, run_trial
from yantai.life.tune_plots import plot_study

KEPT = 3
WATCH_SECONDS = 0.5


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


def tune(settings: Tune, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai tune`.

    Raises:
        UsageError: the recipe searches nothing, or what it names is no field; the folder is taken.
    """
    optuna = _optuna()
    verb, recipe, space = read_search(settings.recipe)
    with FolderLock(settings.out):
        study = _study(optuna, settings, sha256_text(settings.recipe.read_text(encoding="utf-8")))
        base = Trial(verb, recipe, settings.out, prune=settings.prune)
        _search(settings, base, space)
        done = [each for each in study.trials if each.state.name == "COMPLETE"]
        if not done:
            errors = [each.user_attrs["error"] for each in study.trials if each.user_attrs]
            raise UsageError(
                "E203", settings.recipe, "no trial came to its end",
                got=errors[-1] if errors else "no error", do="mend what the last one says",
            )  # fmt: skip
        ranked = sorted(done, key=lambda each: -each.value)[: settings.finalists]
        finals = _finals(settings, base, [each.params for each in ranked])
        report = _report(optuna, settings, study, ranked, finals)
        _write_best(settings, verb, recipe, report["best"]["values"])
        write_json(settings.out / "study.json", report)
        plot_study(study, report["importance"], settings.out)
    emit(_told(report, settings.out))
    return report


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "E207", "optuna", "is not installed", do="pip install 'yantai[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failures are told in a line of ours
    return optuna


def read_search(path: Path) -> tuple[Literal["pretrain", "finetune"], dict[str, Any], Space]:
    """A recipe, and what of it is searched.

    Raises:
        UsageError: there is no search in it, or a searched field is none of the recipe.
    """
    values = read_yaml(path)
    verb, search = values.pop("verb", None), values.pop("search", None)
    if verb not in ("pretrain", "finetune"):
        raise UsageError("E202", f"{path}:verb", "no training", expected="pretrain or finetune")
    if not isinstance(search, dict) or not search:
        raise UsageError(
            "E203", f"{path}:search", "nothing is searched",
            expected="a table, such as {rate: {low: 1e-4, high: 1e-2, log: true}}",
        )  # fmt: skip
    fields: dict[str, Range | tuple[Any, ...]] = {}
    for name, choice in search.items():
        if isinstance(choice, dict):
            borders = build(Range, choice, f"{path}:search.{name}")
            fields[name] = borders
            if not borders.low < borders.high:
                raise UsageError("E201", f"{path}:search.{name}", "low must be below high")
        elif isinstance(choice, list) and choice:
            fields[name] = tuple(choice)
        else:
            raise UsageError(
                "E201", f"{path}:search.{name}", "neither a range nor choices", got=choice
            )
    values.pop("out", None)
    Trial(verb, values, Path("out")).settings(
        {name: _middle(choice) for name, choice in fields.items()}, Path("out"), 0
    )  # a mistake in the recipe is told now, not by thirty trials
    return verb, values, Space(fields=fields)


def _middle(choice: Range | tuple[Any, ...]) -> Any:
    if not isinstance(choice, Range):
        return choice[0]
    return int(choice.low) if choice.whole else choice.low


def _study(optuna: Any, settings: Tune, recipe: str) -> Any:
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
    optuna = _optuna()
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


def _search(settings: Tune, base: Trial, space: Space) -> None:
    """Run trials until there are enough, in this process or in several."""
    arguments = (settings, base, space)
    if settings.workers == 1:
        work(*arguments, worker=0)
        return
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work_apart, args=(*arguments, number, os.getpid()))
        for number in range(settings.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def work_apart(settings: Tune, base: Trial, space: Space, worker: int, parent: int) -> None:
    """`work` in a process of its own, which ends with its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(ResourceError.exit_status)  # nobody would hear of the trial

    threading.Thread(target=watch, daemon=True, name="yantai-parent").start()
    try:
        work(settings, base, space, worker)
    except YantaiError as error:
        say(f"worker {worker}: error[{error.code}] {error}")
        sys.exit(error.exit_status)


def work(settings: Tune, base: Trial, space: Space, worker: int) -> None:
    """Take trials from the study until there are enough of them."""
    optuna = _optuna()
    journal = settings.out / "study.journal"
    before = len(open_study(journal, 0, prune=False).trials)  # or a session would repeat the last
    study = open_study(journal, settings.seed + 1000 * before + worker, prune=settings.prune)
    states = optuna.trial.TrialState
    enough = optuna.study.MaxTrialsCallback(
        settings.trials, states=(states.COMPLETE, states.PRUNED, states.FAIL)
    )
    threads = 1 if settings.workers > 1 else None

    def objective(trial: Any) -> float:
        values = space.suggest(trial)
        folder = settings.out / "trials" / f"{trial.number:04d}"
        try:
            score = run_trial(base, values, folder, 0, watch=trial, threads=threads)
        except YantaiError as error:
            line = f"error[{error.code}] {error}"
            trial.set_user_attr("error", line)
            write_atomic(folder.with_suffix(".error.txt"), line + "\n")
            say(f"trial {trial.number}: {line}")
            raise
        say(f"trial {trial.number}: {score:.4f} {values}")
        return score

    finished = sum(each.state.is_finished() for each in study.trials)
    if finished < settings.trials:
        study.optimize(
            objective,
            callbacks=[enough],
            catch=(NumericsError, ResourceError, UsageError),  # others are of no values
        )


def _finals(settings: Tune, base: Trial, chosen: list[dict[str, Any]]) -> list[list[float]]:
    """Scores of each finalist by seed; a seed decides data order and first weights of all alike."""
    scores = []
    for place, values in enumerate(chosen):
        row = []
        for seed in range(1, settings.seeds + 1):
            folder = settings.out / "finalists" / f"{place}-{seed}"
            kept = folder / "score.json"
            if kept.is_file() and json.loads(kept.read_text())["values"] == values:
                row.append(json.loads(kept.read_text())["score"])
                continue
            shutil.rmtree(folder, ignore_errors=True)
            score = run_trial(base, values, folder, seed)
            write_json(kept, {"values": values, "score": score})
            row.append(score)
        say(f"finalist {place}: {row} {values}")
        scores.append(row)
    return scores


def _report(
    optuna: Any, settings: Tune, study: Any, ranked: list[Any], finals: list[list[float]]
) -> dict[str, Any]:
    means = [sum(row) / len(row) for row in finals]
    order = sorted(range(len(ranked)), key=lambda place: -means[place])
    best, second = order[0], order[1] if len(order) > 1 else None
    report: dict[str, Any] = {
        "trials": len(study.trials),
        "pruned": sum(each.state.name == "PRUNED" for each in study.trials),
        "failed": sum(each.state.name == "FAIL" for each in study.trials),
        "best": {"values": ranked[best].params, "mean": means[best], "scores": finals[best]},
        "finalists": [
            {"values": ranked[place].params, "mean": means[place], "scores": finals[place]}
            for place in order
        ],
        "importance": _importance(optuna, study),
    }
    if second is not None and settings.seeds > 1:
        apart = [a - b for a, b in zip(finals[best], finals[second], strict=True)]
        verdicts = ("the first is better", "the second is better")
        report["against_second"] = paired_t(apart, verdicts)
    return report


def _importance(optuna: Any, study: Any) -> dict[str, float]:
    """How much each field decides the score; nothing where there are too few trials to say."""
    done = [each for each in study.trials if each.state.name == "COMPLETE"]
    if len(done) < 4 or len({each.value for each in done}) < 2:
        return {}
    found = optuna.importance.get_param_importances(study)
    return {name: round(float(value), 4) for name, value in found.items()}


def _write_best(settings: Tune, verb: str, recipe: dict[str, Any], values: dict[str, Any]) -> None:
    """The recipe that reruns the best trial."""
    table = {"verb": verb, **recipe, **values, "out": str(settings.out / "best")}
    text = yaml.safe_dump(table, sort_keys=False, allow_unicode=True)
    write_atomic(settings.out / "best.yaml", text)


def _told(report: dict[str, Any], out: Path) -> str:
    lines = [f"{report['trials']} trials, {report['pruned']} stopped early"]
    for place, each in enumerate(report["finalists"][:KEPT]):
        scores = ", ".join(f"{score:.4f}" for score in each["scores"])
        lines.append(f"  {place + 1}. {each['mean']:.4f} ({scores}) {each['values']}")
    if "against_second" in report:
        lines.append(f"first against second: {report['against_second']['verdict']}")
    if report["importance"]:
        shown = ", ".join(f"{name} {value:.0%}" for name, value in report["importance"].items())
        lines.append(f"what decides: {shown}")
    lines.append(f"best recipe: yantai run {out / 'best.yaml'}")
    return "\n".join(lines) + "\n"
