"""`yantai finetune`: rows of examples → a model that does the job → its score on unseen rows.

Knows: the order of the stages; what a job is, `jobs/` knows. The test part is read once, by the
model that the validation part chose; what it is compared with learned from the same rows.

    OUT/recipe.json  texts.jsonl, body/ (from scratch)  quarantine/  checkpoints/  metrics.jsonl
    OUT/model/ (best by validation)  last/  scores.json  receipt.json
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from yantai.adapt.lora import LoRA, add_lora, merge
from yantai.base.device import choose_device, prepare_process
from yantai.base.errors import DataError, UsageError
from yantai.base.files import FolderLock, sha256_text, write_json
from yantai.base.log import counted, say
from yantai.core.face import Model
from yantai.data.examples import ExampleRows, batches_of
from yantai.data.labelled import share_groups, share_out
from yantai.data.loader import Loader
from yantai.evaluate.compare import interval_text
from yantai.families.adapter import is_adapter
from yantai.families.folder import load_folder, read_config_json
from yantai.families.hub import local_folder
from yantai.families.rules import Family
from yantai.families.table import family_named, family_of
from yantai.infer.opening import adapted, load
from yantai.life.jobs import JOBS
from yantai.life.jobs.job import Job, Prepared
from yantai.life.preview import as_table, coloured
from yantai.life.remember import Old, forgetting, old_documents, replayed, told
from yantai.tasks.frame import Frame
from yantai.text.tokenizer import MAX_LENGTH, Tokenizer
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Finetune, Pretrain
from yantai.training.run_folder import begin_run, check_resumable
from yantai.training.setup import Report, Setup, fill_in, run_training

SHARES = (0.8, 0.1, 0.1)
EPOCHS = 3.0
WARM_UP_EPOCHS = 10
VALIDATION_ROWS = 2000


@dataclass(frozen=True)
class Parts:
    """The rows, by what they are for."""

    train: list[Any]
    valid: list[Any]
    test: list[Any]


@dataclass(frozen=True)
class Taught:
    """A model that has learned, before anybody has looked at the test part.

    Attributes:
        job: what it learned.
        parts: the rows.
        frame: how it reads.
        body: the model that it was before.
        old: documents which that one knows.
        result: the figures of the run.
    """

    job: Job
    parts: Parts
    frame: Frame
    body: Path
    old: Old | None
    result: dict[str, Any]


def finetune(settings: Finetune, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai finetune`.

    Raises:
        DataError: a row is bad, a label is unknown, there is one class only.
        UsageError: the folder holds a run, or the model cannot learn the task.
    """
    if settings.preview:
        return _preview(settings, emit)
    taught = teach(settings)
    job, parts = taught.job, taught.parts
    best = load(settings.out / "model", dtype="float32", device=settings.device)
    said = job.predict(best.network, taught.frame, parts.test)
    report = {"task": job.name, **job.report(parts.train, parts.test, said, settings.seed)}
    shown = table_of(report)
    if taught.old is not None and best.shape == "decoder" and not best.job:
        before = load(taught.body, dtype="float32", device=settings.device)
        report["forgotten"] = forgetting(taught.old, before, best, settings.seed)
        shown += told(report["forgotten"])
    write_json(settings.out / "scores.json", report)
    emit(f"{shown}{taught.result['model']}\n")
    return {"model": taught.result["model"], **report, "training": taught.result}


def teach(settings: Finetune, report: Report | None = None, *, tested: bool = True) -> Taught:
    """Everything but the test: arguments and errors as of `finetune`.

    Args:
        settings: the recipe.
        report: is told (step, score) of every validation, and may end the run by raising.
        tested: whether a test follows, for which some jobs measure the model before it learns.
    """
    job = JOBS[settings.task](settings)
    if settings.model == "scratch":
        family = settings.family or job.usual_family
        job.check_family(family_named(family))  # before anything is begun
        settings = settings.model_copy(update={"family": family})
    settings = _filled(settings)
    check_resumable(settings)
    with FolderLock(settings.out):
        begin_run(settings)
        device = choose_device(settings.device)
        prepare_process(settings.threads, deterministic=settings.deterministic)
        parts = _parts(settings, job)
        body = _body(settings, job, parts)
        seen = parts if tested else replace(parts, test=[])
        old = old_documents(settings) if tested or settings.replay else None
        result, frame = _train(settings, job, seen, body, old, device, report)
    return Taught(job, parts, frame, body, old, result)


