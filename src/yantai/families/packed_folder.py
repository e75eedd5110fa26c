"""A folder of a model whose matrices are codes: config.json says so, the tensors have our names.

Knows: files. What the codes mean is `adapt/packed.py`'s business. No other program reads these
weights. The type of the model is a name of ours, so that `transformers` refuses the folder; of a
quantisation that it does not know it only warns, and goes on with weights that mean nothing.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yantai.adapt.packed import Form
from yantai.adapt.quantize import (
    PackedHead,
    PackedLinear,
    PackedTable,
    packed_modules,
    replace_module,
)
from yantai.base.errors import ModelFileError, UsageError
from yantai.base.files import write_json
from yantai.core.face import Model
from yantai.core.initialise import build_meta, materialise
from yantai.core.layers import Linear
from yantai.families.rules import Family
from yantai.families.weights import SINGLE, write_tensors

METHOD = "yantai"
NOTE = "codes of Yantai's own form (names of tensors, too); opened by yantai.load alone"
ENTRY, TYPE, PACKS = "quantization_config", "yantai-packed", "packed_model_type"


def unwrapped(theirs: dict[str, Any]) -> dict[str, Any]:
    """config.json of the model that is packed; itself for a model without codes."""
    if theirs.get("model_type") != TYPE:
        return theirs
    return theirs | {"model_type": theirs.get(PACKS)}


def described(theirs: dict[str, Any], where: str) -> dict[str, Any] | None:
    """What config.json says of codes; None for a model without.

    Raises:
        ModelFileError: they are of another method, or the entry makes no sense.
    """
    entry = theirs.get(ENTRY)
    if entry is None:
        return None
    method = entry.get("quant_method") if isinstance(entry, dict) else None
    if method != METHOD:
        raise ModelFileError(
            "E402", f"{where}:{ENTRY}", "weights of a method that is not read", expected=METHOD,
            got=method, do="give the folder it was made from",
        )  # fmt: skip
    _forms(entry, where)
    return entry


def _forms(entry: dict[str, Any], where: str) -> tuple[Form, Form]:
    """Of the matrices inside the blocks, and of embedding and head."""
    found = []
    for name in ("inner", "outer"):
        given = entry.get(name)
        bits, group = (
            (given.get("bits"), given.get("group")) if isinstance(given, dict) else (None, None)
        )
        sane = type(group) is int and 32 <= group <= 4096 and group % 32 == 0
        if bits not in (4, 8) or not sane:
            raise ModelFileError(
                "E401", f"{where}:{ENTRY}.{name}", "no form of codes", got=str(given)[:80],
                expected="bits 4 or 8, a group that is a multiple of 32",
            )  # fmt: skip
        found.append(Form(bits, group))
    return found[0], found[1]


def save_packed(
    model: Model,
    family: Family,
    folder: Path,
    inner: Form,
    outer: Form,
    *,
    special: dict[str, Any],
) -> None:
    """Write config.json and model.safetensors into an existing folder.

    Args:
        model: with packed matrices.
        family: of the model that it was.
        folder: usually one from `files.new_folder`.
        inner, outer: forms of the matrices inside the blocks, and of embedding and head.
        special: `eos_token_id` and the like.
    """
    tensors = {name: each.detach() for name, each in model.named_parameters()}
    shared = getattr(model.embed.tokens, "codes", None)
    for name, module in packed_modules(model):
        if name == "head" and shared is not None and module.codes is shared:
            continue
        tensors |= {f"{name}.codes": module.codes, f"{name}.scales": module.scales}
    stored = str(next(model.parameters()).dtype).removeprefix("torch.")
    forms = {name: vars(form) for name, form in (("inner", inner), ("outer", outer))}
    entry = {"quant_method": METHOD, **forms, "note": NOTE}
    config = special | family.write_config(model.config) | {"torch_dtype": stored, ENTRY: entry}
    config |= {"model_type": TYPE, PACKS: config["model_type"]}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", special)
    write_tensors(folder / SINGLE, tensors)


def load_packed(
    config: Any,
    entry: dict[str, Any],
    named: dict[str, Tensor],
    where: str,
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> Model:
    """The model of a folder of codes.

    Args:
        config: of the model.
        entry: from `described`.
        named: tensors of the file.
        where: config.json, for messages.
        dtype: of what is no code; None keeps that of the file.
        device: where to put it.

    Raises:
        ModelFileError: a tensor is missing, extra, or not what config.json says.
    """
    meta = build_meta(config)
    inner, outer = _forms(entry, where)
    _replace(meta, named, inner, outer)
    wanted: dict[str, Tensor] = dict(meta.named_parameters())
    tied = config.shares_embedding and isinstance(meta.head, PackedHead)
    for name, module in packed_modules(meta):
        if not (tied and name == "head"):
            wanted |= {f"{name}.codes": module.codes, f"{name}.scales": module.scales}
    missing, extra = sorted(set(wanted) - set(named)), sorted(set(named) - set(wanted))
    if missing or extra:
        what = f"missing tensor {missing[0]!r}" if missing else f"extra tensor {extra[0]!r}"
        raise ModelFileError(
            "E403", where, what, got=f"{len(missing)} missing, {len(extra)} extra",
            do="config.json and weights must be of one model",
        )  # fmt: skip
    ends = (".codes", ".scales")
    kinds = {name: each.dtype for name, each in wanted.items() if name.endswith(ends)}
    for name, each in wanted.items():
        got = named[name]
        if got.shape != each.shape or got.dtype != kinds.get(name, got.dtype):
            raise ModelFileError(
                "E403", f"{where}:{name}", "wrong shape or type",
                expected=f"{tuple(each.shape)} {each.dtype}", got=f"{tuple(got.shape)} {got.dtype}",
            )  # fmt: skip
    plain = [named[name].dtype for name in wanted if name not in kinds]
    model = materialise(meta, device, dtype or (plain[0] if plain else torch.float32))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(named[name])
        for name, module in packed_modules(model):
            source = "embed.tokens" if tied and name == "head" else name
            module.codes.copy_(named[f"{source}.codes"])
            module.scales.copy_(named[f"{source}.scales"])
    if tied:
        table, head = model.embed.tokens, model.head
        assert isinstance(table, PackedTable) and isinstance(head, PackedHead)
        head.codes, head.scales = table.codes, table.scales
    return model.eval()


def _replace(meta: Model, named: dict[str, Tensor], inner: Form, outer: Form) -> None:
    """Put modules for codes where the file has codes, on the meta device."""

    def empty(rows: int, columns: int, form: Form) -> tuple[Tensor, Tensor]:
        kind = torch.int8 if form.bits == 8 else torch.uint8
        codes = torch.empty(rows, columns * form.bits // 8, dtype=kind, device="meta")
        scales = torch.empty(rows, columns // form.group, dtype=torch.bfloat16, device="meta")
        return codes, scales

    for name, module in list(meta.named_modules()):
        if type(module) is not Linear or f"{name}.codes" not in named:
            continue
        own = inner.for_columns(module.inputs)
        if own is not None:
            made = PackedLinear(*empty(module.outputs, module.inputs, own), own, module.bias)
            replace_module(meta, name, made)
    rows, dim = meta.config.vocab_size, meta.config.dim
    own = outer.for_columns(dim)
    if "embed.tokens.codes" not in named or own is None:
        return
    meta.embed.tokens = PackedTable(*empty(rows, dim, own), own, torch.float32)
    if meta.head.labels is None:
        meta.head = PackedHead(meta.head, *empty(rows, dim, own), own)


def is_packed(model: nn.Module) -> bool:
    """Whether any matrix of a model is codes."""
    return any(True for _ in packed_modules(model))


def refuse_packed(model: nn.Module, where: object) -> None:
    """Codes do not learn.

    Raises:
        UsageError: the model has some.
    """
    if is_packed(model):
        raise UsageError(
            "E203", where, "packed weights do not learn", do="give the model that it was made from"
        )


def forms_of(model: nn.Module) -> tuple[Form, Form]:
    """Of the matrices inside the blocks, and of embedding and head."""
    found: dict[bool, Form] = {}
    for name, module in packed_modules(model):
        inside = ".blocks." in name
        if inside not in found or module.form.group > found[inside].group:
            found[inside] = module.form  # others have less: their rows do not fall into it
    either = next(iter(found.values()))
    return found.get(True, either), found.get(False, either)
