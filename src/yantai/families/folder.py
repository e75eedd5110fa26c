"""A model folder in Hugging Face's form: config.json, model.safetensors, generation_config.json.

Knows: files of a model. The tables of `rules.py` say what the names mean. Nothing is unpickled;
tensors that are missing, extra or misshapen are errors that name them, before a weight is used.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yantai.base.errors import ModelFileError, UsageError
from yantai.base.files import write_json
from yantai.base.log import say
from yantai.core.face import Model
from yantai.core.initialise import build_meta, materialise
from yantai.families.labels import job_of, judging
from yantai.families.packed_folder import described, load_packed, unwrapped
from yantai.families.rules import Family
from yantai.families.table import family_of
from yantai.families.weights import read_tensors, refuse_pickles, write_tensors
from yantai.text.tokenizer import TURN_END, Tokenizer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
GENERATION = "generation_config.json"
MAX_CONFIG_BYTES = 10_000_000
TOGETHER = "config.json and weights must be of one model: fetch or save both again"


def read_config_json(folder: Path) -> dict[str, Any]:
    """The folder's config.json as a table.

    Raises:
        UsageError: there is no such folder.
        ModelFileError: the file is missing, too large or not a JSON table.
    """
    path = folder / CONFIG
    if not folder.is_dir():
        raise UsageError("E206", folder, "no such folder", expected="a model folder")
    if not path.is_file():
        refuse_pickles(folder)
        inner = next((name for name in ("model", "last") if (folder / name / CONFIG).is_file()), "")
        do = f"this is a run; its model is {folder / inner}" if inner else "is it a model folder?"
        raise ModelFileError("E401", path, "the file is missing", do=do)
    return unwrapped(read_model_json(path))


def read_model_json(path: Path) -> dict[str, Any]:
    """A JSON table of a model folder.

    Raises:
        ModelFileError: the file is too large or not a JSON table.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelFileError(
            "E401", path, "too large", expected=f"under {MAX_CONFIG_BYTES:,} bytes"
        )
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelFileError("E401", path, f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelFileError("E401", path, "not a table", got=type(value).__name__)
    return value


def load_folder(
    folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> tuple[Model, Family, dict[str, Any]]:
    """Read a model folder.

    Args:
        folder: holds config.json and model.safetensors.
        dtype: the type of the weights in memory; None keeps that of the file.
        device: where to put them.

    Returns:
        The model in evaluation mode, its family, and config.json as it was.

    Raises:
        ModelFileError: anything about the files is not as the config says.
    """
    theirs = read_config_json(folder)
    where = str(folder / CONFIG)
    if "auto_map" in theirs:
        say(f"note: {where} names code (auto_map); it is not run")
    family = family_of(theirs.get("model_type"), where)
    job = job_of(theirs, family)
    family = judging(family, job) if job is not None else family
    config = family.read_config(theirs, where)
    codes = described(theirs, where)
    named = read_tensors(folder)
    if codes is not None:
        return load_packed(config, codes, named, where, dtype, device), family, theirs
    meta = build_meta(config)
    ours = to_ours(named, meta, family, folder)
    stored = next(iter(ours.values())).dtype
    model = materialise(meta, device, dtype or stored)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(ours[name])
    return model.eval(), family, theirs


def to_ours(
    named: dict[str, Tensor], meta: Model, family: Family, where: object
) -> dict[str, Tensor]:
    """Their tensors → ours, each checked against the shape that the config gives."""
    shapes = {name: tuple(parameter.shape) for name, parameter in meta.named_parameters()}
    rows = family.rows(set(shapes))
    wanted = {row.theirs.format(**index) for row, index in rows}
    named = _with_prefix(named, wanted, family)
    _drop_constants(named, meta, family, where)
    if meta.config.shares_embedding:
        _drop_tied_copy(named, family, where)
    extra = [
        name
        for name in named
        if name not in wanted and not any(re.fullmatch(row, name) for row in family.ignored)
    ]
    missing = sorted(wanted - set(named))
    if missing or extra:
        what = f"missing tensor {missing[0]!r}" if missing else f"extra tensor {sorted(extra)[0]!r}"
        total = f"{len(missing)} missing, {len(extra)} extra"
        raise ModelFileError("E403", where, what, got=total, do=TOGETHER)
    ours: dict[str, Tensor] = {}
    for row, index in rows:
        ours |= row.read(named, index)
    for name, shape in shapes.items():
        if tuple(ours[name].shape) != shape:
            raise ModelFileError(
                "E403", f"{where}:{name}", "wrong shape",
                expected=shape, got=tuple(ours[name].shape), do=TOGETHER,
            )  # fmt: skip
    return ours


def _with_prefix(named: dict[str, Tensor], wanted: set[str], family: Family) -> dict[str, Tensor]:
    """Some files leave the prefix out of every name; nothing else is guessed."""
    if not family.prefix or any(name in wanted for name in named):
        return dict(named)
    return {family.prefix + name: tensor for name, tensor in named.items()}


def _drop_constants(named: dict[str, Tensor], meta: Model, family: Family, where: object) -> None:
    for row in family.constants:
        found = named.pop(row.theirs, None)
        if found is not None and not torch.equal(found.float(), row.value(meta.config)):
            raise ModelFileError("E403", f"{where}:{row.theirs}", "numbers that are not supported")


def _drop_tied_copy(named: dict[str, Tensor], family: Family, where: object) -> None:
    """A tied head may be stored a second time, if it is the same numbers."""
    names = {
        row.ours: row.theirs
        for row in family.tensors
        if row.ours in ("head.weight", "embed.tokens.weight")
    }
    head, embedding = names["head.weight"], names["embed.tokens.weight"]
    if head not in named:
        return
    if embedding in named and not torch.equal(named[head], named[embedding]):
        raise ModelFileError(
            "E403", f"{where}:{head}", "the config ties the head, the file has another one"
        )
    del named[head]


def to_theirs(model: Model, family: Family) -> dict[str, Tensor]:
    """Our tensors under their names, contiguous, a tied head once."""
    ours = {name: parameter.detach() for name, parameter in model.named_parameters()}
    theirs: dict[str, Tensor] = {}
    for row, index in family.rows(set(ours)):
        theirs |= row.write(ours, index)
    dtype = model.embed.tokens.weight.dtype
    theirs |= {row.theirs: row.value(model.config).to(dtype) for row in family.constants}
    return {name: tensor.contiguous().cpu() for name, tensor in theirs.items()}


def special_ids(
    tokenizer: Tokenizer | None, shape: str, ends: Iterable[int] = (), start_id: int | None = None
) -> dict[str, Any]:
    """`bos_token_id` and the like, for both config files.

    A decoder's text ends where a turn ends, too, whoever opens the folder.

    Args:
        tokenizer: of the model, if it has one.
        shape: decoder, encoder or encoder-decoder.
        ends: tokens that end a text; none for the tokenizer's.
        start_id: what an encoder–decoder's decoder reads first.
    """
    found: dict[str, Any] = {"decoder_start_token_id": start_id}
    known: set[int | None] = set(ends)
    if tokenizer is not None:
        found |= {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
        known = known or {tokenizer.eos_id}
        known |= {tokenizer.control.get(TURN_END)} if shape == "decoder" else set()
    ordered = sorted(id for id in known if id is not None)
    found["eos_token_id"] = ordered[0] if len(ordered) == 1 else ordered or None
    return {name: id for name, id in found.items() if id is not None}


def save_folder(
    model: Model,
    family: Family,
    folder: Path,
    *,
    special: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write what `transformers` opens, into an existing folder.

    Args:
        model: what to write.
        family: whose names to use; it must be able to express the model.
        folder: usually one from `files.new_folder`, so that it appears whole.
        special: of `special_ids`, for both config files.
        generation: further entries of generation_config.json.
        dtype: the type in the file; None keeps that of the weights.
    """
    tensors = to_theirs(model, family)
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    stored = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    # what the family itself writes is part of what the model computes (RoBERTa's padding token)
    config = (special or {}) | family.write_config(model.config) | {"torch_dtype": stored}
    write_json(folder / CONFIG, config)
    write_json(folder / GENERATION, (special or {}) | (generation or {}))
    write_tensors(folder / WEIGHTS, tensors)
