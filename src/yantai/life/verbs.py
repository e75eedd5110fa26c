"""What the simple verbs do: a few lines each over the rooms below.

Every function takes its settings and `emit`, which shows text to a person, and returns the table
that `--json` prints.
"""

from collections.abc import Callable, Iterator
from math import log
from pathlib import Path
from typing import Any

from yantai.base.errors import ResourceError, UsageError
from yantai.base.files import FolderLock, check_replaceable, new_folder, read_json, write_json
from yantai.base.log import counted
from yantai.evaluate.compare import interval_text, paired_ratio_difference
from yantai.evaluate.task_loss import TaskLoss, task_loss
from yantai.evaluate.text_loss import TextLoss, text_loss
from yantai.infer.fill import BLANK, fill
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load
from yantai.infer.settings import Generation
from yantai.life import selftest as faults
from yantai.life.evaluate_rows import evaluate_rows, rows_of_task
from yantai.life.report import write_report
from yantai.life.selftest import Selftest
from yantai.life.settings import Evaluate, Generate, TrainTokenizer
from yantai.text.chat import CHATML
from yantai.text.compression import compression_report
from yantai.text.document import Document, DocumentReader
from yantai.text.reading_empty import no_text, with_text
from yantai.text.tokenizer import Tokenizer
from yantai.training.pretrain import pretrain as run_pretrain
from yantai.training.receipt import file_hashes, versions
from yantai.training.recipe import Pretrain

Emit = Callable[[str], None]


def pretrain(settings: Pretrain, emit: Emit) -> dict[str, Any]:
    """`yantai pretrain`."""
    if settings.resume and (settings.out / "recipe.json").is_file():
        settings = _with_saved(settings)
    result = run_pretrain(settings)
    emit(f"{result['model']}\n")
    return result


def _with_saved(settings: Pretrain) -> Pretrain:
    """On a resume, what is not given again is what the run was started with."""
    saved = read_json(settings.out / "recipe.json")["settings"]
    given = settings.model_fields_set
    kept = {
        key: value
        for key, value in saved.items()
        if key in Pretrain.model_fields and key not in given
    }
    return Pretrain.model_validate({**kept, **{key: getattr(settings, key) for key in given}})


def tokenizer(settings: TrainTokenizer, emit: Emit) -> dict[str, Any]:
    """`yantai tokenizer`."""

    def reader() -> DocumentReader:
        bad_rows = settings.out / "quarantine" if settings.on_bad_row == "quarantine" else None
        return DocumentReader(
            list(settings.documents),
            text_field=settings.text_field,
            policy=settings.on_bad_row,
            quarantine=bad_rows,
            encoding=settings.encoding,
        )

    def texts(source: DocumentReader) -> Iterator[str]:
        return (document.text for document in source)

    check_replaceable(settings.out)
    with FolderLock(settings.out.parent / f".{settings.out.name}.lock"):
        source = reader()
        first = reader()
        if not any(text.strip() for text in texts(first)):
            raise no_text(first)
        trained = Tokenizer.train(
            texts(source), settings.vocab_size, settings.kind, settings.token_bytes
        )
        trained.chat_template = CHATML
        report = compression_report(trained, texts(reader()))
        with new_folder(settings.out) as folder:
            trained.save(folder)
            write_json(folder / "report.json", report)
            write_json(
                folder / "receipt.json",
                {
                    "stage": "tokenizer",
                    "settings": settings.model_dump(mode="json"),
                    "inputs": {"sources": source.sources, "rows": source.account.as_dict()},
                    "outputs": file_hashes(folder),
                    "versions": versions(),
                },
            )
    emit(f"{settings.out}: {trained.vocab_size:,} entries\n")
    for language, row in report.items():
        emit(
            f"  {language}: {row['documents']:,.0f} documents, {row['bytes_per_token']:.2f} bytes "
            f"and {row['characters_per_token']:.2f} characters a token\n"
        )
    return {"tokenizer": str(settings.out), "vocab_size": trained.vocab_size, "languages": report}


def generate(settings: Generate, emit: Emit) -> dict[str, Any]:
    """`yantai generate`."""
    model = load(settings.model, dtype=settings.dtype, device=settings.device)
    own = {
        key: getattr(settings, key)
        for key in settings.model_fields_set
        if key in Generation.model_fields
    }
    if model.shape != "decoder" and (model.shape == "encoder" or BLANK in settings.prompt):
        text = fill(model, settings.prompt, **own)
        emit(text + "\n")
        return {"texts": [text]}
    if settings.num_return_sequences == 1 and settings.num_beams == 1:
        pieces = model.stream(settings.prompt, **own)
        first = next(pieces, "")  # nothing is shown of what fails before it has begun
        text = (settings.prompt if model.shape == "decoder" else "") + first
        emit(text)
        for piece in pieces:
            emit(piece)
            text += piece
        emit("\n")
        return {"texts": [text]}
    texts = model.generate(settings.prompt, **own)
    found = [texts] if isinstance(texts, str) else texts
    emit("\n---\n".join(found) + "\n")
    return {"texts": found}