def _preview(settings: Finetune, emit: Callable[[str], None]) -> dict[str, Any]:
    """Show the first examples as the model would read them; nothing is trained or written.

    Raises:
        UsageError: a model from scratch has no tokenizer yet.
    """
    if settings.model == "scratch":
        raise UsageError(
            "E203", "preview", "a model from scratch has no tokenizer yet", do="name a model"
        )
    job, settings = JOBS[settings.task](settings), _filled(settings)
    parts = _parts(settings, job)
    body = local_folder(settings.model)
    unseen = replace(parts, test=[])
    begun = _begin(settings, job, unseen, body, choose_device(settings.device))
    shown = begun.prepared.train.examples[: settings.preview]
    for example in shown:
        emit(coloured(example, begun.tokenizer) + "\n")
    return {"preview": [as_table(example, begun.tokenizer) for example in shown]}


def _filled(settings: Finetune) -> Finetune:
    """With the rates that suit the family of the model that is to learn."""
    if settings.model == "scratch":
        return fill_in(settings)
    folder = local_folder(settings.model)
    if is_adapter(folder):
        return fill_in(settings)
    kind = read_config_json(folder).get("model_type")
    return fill_in(settings, family_of(kind, str(folder)).name)


def _parts(settings: Finetune, job: Job) -> Parts:
    """The rows that were given, and shares of the training rows where a part was not."""
    given = {"train": settings.data, "valid": settings.valid, "test": settings.test}
    rows = {name: _read(settings, job, name, path) for name, path in given.items() if path}
    missing = [name for name in ("valid", "test") if name not in rows]
    shares = (SHARES[0], *(SHARES[1] for _ in missing))
    share = share_groups if job.together else share_out
    seed = settings.seed if settings.split_seed is None else settings.split_seed
    rows["train"], *others = share(rows["train"], shares, seed)
    rows |= dict(zip(missing, others, strict=True))
    job.learn(rows["train"], settings.data)
    for name in ("valid", "test"):
        job.check(rows[name])
        if not rows[name]:
            raise DataError(
                "E305", settings.data, f"too few rows for a {name} part",
                got=sum(map(len, rows.values())), do=f"give more, or --{name}",
            )  # fmt: skip
    say("rows: " + ", ".join(f"{len(part):,} {name}" for name, part in rows.items()))
    return Parts(rows["train"], rows["valid"], rows["test"])


def _read(settings: Finetune, job: Job, name: str, path: Path) -> list[Any]:
    keeps = settings.on_bad_row == "quarantine"
    quarantine = settings.out / "quarantine" / name
    rows, account = job.read(
        path, columns=settings.columns or None, encoding=settings.encoding,
        policy=settings.on_bad_row, quarantine=quarantine if keeps else None,
    )  # fmt: skip
    kept_back = sum(account.quarantined.values())
    if kept_back:
        say(f"note: {path}: {kept_back:,} bad rows are in {quarantine}")
    return rows


