"""`yantai export`: a model in the form of other programs.

Knows: which forms there are. What is written is checked by reading it back.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from yantai.base.abandoned import remove_abandoned
from yantai.base.device import prepare_process
from yantai.base.errors import ModelFileError, UsageError
from yantai.base.files import (
    check_replaceable,
    make_folder,
    new_file,
    new_folder,
    refuse_itself,
    sha256_file,
)
from yantai.families.gguf import read_gguf, write_gguf
from yantai.families.gguf_file import MAGIC
from yantai.families.hub import local_folder
from yantai.families.packed_folder import is_packed
from yantai.families.probes import probes_of, write_probes
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load
from yantai.life.quantize import quality, texts_of, told_quality
from yantai.life.settings import Export

FOLDER_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
APART = {"F32": 1e-5, "F16": 2e-2, "BF16": 0.1}
"""How far the logits of a folder may be from the model's, as a share of the largest."""
FILE_APART = APART | {"Q8_0": 0.2, "Q4_0": 2.0}
"""The same of a file; four bits answer what they answer, and the report says how well."""


def export(settings: Export, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai export`.

    Raises:
        UsageError: the form cannot hold the model.
        ModelFileError: the model is not the one that was trained, or reads back as another one.
    """
    prepare_process(None)
    folder = local_folder(settings.model)
    refuse_itself(settings.out, folder)
    remove_abandoned(settings.out.parent)
    model = load(folder, dtype="float32", device="cpu", probes=True)
    if is_packed(model.network):
        raise UsageError("E203", "model", "is packed", do="give the one it was made from")
    if settings.to == "gguf":
        report = _as_gguf(settings, folder, model, emit)
    else:
        report = _as_folder(settings, model, emit)
    emit(f"{settings.out}\n")
    return {"out": str(settings.out), "to": settings.to, **report}


def _as_gguf(
    settings: Export, folder: Path, model: LanguageModel, emit: Callable[[str], None]
) -> dict[str, Any]:
    out = settings.out
    if out.is_dir():
        raise UsageError("E204", out, "is a folder", do="name a file, such as model.gguf")
    if out.is_file():
        with out.open("rb") as there:
            if there.read(len(MAGIC)) not in (MAGIC, b""):
                raise UsageError("E204", out, "is another file", do="choose another name")
    kind = settings.type or "F16"
    make_folder(out.parent)
    texts, source = texts_of(settings.data, folder)
    with new_file(out) as written:
        write_gguf(written, model.network, model.family, model.tokenizer, kind)
        network, family, tokenizer = read_gguf(written, dtype=torch.float32)
        again = LanguageModel(network, family, tokenizer, model.eos_ids)
        pairs = [probes_of(each.network, each.tokenizer)["rows"] for each in (model, again)]
        if [row["ids"] for row in pairs[0]] != [row["ids"] for row in pairs[1]]:
            raise ModelFileError("E410", out, "the file gives other ids than the model")
        apart = _apart(out, _answers(model), _answers(again), FILE_APART[kind])
        report = {"text": source, **quality(model, again, texts, settings.seed)}
    emit("\n".join([f"{kind}; read: {source}", *told_quality(report)]) + "\n")
    facts = {"sha256": sha256_file(out), "bytes": out.stat().st_size, "apart": apart}
    return {"type": kind, **facts, **report}


def _as_folder(
    settings: Export, model: LanguageModel, emit: Callable[[str], None]
) -> dict[str, Any]:
    """What `transformers`, vLLM and the builder of onnxruntime-genai read.

    It is opened again and asked what the model is asked, an adapter that was folded in, too.
    """
    kind = settings.type or "BF16"
    if kind not in FOLDER_TYPES:
        raise UsageError(
            "E203", "type", "not a type of such folders", expected=", ".join(FOLDER_TYPES), got=kind
        )
    if not model.family.in_transformers:
        raise UsageError("E203", "model", "is of a family that is Yantai's own",
                         got=model.family.name)  # fmt: skip
    check_replaceable(settings.out)
    told = _answers(model)
    model.network.to(FOLDER_TYPES[kind])
    with new_folder(settings.out) as written:
        model.write_into(written)
        again = load(written, dtype="float32", device="cpu")
        apart = _apart(settings.out, told, _answers(again), APART[kind])
        write_probes(written, again.network, again.tokenizer, again.start_id)
    emit(f"{kind}; opened again: logits within {apart:.1e} of the largest\n")
    weights = sorted(settings.out.glob("*.safetensors"))
    return {"type": kind, "sha256": sha256_file(weights[0]), "apart": apart}


def _apart(out: Path, told: torch.Tensor, again: torch.Tensor, allowed: float) -> float:
    """How far two answers are from each other, as a share of the largest logit.

    Raises:
        ModelFileError: farther than is allowed.
    """
    apart = float((told - again).abs().max() / told.abs().max())
    if not apart <= allowed:
        raise ModelFileError(
            "E410", out, "would answer otherwise than the model; nothing was written",
            expected=f"logits within {allowed:g} of the largest", got=f"{apart:.1e}",
        )  # fmt: skip
    return apart


@torch.inference_mode()
def _answers(model: LanguageModel) -> torch.Tensor:
    """Logits of two rows of ids."""
    config, dice = model.network.config, torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (2, min(32, config.max_positions)), generator=dice)
    decoder_ids = ids.flip(1) if model.shape == "encoder-decoder" else None
    return model.logits(ids, decoder_ids).float()
