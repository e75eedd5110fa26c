"""`yantai.load`: a model by its folder, by its name on the hub, or from a file of llama2.c.

Knows: what lies beside the weights — a tokenizer, the ids that end a text.
"""

from pathlib import Path
from typing import Any

import torch

from yantai.adapt.lora import LoRA, merge
from yantai.base.device import DTYPES, choose_device, choose_dtype
from yantai.base.errors import ModelFileError, UsageError
from yantai.base.log import say
from yantai.core.face import Model
from yantai.core.grow import with_head
from yantai.families.adapter import is_adapter, load_adapter, read_adapter_config, read_labels
from yantai.families.folder import CONFIG, GENERATION, load_folder, read_model_json
from yantai.families.gguf import read_gguf
from yantai.families.hub import local_folder
from yantai.families.labels import judging
from yantai.families.llama2c import read_llama2c, read_tokenizer
from yantai.families.probes import check_probes
from yantai.families.rules import Family
from yantai.families.table import family_named
from yantai.families.weights import PICKLES, pickled
from yantai.infer.language_model import LanguageModel
from yantai.text.tokenizer import Tokenizer


def load(
    path: str | Path, *, dtype: str | None = None, device: str = "auto", probes: bool = False
) -> LanguageModel:
    """Open a model.

    Args:
        path: a folder that Yantai or `transformers` wrote; or a name on the hub, such as
            `Qwen/Qwen3-0.6B` or `Qwen/Qwen3-0.6B@revision`, whose files are fetched once; or a
            GGUF file; or a file of llama2.c with its vocabulary (tokenizer.bin, or tok512.bin for
            512 entries) beside it.
        dtype: float32, bfloat16, float64; `auto` is the fastest on the device; None keeps the
            type of the file.
        device: cpu, cuda or auto.
        probes: compare with the answers that training left beside the weights, where it did.

    Raises:
        UsageError: there is no such folder, and none could be fetched.
        ModelFileError: the folder is not a model, or not a supported one; or, with `probes`, it
            is not the model that was trained.
    """
    place = choose_device(device)
    kind = None if dtype is None else choose_dtype(dtype, place)
    assert kind is None or kind in DTYPES.values()
    if Path(path).is_file():
        return _from_file(Path(path), kind, place)
    folder = local_folder(path)
    if is_adapter(folder):
        network, family, theirs, _, base = adapted(folder, kind, place)
        network = merge(network).eval()
    else:
        network, family, theirs = load_folder(folder, dtype=kind, device=place)
        base = ""
    tokenizer = Tokenizer.find(folder)
    if tokenizer is None and base:  # PEFT writes none beside an adapter
        tokenizer = Tokenizer.find(local_folder(base))
    if tokenizer is not None:
        _check_ids(folder / "tokenizer.json", tokenizer, network.config.vocab_size)
    ends = _eos_ids(folder, theirs, tokenizer)
    start = _start_id(theirs, network.config.vocab_size, folder)
    if probes:
        worst = check_probes(folder, network, tokenizer, start)
        if worst is not None:
            ids = "no tokenizer" if tokenizer is None else "equal ids"
            say(f"{folder}: as trained: {ids}, logits within {worst:.1e} of the largest")
    return LanguageModel(network, family, tokenizer, ends, start)


def adapted(
    folder: Path, kind: torch.dtype | None, place: torch.device
) -> tuple[Model, Family, dict[str, Any], LoRA, str]:
    """The model that an adapter was made for, with the adapter beside its matrices.

    Returns:
        It, its family, its config.json, what the adapter is like, and the base's folder or name.
    """
    base = read_adapter_config(folder)[0].get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        where = f"{folder}/adapter_config.json:base_model_name_or_path"
        raise ModelFileError("E401", where, "does not say which model the adapter belongs to")
    own = folder / base
    try:
        found = own if own.is_dir() else local_folder(base)
    except UsageError as error:
        raise UsageError(
            error.code, base, "the model of this adapter is not there", got=folder,
            do="put it back, or name its place in adapter_config.json",
        ) from error  # fmt: skip
    network, family, theirs = load_folder(found, dtype=kind, device=place)
    judged = read_labels(folder)
    if judged is not None:
        job, labels = judged
        network = with_head(network, labels, table=family.initial)
        family = judging(family_named(family.name), job)
    lora = load_adapter(network, family, folder)
    return network, family, theirs, lora, str(found) if found.is_dir() else base


def _from_file(path: Path, kind: torch.dtype | None, place: torch.device) -> LanguageModel:
    """A GGUF file, or one of llama2.c; there, the token that begins a text ends it too."""
    if path.suffix == ".gguf":
        model, family, own = read_gguf(path, dtype=kind, device=place)
        return LanguageModel(model, family, own, _ends_of(own))
    if path.suffix != ".bin":
        if path.suffix in PICKLES:
            raise pickled(path)
        raise UsageError(
            "E206", path, "a file", expected="a model folder", do="give the folder that holds it"
        )
    network = read_llama2c(path).to(device=place, dtype=kind)
    tokenizer = read_tokenizer(path, network.config.vocab_size)
    ends = frozenset({1})
    return LanguageModel(network, family_named("llama"), tokenizer, ends)


def _check_ids(path: Path, tokenizer: Tokenizer, rows: int) -> None:
    if tokenizer.vocab_size > rows:
        raise ModelFileError(
            "E405",
            path,
            "ids reach beyond the embedding",
            expected=f"at most {rows}",
            got=tokenizer.vocab_size,
            do="the tokenizer and the weights must be of one model",
        )


def _start_id(theirs: dict[str, Any], rows: int, folder: Path) -> int | None:
    start = theirs.get("decoder_start_token_id")
    if start is not None and (type(start) is not int or not 0 <= start < rows):
        raise ModelFileError(
            "E401", f"{folder / CONFIG}:decoder_start_token_id", "not an id of the vocabulary",
            expected=f"0 to {rows - 1}", got=start,
        )  # fmt: skip
    return start


def _eos_ids(folder: Path, theirs: dict[str, Any], tokenizer: Tokenizer | None) -> frozenset[int]:
    """From generation_config.json, else config.json, else the tokenizer."""
    generation = read_model_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    for table in (generation, theirs):
        value = table.get("eos_token_id") if isinstance(table, dict) else None
        if isinstance(value, int):
            return frozenset({value})
        if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
            return frozenset(value)
    return _ends_of(tokenizer)


def _ends_of(tokenizer: Tokenizer | None) -> frozenset[int]:
    return frozenset({tokenizer.eos_id} if tokenizer and tokenizer.eos_id is not None else ())