def _body(settings: Finetune, job: Job, parts: Parts) -> Path:
    """The model to begin with; from scratch, one that has read the rows' own texts."""
    if settings.model != "scratch":
        return local_folder(settings.model)
    texts, body = settings.out / "texts.jsonl", settings.out / "body"
    if (body / "model").is_dir() and (body / "receipt.json").is_file():
        return body / "model"
    rows = [job.text_of(row) for row in parts.train]
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in rows)
    texts.write_text("".join(lines), encoding="utf-8")
    minutes = settings.pretrain_minutes
    budget: dict[str, Any] = {"minutes": minutes} if minutes else {"steps": 1}
    if minutes is None:
        budget = {"tokens": max(1, WARM_UP_EPOCHS * sum(len(text.encode()) for text in rows) // 4)}
    pretrain(
        Pretrain(
            data=(texts, *settings.pretrain_on), out=body, size=settings.size,
            family=settings.family or job.usual_family, context=settings.context,
            vocab_size=settings.vocab_size,
            seed=settings.seed,
            threads=settings.threads, device=settings.device, dtype=settings.dtype,
            dropout=settings.dropout, resume=(body / "recipe.json").is_file(), **budget,
        )
    )  # fmt: skip
    return body / "model"


@dataclass(frozen=True)
class Begun:
    """A model that is about to learn, and its examples.

    `lora` and `base` are of an adapter that goes on learning.
    """

    model: Model
    family: Family
    tokenizer: Tokenizer
    frame: Frame
    valid: list[Any]
    prepared: Prepared
    lora: LoRA | None = None
    base: str = ""


def _begin(settings: Finetune, job: Job, parts: Parts, body: Path, device: torch.device) -> Begun:
    lora, base = None, ""
    if is_adapter(body):
        loaded, family, theirs, lora, base = adapted(body, torch.float32, device)
        if not settings.lora:
            loaded, lora = merge(loaded), None
        elif job.judges:
            raise UsageError(
                "E203", "lora", "an adapter that judges is not continued as one",
                do="leave --lora out: the adapter is folded in, and the whole model learns",
            )  # fmt: skip
        elif settings.model_fields_set & {"lora_rank", "lora_alpha", "lora_targets"}:
            raise UsageError(
                "E203", "lora", "the adapter that goes on has its own rank and targets"
            )
    else:
        loaded, family, theirs = load_folder(body, dtype=torch.float32, device=device)
    tokenizer = Tokenizer.load(body)
    model, family = job.network(loaded, family, settings)
    length = settings.context or 1
    if model.config.position in ("learned", "rotary"):
        length = min(length, model.config.max_positions)
    tokenizer.settings[MAX_LENGTH] = length  # whoever uses the model reads no more than was learned
    frame = Frame(tokenizer, model.config.shape, length, theirs.get("decoder_start_token_id"))
    job.look_before(model, frame, parts.test)
    valid = _sample(parts.valid)
    prepared = job.prepare(frame, parts.train, valid, settings.seed)
    _say_truncated(prepared.train, length)
    return Begun(model, family, tokenizer, frame, valid, prepared, lora, base)


def _train(
    settings: Finetune,
    job: Job,
    parts: Parts,
    body: Path,
    old: Old | None,
    device: torch.device,
    report: Report | None,
) -> tuple[dict[str, Any], Frame]:
    """Teach it; returns the run's facts and how the model reads."""
    begun = _begin(settings, job, parts, body, device)
    frame, prepared = begun.frame, begun.prepared
    before = replayed(old, settings, begun.tokenizer, begun.model.config.shape, frame.length)
    loader = Loader(
        [prepared.train, before] if before is not None else [prepared.train],
        settings.batch or 1,
        accumulate=settings.accumulate,
        weights=[1 - settings.replay, settings.replay] if before is not None else None,
        seed=settings.seed,
    )
    settings = _with_steps(settings, prepared.train, loader, frame.length)

    def judge(network: Model) -> dict[str, float]:
        return job.scores(begun.valid, job.predict(network, frame, begun.valid))

    lora, base = begun.lora, begun.base
    if lora is None and settings.lora:
        lora, base = _lora(settings), _base(settings, body)
        add_lora(begun.model, lora, seed=settings.seed)
    rows = [_digest(part) for part in (parts.train, parts.valid)]
    setup = Setup(
        model=begun.model,
        family=begun.family,
        tokenizer=begun.tokenizer,
        settings=settings,
        folder=settings.out,
        parent={"rows": rows[0], "tokenizer": begun.tokenizer.hash, "body": str(body)},
        identity={"rows": rows} | ({"old": before.shards.hash} if before is not None else {}),
        task=prepared.task,
        judge=judge if job.judges else None,
        stage="finetune",
        start_id=frame.start_id,
        lora=lora,
        base=base,
        report=report,
    )
    return run_training(setup, loader, batches_of(prepared.valid, settings.batch or 1)), frame


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
        say(f"note: {rows.truncated:,} texts ({share:.1%}) are longer than {length} tokens; cut")


def _sample(rows: list[Any]) -> list[Any]:
    """At most so many, evenly."""
    return rows[:: max(1, -(-len(rows) // VALIDATION_ROWS))]


def _with_steps(settings: Finetune, rows: ExampleRows, loader: Loader, length: int) -> Finetune:
    """Epochs as steps, where the budget is epochs."""
    changes: dict[str, Any] = {"context": length}
    if not (settings.minutes or settings.steps or settings.tokens):
        a_step = loader.batch_size * loader.accumulate
        share = 1 - settings.replay
        steps = (settings.epochs or EPOCHS) * rows.rows_in_epoch(0) / a_step / share
        changes |= {"steps": max(1, round(steps)), "epochs": None}
    return settings.model_copy(update=changes)


def _digest(rows: Sequence[Any]) -> str:
    return sha256_text(repr(rows))


def table_of(report: dict[str, Any]) -> str:
    """Scores for a person."""
    lines = [f"test: {counted(report['n'], 'row')}"]
    width = max(len(name) for name in ("the model", *report["floors"]))
    for name, values in (("the model", report["metrics"]), *report["floors"].items()):
        shown = " · ".join(
            f"{metric} {each['value']:.4f} ({interval_text(each)})"
            for metric, each in values.items()
        )
        lines.append(f"  {name:{width}}  {shown}")
    for name, difference in report["against"].items():
        lines.append(
            f"  against {name}: {difference['value']:+.4f} "
            f"({interval_text(difference, '+.4f')}): {difference['verdict']}"
        )
    return "\n".join(lines) + "\n"
