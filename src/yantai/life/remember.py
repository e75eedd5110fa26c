"""What a language model forgets while it learns a job: its loss on documents of before.

Knows: which documents these are, which of them are asked, and which may be mixed into the lessons
(replay, arXiv 1811.11682). What is asked is never mixed in.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

from yantai.base.errors import DataError, UsageError
from yantai.base.files import read_json
from yantai.base.log import say
from yantai.data.pack import TextRows
from yantai.data.shards import write_shards
from yantai.evaluate.compare import interval_text, paired_ratio_difference
from yantai.evaluate.task_loss import task_loss
from yantai.evaluate.text_loss import text_loss
from yantai.infer.language_model import LanguageModel
from yantai.text.document import Document, DocumentReader
from yantai.text.tokenizer import Tokenizer
from yantai.training.recipe import LANGUAGE_TASKS, Finetune

PAGE = 4000
"""Characters; a book is asked about in pages."""
ASKED = 100
"""Pages at most, evenly from all."""
EVERY = 10
"""One page in so many is for asking."""


@dataclass(frozen=True)
class Old:
    """Documents of before.

    Attributes:
        asked: pages whose loss is measured.
        others: pages that may be learned again.
    """

    asked: list[Document]
    others: list[Document]


def old_documents(settings: Finetune) -> Old | None:
    """Those that the recipe names, or that the model's own run was made from; None for none.

    None, too, for a task after which there is no language model that could have forgotten.

    Raises:
        DataError: there are too few to ask some and learn others.
    """
    if settings.task not in LANGUAGE_TASKS:
        return None
    reader = _named(settings) if settings.old_data else _of_run(settings.model)
    if reader is None:
        return None
    pages = list(pages_of(reader))
    asked = pages[::EVERY]
    others = [page for number, page in enumerate(pages) if number % EVERY]
    if settings.replay and not others:
        raise DataError(
            "E305", "--old-data", "too little to ask one part and learn another", got=len(pages),
            expected=f"over {PAGE:,} characters",
        )  # fmt: skip
    return Old(asked[:: max(1, -(-len(asked) // ASKED))], others)


def _named(settings: Finetune) -> DocumentReader:
    return DocumentReader(list(settings.old_data), encoding=settings.encoding)


def _of_run(model: str) -> DocumentReader | None:
    """The documents of the run that a folder `RUN/model` belongs to, if they are still there."""
    recipe = Path(model).parent / "recipe.json"
    if model == "scratch" or not recipe.is_file():
        return None
    before = read_json(recipe).get("settings", {})
    named = before.get("data")
    if not isinstance(named, list):  # a run on rows
        return None
    paths = [Path(str(each)) for each in named]
    if paths and all(path.exists() for path in paths):
        return DocumentReader(paths, text_field=before["text_field"], encoding=before["encoding"])
    say("note: what the model learned from is not there; --old-data shows what it forgets")
    return None


def pages_of(documents: Iterable[Document]) -> Iterator[Document]:
    """Documents, long ones cut behind a line or anywhere."""
    for document in documents:
        start, size = 0, len(document.text)
        while start < size:
            end = size
            if size - start > PAGE:
                end = document.text.rfind("\n", start + PAGE // 2, start + PAGE) + 1 or start + PAGE
            yield replace(document, text=document.text[start:end])
            start = end


def replayed(
    old: Old | None, settings: Finetune, tokenizer: Tokenizer, shape: str, length: int
) -> TextRows | None:
    """Rows of documents of before; None where none are to be mixed in.

    Raises:
        UsageError: the model does not learn from running text, or nobody knows what was before.
    """
    if not settings.replay:
        return None
    if shape != "decoder":
        raise UsageError("E203", "replay", "is for decoders alone", got=shape)
    if old is None:
        raise UsageError("E203", "replay", "needs documents of before", do="pass --old-data")
    shards = write_shards(old.others, tokenizer, settings.out / "old")
    return TextRows(shards, length, seed=settings.seed)


def forgetting(old: Old, before: LanguageModel, after: LanguageModel, seed: int) -> dict[str, Any]:
    """What two models make of the pages that are asked, and the paired difference.

    Of a decoder bits per byte; of an encoder–decoder nats for each token that it has to restore.

    Raises:
        UsageError: the tokenizer has no tokens by which a text could be damaged.
    """
    if after.shape == "decoder":
        scored = [text_loss(model, old.asked) for model in (after, before)]
        tops = [[value / log(2) for value in each.document_losses] for each in scored]
        measure, key, bottoms = "bits per byte", "bits_per_byte", scored[0].document_bytes
        estimates = [each.report(seed)["intervals"][key] for each in scored]
    else:
        asked = [task_loss(model, old.asked, seed=seed) for model in (after, before)]
        measure, tops, bottoms = "nats a token", [each.losses for each in asked], asked[0].targets
        estimates = [each.report(seed)["intervals"]["loss"] for each in asked]
    difference = paired_ratio_difference(*tops, bottoms, seed)
    words = {
        "the first is lower": "it knows them better",
        "the second is lower": "it has forgotten",
    }
    difference["verdict"] = words.get(difference["verdict"], difference["verdict"])
    now, then = estimates
    found = {"before": then, "after": now, "difference": difference}
    return {"pages": len(old.asked), "measure": measure} | found


def told(forgotten: dict[str, Any]) -> str:
    """The same for a person."""
    then, now, difference = (forgotten[name] for name in ("before", "after", "difference"))
    return (
        f"its old texts ({forgotten['pages']:,} pages): {then['value']:.4f} "
        f"{forgotten['measure']} before, {now['value']:.4f} after: {difference['value']:+.4f} "
        f"({interval_text(difference, '+.4f')}): {difference['verdict']}\n"
    )
