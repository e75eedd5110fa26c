"""The chain of hashes from data to weights, walked link by link.

Knows: receipts, manifests, rows, folders of a run, be it a pretraining or a fine-tuning. A chain
that holds says which links were checked; one that does not names the first broken link.
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from yantai.base.errors import ModelFileError, UsageError
from yantai.base.files import read_json, sha256_file
from yantai.data.shards import MANIFEST, Shards
from yantai.life.jobs import JOBS
from yantai.life.rows import digest_of, parts_of
from yantai.life.settings import Verify
from yantai.text.tokenizer import Tokenizer
from yantai.training.receipt import digest_of_files
from yantai.training.recipe import Finetune
from yantai.training.store import problem_of

OF_ROWS = [
    "task",
    "data",
    "valid",
    "test",
    "text_column",
    "label_column",
    "label_separator",
    "columns",
    "encoding",
    "on_bad_row",
    "seed",
    "split_seed",
]
"""Settings that decide which rows are learned from."""


def verify(settings: Verify, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai verify`.

    Raises:
        ModelFileError: E409, naming the broken link.
    """
    folder = settings.folder
    if not folder.is_dir():
        raise UsageError("E206", folder, "no such folder")
    links: list[str] = []
    notes: list[str] = []
    if (folder / "recipe.json").is_file():
        _verify_run(folder, links, notes)
    elif (folder / "receipt.json").is_file():
        _verify_outputs(folder, links)
    else:
        raise UsageError(
            "E206", folder, "no receipt.json here", expected="a run's folder or a model folder"
        )
    for line in links:
        emit(f"holds: {line}\n")
    for line in notes:
        emit(f"note: {line}\n")
    return {"holds": True, "links": links, "notes": notes}


def _broken(
    where: object, what: str, expected: object = None, got: object = None
) -> ModelFileError:
    return ModelFileError("E409", where, what, expected=expected, got=got)


def _verify_outputs(folder: Path, links: list[str]) -> dict[str, Any]:
    """Every file is the one that the folder's receipt names, and there is no other."""
    receipt = read_json(folder / "receipt.json")
    outputs = receipt.get("outputs", {})
    for name, digest in outputs.items():
        path = folder / name
        if not path.is_file():
            raise _broken(path, "the file of the receipt is missing")
        got = sha256_file(path)
        if got != digest:
            raise _broken(path, "not the file of the receipt", digest[:12], got[:12])
    present = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != "receipt.json"
    }
    if receipt.get("stage") == "model" and present - set(outputs):
        extra = sorted(present - set(outputs))[0]
        raise _broken(folder / extra, "a file that the receipt does not know")
    links.append(f"{folder}: {len(outputs)} files are those of its receipt")
    return receipt


def _verify_run(run: Path, links: list[str], notes: list[str]) -> None:
    """What the weights were made from, the weights, checkpoints."""
    recipe = read_json(run / "recipe.json")["settings"]
    if "task" in recipe:
        _verify_finetuning(run, recipe, links, notes)
    elif "vocab_size" in recipe:  # conversations are learned by what another run made
        _verify_pretraining(run, links, notes)
    if (run / "receipt.json").is_file():
        _verify_outputs(run, links)
    for path in sorted((run / "checkpoints").glob("step-*")):
        problem = problem_of(path)
        if problem is not None:
            raise _broken(path, problem)
        links.append(f"{path}: holds")


def _verify_pretraining(run: Path, links: list[str], notes: list[str]) -> None:
    """sources → tokens → weights, tokenizer → tokens."""
    tokenizer = Tokenizer.load(run / "tokenizer")
    shards = {}
    for manifest in sorted((run / "tokens").glob(f"*/{MANIFEST}")):
        part = Shards.open(manifest.parent, verify=True)
        if part.tokenizer_hash != tokenizer.hash:
            raise _broken(manifest, "the tokens were made by another tokenizer")
        shards[manifest.parent.name] = part
        links.append(f"{manifest.parent}: shards hold, made by {run / 'tokenizer'}")
        _verify_sources(read_json(manifest)["sources"], links, notes)
    train = [part.hash for name, part in sorted(shards.items()) if name.startswith("train")]
    for folder, inputs in _made(run, links, notes):
        if inputs.get("tokenizer") != tokenizer.hash:
            raise _broken(folder / "receipt.json", "made with another tokenizer")
        if train and inputs.get("tokens") != train:
            raise _broken(folder / "receipt.json", "trained on other tokens", train)
        links.append(f"{folder}: made from these tokens and this tokenizer")


def _verify_finetuning(
    run: Path, recipe: dict[str, Any], links: list[str], notes: list[str]
) -> None:
    """rows, body → weights; of a model from scratch, its body is a run of its own."""
    if (run / "body" / "recipe.json").is_file():
        _verify_run(run / "body", links, notes)
    rows = _digest_of_rows(recipe, notes)
    for folder, inputs in _made(run, links, notes):
        if inputs.get("tokenizer") != Tokenizer.load(folder).hash:
            raise _broken(folder / "receipt.json", "made with another tokenizer")
        if rows is not None and inputs.get("rows") != rows:
            raise _broken(recipe["data"], f"not the rows that {folder} has learned from")
        if rows is not None:
            links.append(f"{folder}: made from these rows")
        own, known = run / "body" / "model", inputs.get("body_files")
        body = own if own.is_dir() else Path(inputs.get("body", ""))
        if not body.is_dir() or known is None:
            why = "is not here" if known is not None else "is not known by its files"
            notes.append(f"{folder}: the model that it was before, {body}, {why}")
            continue
        if known != digest_of_files(body):
            raise _broken(body, f"not the model that {folder} was made from")
        links.append(f"{folder}: made from {body}")


def _made(run: Path, links: list[str], notes: list[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The model folders of a run whose files hold, and what they say they were made from."""
    for folder in (run / "model", run / "last"):
        if folder.is_dir():
            yield folder, _verify_outputs(folder, links).get("inputs", {})
        else:
            notes.append(f"{folder}: not there (yet)")


def _digest_of_rows(recipe: dict[str, Any], notes: list[str]) -> str | None:
    """Of the training part, read and shared out anew; None where the file has gone."""
    paths = [Path(recipe[name]) for name in ("data", "valid", "test") if recipe.get(name)]
    gone = [path for path in paths if not path.is_file()]
    notes += [f"{path}: the rows are no longer there" for path in gone]
    if gone:
        return None
    with tempfile.TemporaryDirectory() as quarantine, redirect_stderr(io.StringIO()):
        given = {name: recipe[name] for name in OF_ROWS if recipe.get(name) is not None}
        settings = Finetune(model="-", out=Path(quarantine), **given)
        return digest_of(parts_of(settings, JOBS[settings.task](settings)).train)


def _verify_sources(sources: list[dict[str, Any]], links: list[str], notes: list[str]) -> None:
    """The raw files, where they still are."""
    there = 0
    for source in sources:
        path = Path(source["path"])
        if not path.is_file():
            notes.append(f"{path}: the source is no longer there")
            continue
        got = sha256_file(path)
        if got != source["sha256"]:
            raise _broken(path, "the source has changed", source["sha256"][:12], got[:12])
        there += 1
    links.append(f"{there} source files are those that were read")
