"""`yantai finetune`: rows of examples → a model that does the job → its score on unseen rows.

Knows: the order of the stages; what a job is, `jobs/` knows. The test part is read once, by the
model that the validation part chose; what it is compared with learned from the same rows.

    OUT/recipe.json  texts.jsonl, body/ (from scratch)  quarantine/  checkpoints/  metrics.jsonl
    OUT/model/ (best by validation)  last/  scores.json  receipt.json
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from yantai.base.device import choose_device, prepare_process, tiny_is_zero
from yantai.base.errors import UsageError
from yantai.base.files import FolderLock
from yantai.base.log import say
from yantai.core.face import Model
from yantai.data.examples import ExampleRows, batches_of
from yantai.data.loader import Loader
from yantai.families.adapter import is_adapter
from yantai.families.folder import read_config_json
from yantai.families.hub import local_folder
from yantai.families.table import family_named, family_of
from yantai.infer.opening import load
from yantai.life.beginning import Begun, begin, body_of, settled
from yantai.life.first_looks import look_first
from yantai.life.jobs import JOBS
from yantai.life.jobs.job import Job
from yantai.life.preview import as_table, shown_text
from yantai.life.remember import Old, forgetting, old_documents, replayed, told
from yantai.life.report import table_of, write_report
from yantai.life.rows import Parts, digest_of, parts_of
from yantai.tasks.frame import Frame
from yantai.training.receipt import digest_of_files
from yantai.training.recipe import Finetune
from yantai.training.run_folder import begin_run, check_resumable, settle_run
from yantai.training.setup import Report, Setup, fill_in, run_training
from yantai.training.sizes import size_named

EPOCHS = 3.0
READ_SHARE = 1 / 3
EXAMPLES_A_STEP = 32
"""Of a job that judges: its texts are short, and a full batch of packed rows holds hundreds."""
LEAST_STEPS = 50
"""Of any other job: a few hundred short rows are a handful of full batches, which teach nothing."""


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
    if taught.old is not None and best.shape != "encoder" and not best.job:
        before = load(taught.body, dtype="float32", device=settings.device)
        report["forgotten"] = forgetting(taught.old, before, best, settings.seed)
        shown += told(report["forgotten"])
    emit(shown)
    worst, title = job.worst(parts.test, said), f"{settings.out / 'model'}: {job.name}"
    write_report(settings.out, report, worst, title, emit, name="scores.json")
    emit(f"{taught.result['model']}\n")
    return {"model": taught.result["model"], **report, "training": taught.result}


@tiny_is_zero()
def teach(settings: Finetune, report: Report | None = None, *, tested: bool = True) -> Taught:
    """Everything but the test: arguments and errors as of `finetune`.

    Args:
        settings: the recipe.
        report: is told (step, score) of every validation, and may end the run by raising.
        tested: whether a test follows, for which some jobs measure the model before it learns.
    """
    prepare_process(settings.threads, deterministic=settings.deterministic)
    job = JOBS[settings.task](settings)
    if settings.model == "scratch":
        family = settings.family or job.usual_family
        job.check_family(family_named(family))  # before anything is begun
        settings = settings.model_copy(update={"family": family})
    asked, settings = settings, _filled(settings, job)
    check_resumable(settings)
    with FolderLock(settings.out):
        begin_run(settings)
        device = choose_device(settings.device)
        parts = parts_of(settings, job)
        look_first(asked, job, vars(parts))
        settings = settled(settings, job, parts, asked)
        settle_run(settings)
        body = body_of(settings, job, parts)
        seen = parts if tested else replace(parts, test=[])
        old = old_documents(settings) if tested or settings.replay else None
        result, begun = _train(settings, job, seen, body, old, device, report)
    return Taught(job, begun.parts, begun.frame, body, old, result)


def _preview(settings: Finetune, emit: Callable[[str], None]) -> dict[str, Any]:
    """Show the first examples as the model would read them; nothing is trained or written.

    Raises:
        UsageError: a model from scratch has no tokenizer yet.
    """
    if settings.model == "scratch":
        raise UsageError(
            "E203", "preview", "a model from scratch has no tokenizer yet", do="name a model"
        )
    job = JOBS[settings.task](settings)
    settings = _filled(settings, job)
    with tempfile.TemporaryDirectory() as folder:  # nothing is written, bad rows neither
        settings = settings.model_copy(update={"out": Path(folder)})
        parts = replace(parts_of(settings, job), test=[])
        body = local_folder(settings.model)
        begun = begin(settings, job, parts, body, choose_device(settings.device))
    if settings.on_bad_row == "quarantine":
        say("note: a preview keeps no bad rows; the training does, below --out")
    shown = begun.prepared.train.examples[: settings.preview]
    names = getattr(job, "names", ()) if job.name in ("classify", "tag") else ()
    names = () if getattr(job, "several", False) else names
    colour = sys.stdout.isatty()
    for example in shown:
        text = shown_text(
            example, begun.tokenizer, names, colour=colour,
            spelled=_spelled(job, begun, example.ids),
        )  # fmt: skip
        emit(text + "\n")
    return {"preview": [as_table(example, begun.tokenizer) for example in shown]}


def _spelled(job: Job, begun: Begun, ids: Sequence[int]) -> Callable[[int], str]:
    """What a target is called: a piece of a text by its words, others by their number."""
    if job.name != "span":
        return str
    length = begun.frame.length

    def words(target: int) -> str:
        piece = [int(id) for id in ids[target // length : target % length + 1]]
        return begun.tokenizer.decode(piece).strip() or "no answer"

    return words


def _filled(settings: Finetune, job: Job) -> Finetune:
    """With the rates that suit the family of the model that is to learn; the batch stays open.

    A model that has read and is to judge learns at a third of them: at full rates it forgets
    sooner than it learns. Where a step has a few dozen labels and no thousands of tokens, the loss
    jumps by nature, the more the better they are known: there a jump is what is left to learn.
    """
    family = None
    if settings.model != "scratch" and not is_adapter(folder := local_folder(settings.model)):
        family = family_of(read_config_json(folder).get("model_type"), str(folder)).name
    if settings.on_spike is None and job.judges:
        settings = settings.model_copy(update={"on_spike": "off"})
    filled = fill_in(settings, family)
    changed: dict[str, Any] = {"batch": settings.batch}
    if settings.model != "scratch" and job.judges and not settings.lora:
        for name in ("rate", "matrix_rate"):
            if getattr(settings, name) is None:
                changed[name] = getattr(filled, name) * READ_SHARE
    return filled.model_copy(update=changed)


def _train(
    settings: Finetune,
    job: Job,
    parts: Parts,
    body: Path,
    old: Old | None,
    device: torch.device,
    report: Report | None,
) -> tuple[dict[str, Any], Begun]:
    """Teach it; returns the run's facts and what it began with."""
    begun = begin(settings, job, parts, body, device)
    frame, prepared = begun.frame, begun.prepared
    batch = settings.batch or _rows_a_step(settings, prepared.train, job.judges)
    settings = settings.model_copy(update={"batch": batch, "context": prepared.train.length})
    before = replayed(old, settings, begun.tokenizer, begun.model.config.shape, frame.length)
    loader = Loader(
        [prepared.train, before] if before is not None else [prepared.train],
        batch,
        accumulate=settings.accumulate,
        weights=[1 - settings.replay, settings.replay] if before is not None else None,
        seed=settings.seed,
    )
    settings = _with_steps(settings, prepared.train, loader)

    def judge(network: Model) -> dict[str, float]:
        return job.scores(begun.valid, job.predict(network, frame, begun.valid))

    rows = [digest_of(part) for part in (parts.train, parts.valid)]
    setup = Setup(
        model=begun.model,
        family=begun.family,
        tokenizer=begun.tokenizer,
        settings=settings,
        folder=settings.out,
        parent={
            "rows": rows[0],
            "tokenizer": begun.tokenizer.hash,
            "body": str(body),
            "body_files": digest_of_files(body),
        },
        identity={"rows": rows} | ({"old": before.shards.hash} if before is not None else {}),
        task=prepared.task,
        judge=judge if job.judges else None,
        stage="finetune",
        start_id=frame.start_id,
        lora=begun.lora,
        base=begun.base,
        report=report,
    )
    return run_training(setup, loader, batches_of(prepared.valid, batch)), begun


def _rows_a_step(settings: Finetune, rows: ExampleRows, judges: bool) -> int:
    """The batch of the size; less for a job that judges, if a row holds many of its examples, and
    less where the epochs would be over after a few steps."""
    usual = size_named(settings.size).batch
    count = rows.rows_in_epoch(0)
    if judges:
        wanted = EXAMPLES_A_STEP * count / len(rows.examples)
    elif settings.minutes or settings.steps or settings.tokens:
        wanted = usual
    else:
        wanted = (settings.epochs or EPOCHS) * count / settings.accumulate / LEAST_STEPS
    return min(usual, max(1, round(wanted)))


def _with_steps(settings: Finetune, rows: ExampleRows, loader: Loader) -> Finetune:
    """Epochs as steps, where the budget is epochs."""
    if settings.minutes or settings.steps or settings.tokens:
        return settings
    a_step = loader.batch_size * loader.accumulate
    share = 1 - settings.replay
    steps = (settings.epochs or EPOCHS) * rows.rows_in_epoch(0) / a_step / share
    return settings.model_copy(update={"steps": max(1, round(steps)), "epochs": None})
