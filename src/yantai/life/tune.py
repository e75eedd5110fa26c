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

from yantai.base.config import build, read_yaml
from yantai.base.errors import ResourceError, UsageError, YantaiError
from yantai.base.files import FolderLock, sha256_text, write_atomic, write_json
from yantai.base.log import say
from yantai.evaluate.compare import paired_t
from yantai.life.settings import Tune
from yantai.life.study import (
    Range,
    Space,
    begin_study,
    counted_trials,
    import_optuna,
    is_cut_off,
    put_back,
    take_trials,
)
from yantai.life.trial import Trial, run_trial
from yantai.life.tune_plots import plot_study

KEPT, TELLING = 3, 4
WATCH_SECONDS = 0.5


def tune(settings: Tune, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai tune`.

    Raises:
        UsageError: the recipe searches nothing, or what it names is no field; the folder is taken.
    """
    optuna = import_optuna()
    verb, recipe, space = read_search(settings.recipe)
    with FolderLock(settings.out):
        recipe_hash = sha256_text(settings.recipe.read_text(encoding="utf-8"))
        study = begin_study(settings, recipe_hash)
        put_back(study, settings.out)
        base = Trial(verb, recipe, settings.out, prune=settings.prune)
        _search(settings, base, space)
        put_back(study, settings.out)  # of a worker that was killed while the others went on
        made = len(counted_trials(study))
        if made < settings.trials:
            say(f"note: {made} of {settings.trials} trials were made; --resume makes the others")
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
    middle = {name: _values_of(choice)[0] for name, choice in fields.items()}
    base = Trial(verb, values, Path("out"))
    for name, choice in fields.items():  # a mistake is told now, not by thirty trials
        for value in _values_of(choice):
            base.settings(middle | {name: value}, Path("out"), 0)
    return verb, values, Space(fields=fields)


def _values_of(choice: Range | tuple[Any, ...]) -> tuple[Any, ...]:
    """All of them, or the borders."""
    if not isinstance(choice, Range):
        return choice
    ends = (choice.low, choice.high)
    return tuple(map(int, ends)) if choice.whole else ends


def middle_of_search(path: Path) -> dict[str, Any]:
    """A recipe with the first value of each of its choices, as if nothing was searched; without
    `out`, which a search decides itself.

    Raises:
        UsageError: as of `read_search`.
    """
    verb, values, space = read_search(path)
    first = {name: _values_of(choice)[0] for name, choice in space.fields.items()}
    return {"verb": verb, **values, **first}


def _search(settings: Tune, base: Trial, space: Space) -> None:
    """Run trials until there are enough, in this process or in several."""
    arguments = (settings, base, space)
    if settings.workers == 1:
        take_trials(*arguments, worker=0)
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
    """`take_trials` in a process of its own, which ends with its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(ResourceError.exit_status)  # nobody would hear of the trial

    threading.Thread(target=watch, daemon=True, name="yantai-parent").start()
    try:
        take_trials(settings, base, space, worker)
    except YantaiError as error:
        say(f"worker {worker}: error[{error.code}] {error}")
        sys.exit(error.exit_status)


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
    trials = counted_trials(study)
    means = [sum(row) / len(row) for row in finals]
    order = sorted(range(len(ranked)), key=lambda place: -means[place])
    best, second = order[0], order[1] if len(order) > 1 else None
    report: dict[str, Any] = {
        "trials": len(trials),
        "pruned": sum(each.state.name == "PRUNED" for each in trials),
        "failed": sum(each.state.name == "FAIL" for each in trials),
        "cut_off": sum(is_cut_off(each) for each in study.trials),
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
    if len(done) < TELLING or len({each.value for each in done}) < 2:
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
    if report["failed"]:
        lines[0] += f", {report['failed']} failed: see {out / 'trials'}"
    if report["cut_off"]:
        lines[0] += f"; taken up again after a stop: {report['cut_off']}"
    for place, each in enumerate(report["finalists"][:KEPT]):
        scores = ", ".join(f"{score:.4f}" for score in each["scores"])
        lines.append(f"  {place + 1}. {each['mean']:.4f} ({scores}) {each['values']}")
    if "against_second" in report:
        lines.append(f"first against second: {report['against_second']['verdict']}")
    if report["importance"]:
        shown = ", ".join(f"{name} {value:.0%}" for name, value in report["importance"].items())
        lines.append(f"what decides: {shown}")
    else:
        lines.append(
            f"what decides: not told, nor plotted, by fewer than {TELLING} trials that came to "
            "their end with different scores"
        )
    lines.append(f"best recipe: yantai run {out / 'best.yaml'}")
    return "\n".join(lines) + "\n"
