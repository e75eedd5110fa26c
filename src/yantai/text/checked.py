"""A tokenizer.json from a stranger, looked at before the library builds anything from it.

Knows: the file's form. Ids must be plain numbers that no two entries share; regular expressions
must be ones that somebody has read, because the library's engine tries every way to match, and a
hostile expression would keep it busy for ever.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

from yantai.base.errors import ModelFileError

MAX_ENTRIES = 4_000_000
MODELS = ("BPE", "WordPiece", "Unigram", "WordLevel")

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
KNOWN_PATTERNS = frozenset(
    {
        # GPT-2
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        # Qwen2, Qwen2.5, Qwen3
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}",
        # GPT-4, Llama 3
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",
        # GPT-4o; Mistral's newer ones, without contractions and with single digits
        rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED[0]}*{_CASED[1]}+{_CONTRACTIONS}?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_CASED[0]}+{_CASED[1]}*{_CONTRACTIONS}?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED[0]}*{_CASED[1]}+"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_CASED[0]}+{_CASED[1]}*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        # DeepSeek
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        "[一-龥\u0800-一가-\ud7ff]+",
        "[\r\n]",
        r"\s?\p{L}+",
        r"\s?\p{P}+",
        r"\s+$",
        # spaces and digits in the normalisers and splits of others
        r"\s+",
        " {2,}",
        r"\p{N}",
        r"\d",
        r"[0-9]",
        r"\n",
    }
)


def check_tokenizer(content: bytes, where: str) -> None:
    """Refuse a file that the library should not be given.

    Args:
        content: of tokenizer.json.
        where: for the error.

    Raises:
        ModelFileError: E405, with the path of the field.
    """
    try:
        table = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFileError("E405", where, f"not JSON in UTF-8 ({error})") from error
    if not isinstance(table, dict) or not isinstance(table.get("model"), dict):
        raise ModelFileError("E405", f"{where}:model", "not a table")
    names = _check_model(table["model"], where)
    _check_added(table.get("added_tokens"), names, where)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        for path, pattern in _patterns(table.get(part), part):
            if pattern not in KNOWN_PATTERNS:
                raise ModelFileError(
                    "E405", f"{where}:{path}", "a regular expression that is not a known one",
                    got=pattern if isinstance(pattern, str) else type(pattern).__name__,
                    do="give a tokenizer with a known one: GPT-2, GPT-4, Llama 3, Qwen, Mistral",
                )  # fmt: skip


def _check_model(model: dict[str, Any], where: str) -> dict[str, int]:
    """The entries and their ids."""
    kind = model.get("type")
    if kind is None:  # files of the library's first years do not say
        kind = "BPE" if "merges" in model else "WordPiece"
    if kind not in MODELS:
        raise ModelFileError(
            "E405", f"{where}:model.type", "unknown", expected=" or ".join(MODELS), got=kind
        )
    vocabulary = model.get("vocab")
    at = f"{where}:model.vocab"
    if isinstance(vocabulary, list):
        return _scored(vocabulary, at)
    if not isinstance(vocabulary, dict):
        raise ModelFileError("E405", at, "not a table", got=type(vocabulary).__name__)
    if len(vocabulary) > MAX_ENTRIES:
        raise ModelFileError("E405", at, "too many entries", expected=MAX_ENTRIES)
    seen: dict[int, str] = {}
    for name, id in vocabulary.items():
        if type(id) is not int or not 0 <= id < MAX_ENTRIES:
            raise ModelFileError(
                "E405", f"{at}.{name!r}", "not an id", expected=f"0 to {MAX_ENTRIES - 1}", got=id
            )
        if id in seen:
            raise ModelFileError("E405", f"{at}.{name!r}", f"has the id of {seen[id]!r}", got=id)
        seen[id] = name
    return vocabulary


def _scored(vocabulary: list[Any], at: str) -> dict[str, int]:
    if len(vocabulary) > MAX_ENTRIES:
        raise ModelFileError("E405", at, "too many entries", expected=MAX_ENTRIES)
    found = {}
    for id, entry in enumerate(vocabulary):
        plain = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
        if not plain or type(entry[1]) not in (int, float) or not math.isfinite(entry[1]):
            raise ModelFileError("E405", f"{at}[{id}]", "not a piece and a number", got=entry)
        found[entry[0]] = id
    return found


def _check_added(added: Any, names: dict[str, int], where: str) -> None:
    """Tokens beside the model's: each id means one thing."""
    at = f"{where}:added_tokens"
    if added is None:
        return
    if not isinstance(added, list):
        raise ModelFileError("E405", at, "not a list", got=type(added).__name__)
    owners = {id: name for name, id in names.items()}
    for number, token in enumerate(added):
        content = token.get("content") if isinstance(token, dict) else None
        id = token.get("id") if isinstance(token, dict) else None
        if not isinstance(content, str) or type(id) is not int or not 0 <= id < MAX_ENTRIES:
            raise ModelFileError("E405", f"{at}[{number}]", "not a token with an id")
        if owners.setdefault(id, content) != content or names.get(content, id) != id:
            raise ModelFileError(
                "E405", f"{at}[{number}].id", f"{content!r} shares its id, or has two", got=id
            )


def _patterns(part: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every regular expression in a part of the file, with the path of its field."""
    if isinstance(part, list):
        for number, each in enumerate(part):
            yield from _patterns(each, f"{path}[{number}]")
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "Regex":
                yield f"{path}.Regex", value
            else:
                yield from _patterns(value, f"{path}.{key}")
