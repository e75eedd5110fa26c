"""A run's folder: who may begin in it, and what it is remembered by.

Knows: the names of what a run leaves. Nothing that somebody else put there is ever replaced.
"""

import json
import uuid
from pathlib import Path
from typing import Any

from yantai.base.errors import UsageError
from yantai.base.files import recover_folder, remove_folder, remove_temporaries, write_json
from yantai.base.log import say
from yantai.training.recipe import Training

KEPT = ("tokens", "body", "checkpoints", "metrics.jsonl", "model", "last")
"""What a run has that is worth keeping."""


def check_resumable(settings: Any) -> None:
    """Before a folder is touched: what is to be resumed is there, or can begin.

    A command that is repeated with `--resume` until it is done may have been killed before its run
    had a recipe; so this is an error only where nothing says what to begin with.

    Raises:
        UsageError: E206, there is no run, and no data for one.
    """
    if not settings.resume or (settings.out / "recipe.json").is_file():
        return
    if not settings.data:
        raise UsageError(
            "E206", settings.out, "holds no run to resume", do="check --out, or give --data"
        )
    say(f"note: {settings.out} holds no run; one begins")


def begin_run(settings: Any) -> None:
    """Refuse to run over an existing run; tidy up after a crashed one; name the run.

    A run that stopped before it had any tokens or rows has nothing to lose, and begins anew.

    Raises:
        UsageError: E204, the folder holds a run and `resume` was not asked for; or it holds
            something else under a name that the run would use.
    """
    recipe = settings.out / "recipe.json"
    began = [name for name in KEPT if (settings.out / name).exists()]
    if recipe.exists() and not began and not settings.resume:
        recipe.unlink()
        remove_folder(settings.out / "tokenizer")
    if not recipe.exists():
        taken = next(
            (name for name in (*KEPT, "tokenizer") if (settings.out / name).exists()), None
        )
        if taken is not None:
            raise UsageError(
                "E204", settings.out / taken, "is there already, and no run made it",
                do="choose another --out",
            )  # fmt: skip
    elif not settings.resume:
        raise UsageError(
            "E204",
            settings.out,
            "holds a run already",
            do="continue it with --resume, or choose another --out",
        )
    remove_temporaries(settings.out)
    for name in ("model", "last", "tokenizer"):
        recover_folder(settings.out / name)
    if not recipe.exists():
        write_recipe(settings.out, uuid.uuid4().hex[:12], settings)


def settle_run(settings: Any) -> None:
    """What a run that has begun was not told, and is known now, is part of its recipe."""
    recipe = settings.out / "recipe.json"
    if not settings.resume:
        write_recipe(settings.out, json.loads(recipe.read_text(encoding="utf-8"))["run"], settings)


def write_recipe(folder: Path, run: str, settings: Training) -> None:
    """What a later --resume starts from; what was allowed once is not allowed for ever."""
    kept = settings.model_dump(mode="json", exclude={"resume", "allow_change"})
    write_json(folder / "recipe.json", {"run": run, "settings": kept})