def evaluate(settings: Evaluate, emit: Emit) -> dict[str, Any]:
    """`yantai evaluate`: decoders on running text, the others on what they were made for."""
    if bool(settings.data) == bool(settings.harness):
        got = "both" if settings.data else "neither"
        raise UsageError("E203", "data", "give documents or rows, or tasks by --harness", got=got)
    model = load(settings.model, dtype=settings.dtype, device=settings.device)
    if settings.harness:
        _refuse_others(settings, OF_HARNESS)
        return _in_harness(settings, model, emit)
    if not (settings.task or model.job) and (task := rows_of_task(settings)):
        emit(f"{settings.model} was taught to {task}: rows of that are read (--task is another)\n")
        settings = settings.model_copy(update={"task": task})
    if model.job or settings.task:
        _refuse_others(settings, OF_ROWS)
        return evaluate_rows(settings, model, emit)
    _refuse_others(settings, OF_DOCUMENTS)
    report = _on_documents(settings, model, emit)
    if settings.out is not None:
        shown, worst = _as_table(report, settings.against), report.pop("worst", [])
        write_report(settings.out, shown, worst, f"{settings.model}: documents", emit)
        write_json(settings.out / "report.json", report | {"worst": worst})
    return {name: value for name, value in report.items() if name != "worst"}


def _refuse_others(settings: Evaluate, allowed: frozenset[str]) -> None:
    """Settings that were given and can have no effect.

    Raises:
        UsageError: there is one.
    """
    for name in sorted(settings.model_fields_set - allowed - OF_ALL):
        if getattr(settings, name) != type(settings).model_fields[name].default:
            kinds = {"rows": OF_ROWS, "documents": OF_DOCUMENTS, "--harness": OF_HARNESS}
            fits = ", ".join(kind for kind, names in kinds.items() if name in names)
            raise UsageError("E203", name, "can have no effect here", expected=f"with {fits}")


def _as_table(report: dict[str, Any], against: Path | None) -> dict[str, Any]:
    """What documents gave in the form of a report on rows, for a page."""
    floors = {}
    if "guess" in report:
        guess = {"value": report["guess"]["accuracy"], "low": None, "high": None}
        floors["the commonest token"] = {"accuracy": guess}
    paired = {str(against): report["against"]} if "against" in report else {}
    return {
        "n": report["documents"], "unit": "document", "metrics": report["intervals"],
        "floors": floors, "against": paired,
    }  # fmt: skip


OF_ALL = frozenset({"model", "data", "dtype", "device", "seed"})
OF_HARNESS = frozenset({"harness", "harness_folder", "limit", "out"})
OF_ROWS = frozenset(
    [
        "against",
        "task",
        "train",
        "out",
        "text_column",
        "label_column",
        "label_separator",
        "columns",
        "encoding",
        "on_bad_row",
    ]
)
WORST, SHOWN = 20, 400
"""Documents of a report, and characters of each."""
TEXT_METRICS = ("loss", "perplexity", "bits_per_byte")
OF_DOCUMENTS = frozenset({"against", "context", "stride", "out", "text_field", "encoding"})


def _on_documents(settings: Evaluate, model: LanguageModel, emit: Emit) -> dict[str, Any]:
    """Decoders on running text, the others on what they were made for."""
    if model.shape == "decoder":
        return _on_running_text(settings, model, emit)
    if settings.stride is not None:
        raise UsageError("E203", "stride", "only running text is read in windows that slide")
    other_model = None
    if settings.against is not None:
        other_model = load(settings.against, dtype=settings.dtype, device=settings.device)
        if other_model.tokenizer.hash != model.tokenizer.hash:
            raise UsageError("E203", "against", "models of two vocabularies are asked two things")
        if settings.context is None:
            room = min(each.network.config.max_positions for each in (model, other_model))
            settings = settings.model_copy(update={"context": room})
    scored = _on_task(settings, model)
    report = scored.report(settings.seed)
    interval, guess = report["intervals"]["accuracy"], report["guess"]
    emit(
        f"{report['task']}: loss {report['loss']:.4f} nats a target · "
        f"{report['accuracy']:.2%} right ({interval_text(interval, '.2%')})\n"
        f"the commonest token would be right in {guess['accuracy']:.2%}; frequencies alone have "
        f"loss {guess['loss']:.4f}\n"
        f"{counted(report['documents'], 'document')}, {report['targets']:,} targets\n"
    )
    if other_model is not None:
        other = _on_task(settings, other_model)
        if (other.task, other.targets) != (scored.task, scored.targets):
            raise UsageError(
                "E203", "against", "the models are asked two things",
                expected=scored.task, got=other.task,
            )  # fmt: skip
        report["against"] = paired_ratio_difference(
            scored.losses, other.losses, scored.targets, settings.seed
        )
        _say_difference(settings, report["against"], "nats a target", emit)
    return report


