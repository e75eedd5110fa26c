"""`yantai export`: a model in the form of other programs.

Knows: which forms there are. What is written is checked by reading it back.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from yantai.base.device import prepare_process
from yantai.base.errors import ModelFileError, UsageError
from yantai.base.files import make_folder, sha256_file
from yantai.families.gguf import read_gguf, write_gguf
from yantai.families.hub import local_folder
from yantai.families.packed_folder import is_packed
from yantai.families.probes import probes_of
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load
from yantai.life.quantize import quality, texts_of, told_quality
from yantai.life.settings import Export

FOLDER_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
APART = {"F32": 1e-5, "F16": 2e-2, "BF16": 0.1}
"""How far the logits of a folder may be from the model's, as a share of the largest."""


def export(settings: Export, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai export`.

    Raises:
        UsageError: the form cannot hold the model.
        ModelFileError: the model is not the one that was trained, or reads back as another one.
    """
    prepare_process(None)
    folder = local_folder(settings.model)
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
    kind = settings.type or "F16"
    make_folder(out.parent)
    write_gguf(out, model.network, model.family, model.tokenizer, kind)
    network, family, tokenizer = read_gguf(out, dtype=torch.float32)
    again = LanguageModel(network, family, tokenizer, model.eos_ids)
    pairs = [probes_of(each.network, each.tokenizer)["rows"] for each in (model, again)]
    if [row["ids"] for row in pairs[0]] != [row["ids"] for row in pairs[1]]:
        raise ModelFileError("E410", out, "the file gives other ids than the model")
    texts, source = texts_of(settings.data, folder)
    report = {"text": source, **quality(model, again, texts, settings.seed)}
    emit("\n".join([f"{kind}; read: {source}", *told_quality(report)]) + "\n")
    return {"type": kind, "sha256": sha256_file(out), "bytes": out.stat().st_size, **report}


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
    told = _answers(model)
    model.network.to(FOLDER_TYPES[kind])
    model.save(settings.out)
    again = _answers(load(settings.out, dtype="float32", device="cpu"))
    apart = float((told - again).abs().max() / told.abs().max())
    if apart > APART[kind]:
        raise ModelFileError(
            "E410", settings.out, "the folder answers otherwise than the model",
            expected=f"logits within {APART[kind]:g} of the largest", got=f"{apart:.1e}",
        )  # fmt: skip
    emit(f"{kind}; opened again: logits within {apart:.1e} of the largest\n")
    weights = sorted(settings.out.glob("*.safetensors"))
    return {"type": kind, "sha256": sha256_file(weights[0]), "apart": apart}


@torch.inference_mode()
def _answers(model: LanguageModel) -> torch.Tensor:
    """Logits of two rows of ids."""
    config, dice = model.network.config, torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (2, min(32, config.max_positions)), generator=dice)
    decoder_ids = ids.flip(1) if model.shape == "encoder-decoder" else None
    return model.logits(ids, decoder_ids).float()
