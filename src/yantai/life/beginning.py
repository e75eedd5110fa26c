"""What a fine-tuning begins with: a body, given or made of the rows' own texts; heads; adapters.

Knows: model folders. Nothing of the job is learned here.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from yantai.adapt.lora import LoRA, add_lora, carry_over, merge
from yantai.base.errors import UsageError
from yantai.base.log import say
from yantai.core.face import Model
from yantai.core.first_sight import look_at_all
from yantai.core.model import Transformer
from yantai.data.examples import ExampleRows
from yantai.families.adapter import is_adapter
from yantai.families.folder import load_folder
from yantai.families.hub import local_folder
from yantai.families.packed_folder import refuse_packed
from yantai.families.rules import Family
from yantai.infer.opening import adapted
from yantai.life.jobs.job import Job, Prepared
from yantai.life.rows import Parts, rows_that_fit, sample_of
from yantai.tasks.frame import Frame
from yantai.text.tokenizer import MAX_LENGTH, Tokenizer
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Finetune, Pretrain
from yantai.training.setup import fill_in

WARM_UP_EPOCHS = 10
UNREAD_EPOCHS = 6.0
UNREAD_DROPOUT, UNREAD_ADVERSARIAL = 0.1, 0.5
UNREAD_SIZE = "nano"
BYTES_A_TOKEN = 4


def settled(settings: Finetune, job: Job, parts: Parts, asked: Finetune) -> Finetune:
    """With what `scratch` means for these rows, where nothing else was said.

    A body that has little to read begins to judge at once: on a few hundred kilobytes, guessing
    hidden tokens costs it more than it gains. It then reads the rows more often, with dropout, and
    with its vectors moved against it: that is worth two points of accuracy (LOG, 2026-11-29). It
    is small then, and there in a fifth of the time.

    Args:
        settings: the recipe, its rates filled in.
        job, parts: what is learned, from which rows.
        asked: the recipe as it was given.
    """
    if settings.model != "scratch":
        return settings
    given, chosen = asked.model_fields_set, dict[str, Any]()
    own = sum(len(text.encode()) for text in texts_of(job, parts))
    if settings.pretrain_minutes is None and not settings.pretrain_on and own < job.least_text:
        chosen["pretrain_minutes"] = 0.0
        say(
            f"the rows hold {own / 1e3:,.0f} kB of text: judged unread; --pretrain-on gives it more"
        )
    settings = settings.model_copy(update=chosen)
    if job.least_text and reads_nothing(settings):
        if not given & {"epochs", "minutes", "steps", "tokens"}:
            chosen["epochs"] = UNREAD_EPOCHS
        if "dropout" not in given:
            chosen["dropout"] = UNREAD_DROPOUT
        if "adversarial" not in given:
            chosen["adversarial"] = UNREAD_ADVERSARIAL
        if "size" not in given:
            small = fill_in(asked.model_copy(update={"size": UNREAD_SIZE}))
            chosen |= {name: getattr(small, name) for name in ("size", "rate", "matrix_rate")}
            chosen["context"] = small.context
    return settings.model_copy(update=chosen)


def reads_nothing(settings: Finetune) -> bool:
    """Whether the body is made from scratch and judges before it has read anything."""
    return settings.model == "scratch" and settings.pretrain_minutes == 0


def body_of(settings: Finetune, job: Job, parts: Parts) -> Path:
    """The model to begin with; from scratch, one that has read the rows' own texts.

    These ten times, and what else it is given once, unless its minutes are said.

    Raises:
        UsageError: there is no such folder, and none could be fetched.
    """
    if settings.model != "scratch":
        return local_folder(settings.model)
    texts, body = settings.out / "texts.jsonl", settings.out / "body"
    if (body / "model").is_dir() and (body / "receipt.json").is_file():
        return body / "model"
    rows = texts_of(job, parts)
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in rows)
    texts.write_text("".join(lines), encoding="utf-8")
    minutes = settings.pretrain_minutes
    budget: dict[str, Any] = {"minutes": minutes} if minutes else {"steps": 1}
    if minutes is None:
        own = sum(len(text.encode()) for text in rows)
        others = sum(size_of(path) for path in settings.pretrain_on)
        budget = {"tokens": max(1, (WARM_UP_EPOCHS * own + others) // BYTES_A_TOKEN)}
    pretrain(
        Pretrain(
            data=(texts, *settings.pretrain_on), out=body, size=settings.size,
            family=settings.family or job.usual_family, context=settings.context,
            vocab_size=settings.vocab_size, token_kind=settings.token_kind or job.usual_kind,
            token_bytes=settings.token_bytes,
            seed=settings.seed,
            threads=settings.threads, device=settings.device, dtype=settings.dtype,
            dropout=settings.dropout, resume=(body / "recipe.json").is_file(), **budget,
        )
    )  # fmt: skip
    return body / "model"


def texts_of(job: Job, parts: Parts) -> list[str]:
    """What the training rows read, once: many questions may be about one text."""
    return list(dict.fromkeys(job.text_of(row) for row in parts.train))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@dataclass(frozen=True)
class Begun:
    """A model that is about to learn, and its examples.

    `parts` are the rows that it can read; `lora` says what adapters are like, where they alone
    learn, and `base` whose they are.
    """

    model: Model
    family: Family
    tokenizer: Tokenizer
    frame: Frame
    parts: Parts
    valid: list[Any]
    prepared: Prepared
    lora: LoRA | None = None
    base: str = ""


def begin(settings: Finetune, job: Job, parts: Parts, body: Path, device: torch.device) -> Begun:
    """Everything that a training needs.

    Raises:
        UsageError: the model cannot learn the task, or an adapter that goes on was to be another.
    """
    lora, base = None, ""
    if is_adapter(body):
        loaded, family, theirs, lora, base = adapted(body, torch.float32, device)
        if not settings.lora:
            loaded, lora = merge(loaded), None
        elif settings.model_fields_set & {"lora_rank", "lora_alpha", "lora_targets"}:
            raise UsageError(
                "E203", "lora", "the adapter that goes on has its own rank and targets"
            )
    else:
        loaded, family, theirs = load_folder(body, dtype=torch.float32, device=device)
    refuse_packed(loaded, body)
    tokenizer = Tokenizer.load(body)
    model, family = job.network(loaded, family, settings)
    if family.job:
        tokenizer = tokenizer.with_both_ends()
    if job.least_text and reads_nothing(settings):
        _hear_all(model, settings.seed)
    if lora is not None and job.judges:  # its body was built anew, for its head
        carry_over(loaded, model, lora)
    length = settings.context or 1
    if model.config.position in ("learned", "rotary"):
        length = min(length, model.config.max_positions)
    tokenizer.settings[MAX_LENGTH] = length  # whoever uses the model reads no more than was learned
    frame = Frame(tokenizer, model.config.shape, length, theirs.get("decoder_start_token_id"))
    if settings.on_bad_row == "quarantine":
        kept = {
            name: rows_that_fit(job, frame, rows, settings.out / "quarantine" / name)
            for name, rows in vars(parts).items()
            if rows
        }
        parts = replace(parts, **kept)
    job.look_before(model, frame, parts.test)
    valid = sample_of(parts.valid)
    prepared = job.prepare(frame, parts.train, valid, settings.seed)
    _say_truncated(prepared.train, length)
    if lora is None and settings.lora:
        lora, base = _lora(settings), _base(settings, body)
        add_lora(model, lora, seed=settings.seed)
    return Begun(model, family, tokenizer, frame, parts, valid, prepared, lora, base)


def _hear_all(model: Model, seed: int) -> None:
    """Let an encoder judge the mean of a text at first; others stay as they are."""
    if isinstance(model, Transformer) and model.encoder is not None and model.decoder is None:
        look_at_all(model.encoder, torch.Generator().manual_seed(seed))


def _base(settings: Finetune, body: Path) -> str:
    """Where an adapter's model is, from the adapter's folder if it lies in the same run."""
    if settings.model == "scratch":
        return os.path.relpath(body.resolve(), (settings.out / "model").resolve())
    return str(body.resolve()) if Path(settings.model).is_dir() else settings.model


def _lora(settings: Finetune) -> LoRA:
    given = {"targets": settings.lora_targets} if settings.lora_targets else {}
    return LoRA(
        rank=settings.lora_rank, alpha=settings.lora_alpha, dropout=settings.lora_dropout,
        stabilised=settings.lora_stabilised, **given,
    )  # fmt: skip


def _say_truncated(rows: ExampleRows, length: int) -> None:
    if rows.truncated:
        share = rows.truncated / len(rows.examples)
        say(
            f"note: {rows.truncated:,} of {len(rows.examples):,} texts ({share:.1%}) have more "
            f"than {length} tokens and are cut; the first: {rows.cut[0]}"
        )
