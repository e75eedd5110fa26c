"""The whole life of a small model on one machine, in about five minutes.

Knows: the order of the stages and how the minutes are shared. Text comes from the village, so no
data is needed and every score has a truth.

    DIR/village.jsonl → DIR/pretrain/ → DIR/chat/ → DIR/model/ → DIR/scores.json, receipt.json
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from yantai.base.device import choose_device, prepare_process, tiny_is_zero
from yantai.base.errors import UsageError
from yantai.base.files import FolderLock, new_folder, write_json
from yantai.base.log import duration, say
from yantai.infer.opening import load
from yantai.life.settings import Quickstart
from yantai.life.village_scores import LANGUAGES, score_all
from yantai.serve.run import port_or_any, serve
from yantai.serve.settings import PORT, Serve
from yantai.text.village import Village
from yantai.training.chat_tune import ChatTuning, chat_tune
from yantai.training.plan import energy_estimate
from yantai.training.pretrain import pretrain
from yantai.training.receipt import file_hashes, receipt
from yantai.training.recipe import Pretrain

PRETRAIN_SHARE, CHAT_SHARE = 0.46, 0.47
DOCUMENTS_PER_MINUTE, ROWS_PER_MINUTE = 6000, 4000
PEOPLE = 12
# what a small model can learn in five minutes, all under much the same sky; the village has more
PLOTS = ("letter", "ruined_cake", "stopped_clock", "the_lie")
WORLD: dict[str, Any] = {"people": PEOPLE, "plots": PLOTS, "company": "friends", "headings": True}


def quickstart(settings: Quickstart, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai quickstart`.

    Raises:
        UsageError: the folder holds something already.
    """
    out = settings.out
    if out.exists() and any(path.name != ".lock" for path in out.iterdir()):
        raise UsageError(
            "E204", out, "is not empty", do=f"choose another --out, or remove {out} first"
        )
    with FolderLock(out):
        result = _live(settings, emit)
    if settings.serve and not settings.no_serve and sys.stdin.isatty() and sys.stdout.isatty():
        model = out / "model"
        say(
            f"\nYour model is in {model}. Talk to it on its page, in English or Chinese; Ctrl-C "
            f"ends it. `yantai serve {model}` opens it again, `yantai chat {model}` is a chat here."
            " Only requests that fail are told here."
        )
        port = port_or_any("127.0.0.1", PORT)
        serve(Serve(models=(str(model),), port=port, log="errors"), emit)
    return result


@tiny_is_zero()
def _live(settings: Quickstart, emit: Callable[[str], None]) -> dict[str, Any]:
    out, began = settings.out, time.monotonic()
    prepare_process(settings.threads)
    village = Village(seed=settings.seed, **WORLD)
    _write_village(village, out / "village.jsonl", settings.minutes)
    _title(2, "pretraining on its stories")
    tokens = _pretrain(settings, out)
    _title(3, "learning to converse")
    tuned = _tune(settings, village, out)
    with new_folder(out / "model") as folder:
        shutil.copytree(out / "chat" / "model", folder, dirs_exist_ok=True)
    _title(4, "scores")
    scores = score_all(load(out / "model", dtype="auto"), village)
    write_json(out / "scores.json", scores)
    emit(_table(scores))
    seconds = time.monotonic() - began
    device = choose_device()
    energy = energy_estimate(seconds, device, torch.get_num_threads())
    facts = {
        "seconds": round(seconds, 1),
        "tokens": tokens["tokens"] + tuned["tokens"],
        "parameters": tuned["parameters"],
        "energy": energy,
        "facts_in_the_world": len(village.world.facts),
    }
    outputs = {f"model/{name}": digest for name, digest in file_hashes(out / "model").items()}
    inputs = {"village": {"seed": settings.seed, **WORLD}}
    write_json(
        out / "receipt.json", receipt("quickstart", settings, inputs, outputs, facts, device)
    )
    weights = outputs["model/model.safetensors"]
    emit(
        f"{duration(seconds)}, {facts['tokens']:,} tokens, {energy['watt_hours']:.1f} Wh by "
        f"estimate ({energy['basis']})\nweights sha256 {weights[:16]}… · {out / 'receipt.json'}\n"
    )
    return {"model": str(out / "model"), "scores": scores, **facts}


def _title(number: int, text: str) -> None:
    say(f"\n[{number}/4] {text}")


def _write_village(village: Village, path: Path, minutes: float) -> None:
    _title(1, f"a village of {PEOPLE} people, {len(village.world.facts)} facts")
    count = max(2000, int(DOCUMENTS_PER_MINUTE * minutes))
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for row in village.documents(count, languages=LANGUAGES):
            size += file.write(json.dumps(row, ensure_ascii=False) + "\n")
    for language in LANGUAGES:
        story = next(iter(village.stories(1, language)))
        say(f"  {story.text[:160]}…")
    say(f"  {count:,} documents, {size / 1e6:.1f} million characters")


def _pretrain(settings: Quickstart, out: Path) -> dict[str, Any]:
    return pretrain(
        Pretrain(
            data=(out / "village.jsonl",),
            out=out / "pretrain",
            minutes=settings.minutes * PRETRAIN_SHARE,
            seed=settings.seed,
            threads=settings.threads,
            **RECIPE,
        )
    )


def _tune(settings: Quickstart, village: Village, out: Path) -> dict[str, Any]:
    count = max(1000, int(ROWS_PER_MINUTE * settings.minutes))
    talk: Any = village.dialogues(count, languages=LANGUAGES, kinds=TALK)
    rows = [row["messages"] for row in talk]
    tuning = ChatTuning(
        model=out / "pretrain" / "model",
        out=out / "chat",
        minutes=settings.minutes * CHAT_SHARE,
        seed=settings.seed,
        threads=settings.threads,
        **TUNING,
    )
    return chat_tune(tuning, rows)


TALK = {
    "fact": 6,
    "story": 8,
    "open": 2,
    "unknown": 2,
    "identity": 1,
}
# one schedule in two runs: the rate stays high while stories are read, and falls over the talk
RECIPE: dict[str, Any] = {
    "size": "nano",
    "layers": 4,
    "dim": 128,
    "heads": 2,
    "vocab_size": 4096,
    "token_bytes": 8,
    "context": 1024,
    "batch": 4,
    "rate": 1.6e-2,
    "valid_tokens": 16_384,
    "weight_decay": 0.02,
    "schedule": "constant",
}
TUNING: dict[str, Any] = {
    "size": "nano",
    "context": 1024,
    "batch": 2,
    "matrix_rate": 0.02,
    "rate": 1.6e-2,
    "warmup": 5,
    "cooldown": 0.7,
    "valid_tokens": 8_192,
    "weight_decay": 0.0,
}


def _table(scores: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, row in scores.items():
        cells = [f"{language} {_cell(name, row[language])}" for language in LANGUAGES]
        lines.append(f"  {name:30} " + "   ".join(cells))
    return "\n".join(lines) + "\n"


def _cell(name: str, item: dict[str, Any]) -> str:
    form = ".3f" if name.startswith("bits") else ".1%"
    value, low, high = (format(item[key], form) for key in ("value", "low", "high"))
    chance = "" if name.startswith("bits") else f" chance {item['chance']:.0%}"
    return f"{value} [{low}, {high}]{chance}"