def _in_harness(settings: Evaluate, model: LanguageModel, emit: Emit) -> dict[str, Any]:
    try:
        from yantai.evaluate.harness import harness_report
    except ImportError as error:
        raise UsageError(
            "E207", "harness", f"needs a package that is not installed ({error.name})",
            do="pip install 'yantai[eval]'",
        ) from error  # fmt: skip
    report = harness_report(
        model, settings.harness, folder=settings.harness_folder, limit=settings.limit,
        seed=settings.seed,
    )  # fmt: skip
    for task, scores in report["results"].items():
        intervals = report["intervals"].get(task, {})
        for name, value in scores.items():
            if isinstance(value, float) and "_stderr" not in name:
                told = interval_text(intervals[name]) if name in intervals else "no interval"
                emit(f"{task}: {name.partition(',')[0]} {value:.4f} ({told})\n")
    if settings.out is not None:
        counts = [each["effective"] for each in report["n-samples"].values()]
        metrics = {
            f"{task}: {name.partition(',')[0]}": each
            for task, values in report["intervals"].items()
            for name, each in values.items()
        }
        page = {
            "n": sum(counts),
            "unit": "question",
            "metrics": metrics,
            "floors": {},
            "against": {},
        }
        write_report(
            settings.out, page, [], f"{settings.model}: {', '.join(report['tasks'])}", emit
        )
        write_json(settings.out / "report.json", report)
    return report


def _on_running_text(settings: Evaluate, model: LanguageModel, emit: Emit) -> dict[str, Any]:
    scored = _score(settings, model)
    report = scored.report(settings.seed)
    report["worst"] = _worst_documents(settings, scored)
    nats, power, bits = (report["intervals"][name] for name in TEXT_METRICS)
    emit(
        f"loss {nats['value']:.4f} nats a token ({interval_text(nats)}; chance "
        f"{nats['chance']:.4f})\n"
        f"perplexity {power['value']:.2f} ({interval_text(power, '.2f')}; chance "
        f"{power['chance']:,.0f})\n"
        f"bits per byte {bits['value']:.4f} ({interval_text(bits)}; chance {bits['chance']:.4f})\n"
        f"{counted(report['documents'], 'document')}, {report['tokens']:,} tokens, "
        f"{report['bytes']:,} bytes\n"
    )
    if settings.against is not None:
        other = _score(
            settings, load(settings.against, dtype=settings.dtype, device=settings.device)
        )
        # the paired bootstrap over documents: both models on the same pieces
        bits = [[value / log(2) for value in part.document_losses] for part in (scored, other)]
        report["against"] = paired_ratio_difference(*bits, scored.document_bytes, settings.seed)
        _say_difference(settings, report["against"], "bits per byte", emit)
    return report


def _worst_documents(settings: Evaluate, scored: TextLoss) -> list[dict[str, str]]:
    """The documents that surprise the model most, by their bytes; read once more for a report."""
    if settings.out is None:
        return []
    pairs = zip(scored.document_losses, scored.document_bytes, strict=True)
    bits = [loss / log(2) / max(1, size) for loss, size in pairs]
    worst = sorted(range(len(bits)), key=lambda at: -bits[at])[:WORST]
    chosen = frozenset(worst)
    texts = {at: each for at, each in enumerate(_documents(settings)) if at in chosen}
    return [
        {"text": texts[at].text[:SHOWN], "bits a byte": f"{bits[at]:.3f}", "row": texts[at].id}
        for at in worst
    ]


def _say_difference(settings: Evaluate, difference: dict[str, Any], unit: str, emit: Emit) -> None:
    emit(
        f"against {settings.against}: {difference['value']:+.4f} {unit} "
        f"({interval_text(difference, '+.4f')}): {difference['verdict']}\n"
    )


def _documents(settings: Evaluate) -> Iterator[Document]:
    return with_text(
        DocumentReader(
            list(settings.data), text_field=settings.text_field, encoding=settings.encoding
        )
    )


def _score(settings: Evaluate, model: LanguageModel) -> TextLoss:
    return text_loss(model, _documents(settings), context=settings.context, stride=settings.stride)


def _on_task(settings: Evaluate, model: LanguageModel) -> TaskLoss:
    return task_loss(model, _documents(settings), context=settings.context, seed=settings.seed)


def selftest(settings: Selftest, emit: Emit) -> dict[str, Any]:
    """`yantai selftest`.

    Raises:
        ResourceError: something did not hold; the report says what.
    """
    found = faults.selftest(settings, lambda line: emit(line + "\n"))
    if not found["passed"]:
        raise ResourceError(
            "E805", "selftest", "not everything held", got=f"{len(found['failures'])} failed",
            do="repeat it by the commands above, or see `failures` of --json",
        ).with_report(found)  # fmt: skip
    return found
