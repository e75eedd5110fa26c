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
MAX_GROWTH = 64
MAX_CHARSMAP = 2_000_000
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
    ids = names | _check_added(table.get("added_tokens"), names, where)
    try:
        for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            for path, pattern in _found(table.get(part), part, "Regex"):
                if pattern not in KNOWN_PATTERNS:
                    raise ModelFileError(
                        "E405", f"{where}:{path}", "a regular expression that is not a known one",
                        got=pattern if isinstance(pattern, str) else type(pattern).__name__,
                        do="give a tokenizer with a known one: GPT-2, GPT-4, Llama 3, Qwen",
                    )  # fmt: skip
            _check_growth(table.get(part), f"{where}:{part}")
        _check_processor(table.get("post_processor"), ids, where)
    except RecursionError as error:
        raise ModelFileError("E405", where, "parts inside parts without end") from error


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
        unknown = model.get("unk_id")
        if type(unknown) is not int or not 0 <= unknown < len(vocabulary):
            raise ModelFileError(
                "E405", f"{where}:model.unk_id", "not an id: unknown letters would have none",
                expected=f"0 to {len(vocabulary) - 1}", got=unknown,
            )  # fmt: skip
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
    unknown = model.get("unk_token")
    if unknown is not None and (not isinstance(unknown, str) or unknown not in vocabulary):
        raise ModelFileError(
            "E405", f"{where}:model.unk_token", "not an entry of the vocabulary", got=unknown
        )
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


def _check_added(added: Any, names: dict[str, int], where: str) -> dict[str, int]:
    """Tokens beside the model's, with their ids: each id means one thing."""
    at = f"{where}:added_tokens"
    if added is None:
        return {}
    if not isinstance(added, list):
        raise ModelFileError("E405", at, "not a list", got=type(added).__name__)
    owners = {id: name for name, id in names.items()}
    found: dict[str, int] = {}
    for number, token in enumerate(added):
        content = token.get("content") if isinstance(token, dict) else None
        id = token.get("id") if isinstance(token, dict) else None
        if not isinstance(content, str) or type(id) is not int or not 0 <= id < MAX_ENTRIES:
            raise ModelFileError("E405", f"{at}[{number}]", "not a token with an id")
        if owners.setdefault(id, content) != content or names.get(content, id) != id:
            raise ModelFileError(
                "E405", f"{at}[{number}].id", f"{content!r} shares its id, or has two", got=id
            )
        found[content] = id
    return found


def _check_growth(part: Any, at: str) -> None:
    """Replacements that make a text longer, one behind another, would fill the memory."""
    growth = 1.0
    for step in _steps(part):
        content, pattern = step.get("content"), step.get("pattern")
        if step.get("type") == "Replace" and isinstance(content, str):
            old = pattern.get("String") if isinstance(pattern, dict) else None
            shortest = len(old.encode()) if isinstance(old, str) else 1
            growth *= max(1.0, (len(content.encode()) + (not shortest)) / max(1, shortest))
        if step.get("type") == "Prepend":
            growth *= 1.0 + len(str(step.get("prepend"))) / 16
        blob = step.get("precompiled_charsmap")
        if isinstance(blob, str) and len(blob) > MAX_CHARSMAP:
            raise ModelFileError("E405", f"{at}.precompiled_charsmap", "too large")
    if growth > MAX_GROWTH:
        raise ModelFileError(
            "E405", at, "replacements make a text too much longer",
            expected=f"at most {MAX_GROWTH} times", got=f"{growth:.0f} times",
        )  # fmt: skip


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """A part of the file and the parts inside it."""
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from _steps(value)
    if isinstance(part, list):
        for value in part:
            yield from _steps(value)


def _check_processor(part: Any, ids: dict[str, int], where: str) -> None:
    """The ids that are put round a text are those of the tokens they are called by."""
    at = f"{where}:post_processor"
    for step in _steps(part):
        if step.get("type") == "TemplateProcessing":
            _check_template(step, f"{at}.special_tokens")
        given = step.get("special_tokens")
        named = list(given.values()) if isinstance(given, dict) else []
        for token in named:
            lists = isinstance(token, dict) and [token.get("ids"), token.get("tokens")]
            if not lists or not all(isinstance(each, list) for each in lists):
                raise ModelFileError("E405", at, "ids without tokens")
            if len(lists[0]) != len(lists[1]):
                raise ModelFileError("E405", at, "ids without tokens")
        pairs = [
            pair for token in named for pair in zip(token["tokens"], token["ids"], strict=True)
        ]
        pairs += [step[key] for key in ("sep", "cls") if isinstance(step.get(key), list)]
        for name, id in (pair for pair in pairs if len(pair) == 2):
            if not isinstance(name, str) or ids.get(name) != id:
                raise ModelFileError(
                    "E405", at, f"{name!r} has another id",
                    expected=ids.get(name) if isinstance(name, str) else None, got=id,
                )  # fmt: skip


def _check_template(step: dict[str, Any], at: str) -> None:
    """Every token that the template names is described."""
    given = step.get("special_tokens")
    if not isinstance(given, dict):
        raise ModelFileError("E405", at, "not a table", got=type(given).__name__)
    for _, piece in _found([step.get("single"), step.get("pair")], "template", "SpecialToken"):
        name = piece.get("id") if isinstance(piece, dict) else None
        if not isinstance(name, str) or name not in given:
            raise ModelFileError("E405", at, "does not describe a token of the template", got=name)


def _found(part: Any, path: str, wanted: str) -> Iterator[tuple[str, Any]]:
    """Every value of a key in a part of the file, with the path of its field."""
    if isinstance(part, list):
        for number, each in enumerate(part):
            yield from _found(each, f"{path}[{number}]", wanted)
    if isinstance(part, dict):
        for key, value in part.items():
            if key == wanted:
                yield f"{path}.{wanted}", value
            else:
                yield from _found(value, f"{path}.{key}", wanted)
