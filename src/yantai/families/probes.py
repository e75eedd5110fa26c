"""Questions whose answers travel with a model, so that who loads it can see that it is the same.

Knows: a few fixed texts and conversations, their ids, and what the model says behind the last one.

    FOLDER/probes.json  {"dtype": "float32", "tokenizer": its hash,
                         "rows": [{"text"|"messages", "ids", "best", "logits"}],
                         "files": {name: SHA-256}, "chat_template": its hash,
                         "ends": ids that end a text}

Logits tell a model that computes otherwise, the hashes of weights, configuration and template one
that was changed where no probe looks, or by less than a rounded type shows. The hash of the file
itself is in the receipt beside it, where there is one.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yantai.base.errors import ModelFileError, YantaiError
from yantai.base.files import json_text, sha256_file, sha256_text, write_json
from yantai.core.face import Model
from yantai.families.folder import CONFIG, GENERATION, read_model_json
from yantai.families.packed_folder import is_packed
from yantai.text.chat import CHATML, ChatFormat
from yantai.text.tokenizer import Tokenizer

PROBES = "probes.json"
TEXTS = (
    "The old ink stone stood on the table by the window.",
    "砚台放在窗边的桌子上，墨还没有干。",
    "def area(r):\n\treturn 3.14159 * r**2  # 半径 → 面积",
    "  Zwölf\u00a0Boxkämpfer, 12 345,67 €  👩🏽‍🔬 \u0301 <|im_end|></s>[SEP]",
)
TALKS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Where does the ink stone stand?"}],
    [
        {"role": "system", "content": "回答要短。"},
        {"role": "user", "content": "砚台在哪里？"},
        {"role": "assistant", "content": "在窗边。"},
        {"role": "user", "content": "And the <|im_start|>ink?"},
    ],
)
TOP = 5
LONGEST = 64
"""Tokens of a probe that the network reads; of the ids themselves all are compared."""
TOLERANCE = 1e-3
"""Of logits in float32 on whatever processor, as a share of the largest one (at least 1)."""
ROUNDED = 0.1
"""The same where types or codes round them."""
LARGEST = torch.finfo(torch.float32).max
TAKE_IT_ALL = (
    "yantai verify the run; take the folder that the training wrote (a model that was changed on "
    "purpose has neither probes.json nor receipt.json)"
)


def probes_of(network: Model, tokenizer: Tokenizer, start_id: int | None = None) -> dict[str, Any]:
    """What a model answers now.

    Args:
        network: a language model or one that judges; it is left as it was.
        tokenizer: whose ids are meant.
        start_id: what an encoder–decoder's decoder reads first.
    """
    rows: list[dict[str, Any]] = []
    for asked in _asked(tokenizer):
        ids = _ids_of(tokenizer, asked)
        if ids:
            rows.append(asked | {"ids": ids} | _said(network, ids, start_id))
    return {"dtype": _type_of(network), **_read_with(tokenizer), "rows": rows}


def write_probes(
    folder: Path, network: Model, tokenizer: Tokenizer, start_id: int | None = None
) -> None:
    """Put them beside the weights."""
    own = {"files": _hashes(folder), "ends": _ends_of(folder)}
    write_json(folder / PROBES, probes_of(network, tokenizer, start_id) | own)


def check_probes(
    folder: Path, network: Model, tokenizer: Tokenizer | None, start_id: int | None = None
) -> float | None:
    """Whether a loaded model is the one that was trained.

    Args:
        folder: of the model.
        network: what was loaded.
        tokenizer: None for a folder that has none any more; ids are then not compared.
        start_id: what an encoder–decoder's decoder reads first.

    Returns:
        The largest difference of a logit, as a share of the largest logit of its row (at least
        1); None for a folder without probes.

    Raises:
        ModelFileError: E405, the vocabulary, the ids of a text or the chat template are others
            now; E410, logits differ by more than `TOLERANCE`, rounded ones by more than
            `ROUNDED`, weights or configuration are other files now, or the file of probes is no
            such file, is not the one of the receipt, or is gone.
    """
    path, listed = folder / PROBES, _listed(folder)
    if not path.is_file():
        if listed is not None:
            raise ModelFileError("E410", path, "is gone", do=TAKE_IT_ALL)
        return None
    table = read_model_json(path)
    rows = _checked(table, path)
    if listed is not None and listed != (now := sha256_file(path)):
        raise _other_file(path, listed, now)
    exact = table["dtype"] == _type_of(network) == "float32"
    allowed, worst = TOLERANCE if exact else ROUNDED, 0.0
    for number, row in enumerate(rows):
        where = f"{path}:rows[{number}]"
        if tokenizer is not None:
            _same_ids(where, tokenizer, row)
        worst = max(worst, _same_logits(where, network, row, start_id, allowed))
    if tokenizer is not None:
        _same_tokenizer(path, table, tokenizer)
    _same_files(folder, table)
    return worst


def _same_logits(
    where: str, network: Model, row: dict[str, Any], start_id: int | None, allowed: float
) -> float:
    ids, best = row["ids"], row["best"]
    if max(ids if network.head.labels else ids + best) >= network.config.vocab_size:
        raise ModelFileError("E410", where, "ids beyond the model's vocabulary")
    logits = _last_logits(network, ids, start_id)
    if max(best) >= len(logits):
        raise ModelFileError("E410", where, "more answers than the model has", got=max(best))
    then, now = torch.tensor(row["logits"], dtype=torch.float32), logits[best]
    difference = float((then - now).abs().max() / max(1.0, float(then.abs().max())))
    if not difference <= allowed:
        place = int((then - now).abs().argmax())
        raise ModelFileError(
            "E410", where, f"the model answers otherwise than when it was trained (id "
            f"{best[place]})", expected=f"{then[place]:.4f}", got=f"{now[place]:.4f}",
            do=TAKE_IT_ALL,
        )  # fmt: skip
    return difference


def _same_tokenizer(path: Path, table: dict[str, Any], tokenizer: Tokenizer) -> None:
    for name, now in _read_with(tokenizer).items():
        then, what = table.get(name), name.replace("_", " ")
        if then is not None and then != now:
            raise ModelFileError(
                "E405", path, f"the {what} is not the one that the model was trained with",
                expected=str(then)[:12], got=now[:12],
                do=f"take the {what} that the training wrote",
            )  # fmt: skip


def _read_with(tokenizer: Tokenizer) -> dict[str, str]:
    """Hashes of the tokenizer and of the template that renders, however its lines end."""
    template: Any = tokenizer.chat_template or CHATML
    text = template if isinstance(template, str) else json_text(template)
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    return {"tokenizer": tokenizer.hash, "chat_template": sha256_text(plain)}


def _hashes(folder: Path) -> dict[str, str]:
    """Of what a model is made of."""
    paths = [*sorted(folder.glob("*.safetensors")), folder / CONFIG]
    return {path.name: sha256_file(path) for path in paths if path.is_file()}


def _ends_of(folder: Path) -> Any:
    """What ends a text, as the folder says."""
    path = folder / GENERATION
    table = read_model_json(path) if path.is_file() else {}
    return table.get("eos_token_id") if isinstance(table, dict) else None


def _listed(folder: Path) -> Any:
    """The hash of the probes that whoever wrote the folder left in it; None without any."""
    path = folder / "receipt.json"
    table = read_model_json(path) if path.is_file() else {}
    outputs = table.get("outputs") if isinstance(table, dict) else None
    return outputs.get(PROBES) if isinstance(outputs, dict) else None


def _same_files(folder: Path, table: dict[str, Any]) -> None:
    files = table.get("files")
    now = _hashes(folder) if isinstance(files, dict) and files else {}
    for name, then in (files or {}).items() if now else ():
        if now.get(name) != then:
            raise _other_file(folder / name, then, now.get(name))
    if "ends" in table and table["ends"] != (ends := _ends_of(folder)):
        raise ModelFileError(
            "E410", f"{folder / GENERATION}:eos_token_id", "texts end elsewhere than when the "
            "model was trained", expected=table["ends"], got=ends, do=TAKE_IT_ALL,
        )  # fmt: skip


def _other_file(path: Path, then: Any, now: Any) -> ModelFileError:
    return ModelFileError(
        "E410", path, "is not the file that was written with the model",
        expected=str(then)[:12], got=str(now)[:12], do=TAKE_IT_ALL,
    )  # fmt: skip


def _asked(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    texts: list[dict[str, Any]] = [{"text": text} for text in TEXTS]
    return texts + ([{"messages": talk} for talk in TALKS] if tokenizer.chat_template else [])


def _ids_of(tokenizer: Tokenizer, asked: dict[str, Any]) -> list[int]:
    """Of a text, or of a conversation that waits for an answer; [] if a template refuses it."""
    if "text" in asked:
        return tokenizer.prompt(asked["text"])
    try:
        return ChatFormat(tokenizer).render(asked["messages"], reply=True).ids
    except YantaiError:
        return []


def _said(network: Model, ids: list[int], start_id: int | None) -> dict[str, Any]:
    logits = _last_logits(network, ids, start_id)
    found = logits.topk(min(TOP, len(logits)))
    values = [float(f"{value:.7g}") for value in found.values.tolist()]
    return {"best": found.indices.tolist(), "logits": values}


@torch.no_grad()
def _last_logits(network: Model, ids: list[int], start_id: int | None) -> Tensor:
    """Float32 behind the last id (of `LONGEST`), computed in the type of the weights."""
    was_training, kind = network.training, network.compute_dtype
    device = next(network.parameters()).device
    network.eval()
    network.compute_dtype = None
    try:
        read = torch.tensor([ids[-min(LONGEST, network.config.max_positions) :]], device=device)
        if network.config.shape == "encoder-decoder":
            begun = torch.tensor([[start_id or 0]], device=device)
            logits = network(begun, memory=network.encode(read))
        else:
            logits = network(read)
    finally:
        network.compute_dtype = kind
        network.train(was_training)
    return logits[0, -1].float().cpu()


def _type_of(network: Model) -> str:
    """What it computes in, or that its weights are codes."""
    if is_packed(network):
        return "packed"
    return str(next(network.parameters()).dtype).removeprefix("torch.")


def _same_ids(where: str, tokenizer: Tokenizer, row: dict[str, Any]) -> None:
    then, now = row["ids"], _ids_of(tokenizer, row)
    if then == now:
        return
    pairs = zip(then, now, strict=False)
    place = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(then), len(now)))
    raise ModelFileError(
        "E405", where, f"gives other ids than when the model was trained, first at {place}",
        expected=_shown(tokenizer, then, place), got=_shown(tokenizer, now, place),
        do="take the tokenizer and the chat template that the training wrote",
    )  # fmt: skip


def _shown(tokenizer: Tokenizer, ids: list[int], place: int) -> str:
    if place >= len(ids):
        return "an end"
    id = ids[place]
    known = id < tokenizer.vocab_size
    return f"{id} {tokenizer.decode([id], skip_special=False)!r}" if known else str(id)


def _checked(table: Any, path: Path) -> list[dict[str, Any]]:
    """The rows of a file that anybody may have written."""
    rows = table.get("rows") if isinstance(table, dict) else None
    if not rows or not isinstance(rows, list) or not isinstance(table.get("dtype"), str):
        raise ModelFileError("E410", path, "not a file of probes", do="delete it, or train again")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not _is_row(row):
            raise ModelFileError("E410", f"{path}:rows[{number}]", "not a probe", do=TAKE_IT_ALL)
    return rows


def _is_row(row: dict[str, Any]) -> bool:
    ids, best, logits = (row.get(name) for name in ("ids", "best", "logits"))
    lists = isinstance(ids, list) and isinstance(best, list) and isinstance(logits, list)
    if not lists or not ids or not best or len(best) != len(logits):
        return False
    numbers = all(type(each) is int and each >= 0 for each in ids + best)
    asks = isinstance(row.get("text"), str) or isinstance(row.get("messages"), list)
    finite = all(type(each) in (int, float) and abs(each) <= LARGEST for each in logits)
    return numbers and asks and finite
