"""Adapters in PEFT's form: adapter_config.json and adapter_model.safetensors.

Knows: what PEFT calls adapted matrices. It names modules as the model's own file does; where that
keeps several of our matrices in one, their adapters stand end to end in one of as many times the
rank, whose B has a block for each.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from yantai.adapt.lora import PARTS, LoRA, LowRank, adapters, add_lora
from yantai.base.config import build
from yantai.base.errors import ModelFileError
from yantai.base.files import write_json
from yantai.core.config import Labels
from yantai.core.face import Model
from yantai.families.folder import read_model_json
from yantai.families.labels import Job
from yantai.families.rules import Family, Merged, Renamed
from yantai.families.weights import open_file, write_tensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LABELS = "labels.json"
PREFIX = "base_model.model."
OF_SHAPE = {
    "decoder": "CAUSAL_LM", "encoder": "FEATURE_EXTRACTION", "encoder-decoder": "SEQ_2_SEQ_LM",
}  # fmt: skip
KINDS = {"": "", "classify": "SEQ_CLS", "tag": "TOKEN_CLS", "span": "QUESTION_ANS"}


def save_adapter(model: Model, family: Family, lora: LoRA, folder: Path, *, base: str) -> None:
    """Write what `peft.PeftModel.from_pretrained` opens, into an existing folder.

    Args:
        model: with adapters.
        family: whose names are used.
        lora: how they were made.
        folder: where.
        base: the folder or name of the model that they belong to.
    """
    tensors: dict[str, Tensor] = {}
    modules, ranks, alphas = set(), {}, {}
    for theirs, parts in _modules(model, family):
        a = torch.cat([part.lora_a for part in parts])
        b = torch.block_diag(*(part.lora_b for part in parts))
        tensors[f"{PREFIX}{theirs}.lora_A.weight"] = a
        tensors[f"{PREFIX}{theirs}.lora_B.weight"] = b
        modules.add(theirs)
        if len(a) != lora.rank:
            ranks[theirs] = len(a)
        alpha = parts[0].scale * len(a) ** (0.5 if lora.stabilised else 1.0)
        if abs(alpha - lora.alpha) > 1e-6 * lora.alpha:
            alphas[theirs] = alpha
    head = {}
    if model.head.labels is not None:
        named = {f"head.{name}": each for name, each in model.head.named_parameters()}
        for row, index in family.rows(set(dict(model.named_parameters()))):
            if isinstance(row, Renamed) and row.ours in named:
                head |= row.write(named, index)
    tensors |= {f"{PREFIX}{name}": each for name, each in head.items()}
    saved = sorted({name.rpartition(".")[0] for name in head})
    kind = KINDS[family.job]
    if not family.job:
        kind = OF_SHAPE[model.config.shape]
    write_json(
        folder / CONFIG,
        {
            "peft_type": "LORA", "task_type": kind, "base_model_name_or_path": base,
            "inference_mode": True, "r": lora.rank, "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout, "use_rslora": lora.stabilised, "bias": "none",
            "fan_in_fan_out": any(row.transposed for row in family.tensors),
            "target_modules": sorted(modules), "rank_pattern": ranks, "alpha_pattern": alphas,
            "modules_to_save": saved or None,
        },
    )  # fmt: skip
    if model.head.labels is not None:  # PEFT keeps none
        write_json(folder / LABELS, {"job": family.job, **model.head.labels.model_dump()})
    write_tensors(folder / WEIGHTS, tensors)


def _modules(model: Model, family: Family) -> list[tuple[str, list[LowRank]]]:
    """(their module, our adapters in it)."""
    ours = {f"{name}.weight": module for name, module in adapters(model)}
    found = []
    for row, index in family.rows({name for name, _ in model.named_parameters()}):
        names = row.ours if isinstance(row, Merged) else (row.ours,)
        own = [ours.get(name.format(**index)) for name in names]
        if not any(own):
            continue
        parts = [part for part in own if part is not None]
        if len(parts) < len(own):
            raise ModelFileError(
                "E403", row.theirs.format(**index), "holds matrices with and without an adapter",
                do=f"adapt all of {', '.join(name.rpartition('.')[0] for name in names)}",
            )  # fmt: skip
        found.append((row.theirs.format(**index).removesuffix(".weight"), parts))
    return found


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    return (folder / CONFIG).is_file()


def load_adapter(model: Model, family: Family, folder: Path) -> LoRA:
    """Put the adapters of a folder beside the matrices of their model.

    Args:
        model: the one that they were made for; changed in place.
        family: whose names are used.
        folder: in PEFT's form.

    Raises:
        ModelFileError: the files are not what they say, or belong to another model.
    """
    theirs, lora = read_adapter_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelFileError("E403", path, "the file is missing")
    named = {name.removeprefix(PREFIX): each for name, each in open_file(path, folder).items()}
    lora = lora.model_copy(update={"targets": _targets(model, family, named, path)})
    add_lora(model, lora)
    used = set()
    for module, parts in _modules(model, family):
        a, b = (named.get(f"{module}.lora_{kind}.weight") for kind in "AB")
        if a is None or b is None:
            raise ModelFileError("E403", f"{path}:{module}", "the adapter has no such matrix")
        used |= {f"{module}.lora_{kind}.weight" for kind in "AB"}
        scale = _scale(theirs, module, lora, a.shape[0])
        rows = [part.outputs for part in parts]
        if a.shape[1] != parts[0].inputs or b.shape != (sum(rows), a.shape[0]):
            raise ModelFileError(
                "E403", f"{path}:{module}", "wrong shape",
                expected=f"(r, {parts[0].inputs}) and ({sum(rows)}, r)",
                got=f"{tuple(a.shape)} and {tuple(b.shape)}",
            )  # fmt: skip
        for part, (own, piece) in zip(parts, _pieces(a, b, rows), strict=True):
            part.lora_a = torch.nn.Parameter(own.to(part.weight).clone())
            part.lora_b = torch.nn.Parameter(piece.to(part.weight).clone())
            part.scale = scale
    _read_head(model, family, named, used, path)
    extra = sorted(set(named) - used)
    if extra:
        raise ModelFileError("E403", f"{path}:{extra[0]}", "belongs to no matrix of the model")
    return lora


def _pieces(a: Tensor, b: Tensor, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
    """A and B of each of our matrices: blocks, where B has nothing beside them, else A for all."""
    pieces = list(b.split(rows))
    if a.shape[0] % len(rows):
        return [(a, piece) for piece in pieces]
    own = list(a.chunk(len(rows)))
    blocks = [piece.chunk(len(rows), 1)[number] for number, piece in enumerate(pieces)]
    if torch.equal(torch.block_diag(*blocks), b):
        return list(zip(own, blocks, strict=True))
    return [(a, piece) for piece in pieces]


def read_labels(folder: Path) -> tuple[Job, Labels] | None:
    """What the model judges, where it does.

    Raises:
        ModelFileError: the file makes no sense.
    """
    path = folder / LABELS
    if not path.is_file():
        return None
    table = read_model_json(path)
    job = table.pop("job", None)
    if job not in get_args(Job):
        raise ModelFileError("E401", f"{path}:job", "unknown", expected=get_args(Job), got=job)
    try:
        return cast(Job, job), Labels(**table)
    except (TypeError, ValueError) as error:
        raise ModelFileError("E401", path, f"not labels ({error})") from error


def read_adapter_config(folder: Path) -> tuple[dict[str, Any], LoRA]:
    """adapter_config.json as it is, and as ours.

    Raises:
        ModelFileError: it asks for what we do not compute.
    """
    path = folder / CONFIG
    theirs = read_model_json(path)
    for key, allowed in (
        ("peft_type", ("LORA",)), ("bias", ("none", None)), ("use_dora", (False, None)),
        ("layers_to_transform", (None,)), ("lora_bias", (False, None)),
    ):  # fmt: skip
        if theirs.get(key) not in allowed:
            raise ModelFileError(
                "E402", f"{path}:{key}", "not supported",
                expected=" or ".join(str(each) for each in allowed), got=theirs.get(key),
            )  # fmt: skip
    given = {
        "rank": theirs.get("r", 8),
        "alpha": theirs.get("lora_alpha", 8),
        "dropout": theirs.get("lora_dropout") or 0.0,
        "stabilised": bool(theirs.get("use_rslora")),
    }
    try:
        return theirs, build(LoRA, given, str(path))
    except ValueError as error:
        raise ModelFileError("E401", path, str(error)) from error


def _scale(theirs: Mapping[str, Any], module: str, lora: LoRA, rank: int) -> float:
    """Of one module; a pattern may give it a rank and an alpha of its own."""
    patterns = theirs.get("alpha_pattern") or {}
    alpha = next(
        (value for key, value in patterns.items() if module == key or module.endswith(f".{key}")),
        lora.alpha,
    )
    return float(alpha) / (rank**0.5 if lora.stabilised else rank)


def _targets(
    model: Model, family: Family, named: Mapping[str, Tensor], path: Path
) -> tuple[str, ...]:
    """Which of our matrices have adapters there."""
    found = set()
    adapted = {name.removesuffix(".lora_A.weight") for name in named if "lora_A" in name}
    for row, index in family.rows({name for name, _ in model.named_parameters()}):
        if row.theirs.format(**index).removesuffix(".weight") in adapted:
            names = row.ours if isinstance(row, Merged) else (row.ours,)
            found |= {name.removesuffix(".weight").rpartition(".")[2] for name in names}
    odd = found - set(PARTS)
    if odd or not found:
        raise ModelFileError(
            "E403", path, "adapters of matrices that cannot have them", got=", ".join(sorted(odd))
        )
    return tuple(part for part in PARTS if part in found)


def _read_head(
    model: Model, family: Family, named: Mapping[str, Tensor], used: set[str], path: Path
) -> None:
    """A head of labels that was saved beside the adapters."""
    ours = {name: each for name, each in model.named_parameters() if name.startswith("head.")}
    for row, index in family.rows(set(ours)):
        theirs = row.theirs.format(**index)
        if not isinstance(row, Renamed) or row.ours not in ours or theirs not in named:
            continue
        used.add(theirs)
        value = row.read(named, index)[row.ours]
        if value.shape != ours[row.ours].shape:
            raise ModelFileError("E403", f"{path}:{theirs}", "wrong shape", got=tuple(value.shape))
        with torch.no_grad():
            ours[row.ours].copy_(value)
