"""The content of one row: bytes to text, text to an object, an object to its field.

Knows: strict JSON (RFC 8259), what makes a row bad and under which reason it is counted. Knows
nothing of files. Stricter than `json.loads`: no NaN, no key twice, no lone surrogate, and no depth
that ends in a `RecursionError`.
"""

import json
import re
from typing import Any

from yantai.text.reading import MAGIC

MAX_DEPTH = 100

_KINDS = {dict: "an object", list: "an array", str: "a string", float: "a number",
          int: "a number"}  # fmt: skip
# Strings are stepped over; one without an end stops the count, as it hides what follows.
_MARKS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[\]}]|"', re.DOTALL)


class BadRow(Exception):  # noqa: N818 - stays inside the reader, which stops or quarantines
    """A row that cannot be used.

    Args:
        code: the error code if the reader stops.
        reason: the few words under which it is counted.
        what: the same with its details.
        got: what was found instead.
        do: the flag that helps, before `--on-bad-row quarantine`.
        at: the first bad byte of the row, for bytes that cannot be decoded.
        field: the name of the field that is wrong, if it is one.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        what: str | None = None,
        *,
        got: str | None = None,
        do: str | None = None,
        at: int | None = None,
        field: str | None = None,
    ):
        super().__init__(what or reason)
        self.code, self.reason, self.what = code, reason, what or reason
        self.got, self.do, self.at, self.field = got, do, at, field


def decode(raw: bytes, encoding: str) -> str:
    """The text of a row's bytes.

    Raises:
        BadRow: E302, with the first bad byte and a guess of the encoding.
    """
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        guess, do = guess_encoding(raw, error.start)
        name = "UTF-8" if encoding == "utf-8" else encoding
        raise BadRow(
            "E302",
            f"not valid {name}",
            f"not valid {name} (byte 0x{raw[error.start]:02x})",
            got=guess,
            do=do,
            at=error.start,
        ) from error


# Hanzi, kanji and kana that any page of the language has; a wrong guess finds few of them.
_COMMON = frozenset(
    "的一是不了在人有我他这个们中来上大和说国这個們來說國為時会的の、。にはをたが,。"
)
_EAST_ASIAN = ("gb18030", "big5", "shift_jis")
_SAMPLE_BYTES = 1 << 15


def guess_encoding(raw: bytes, bad_byte: int = 0) -> tuple[str, str]:
    """What bytes that are not UTF-8 may be, and the flag to pass.

    >>> guess_encoding("这是一个国家的人".encode("gb18030"))
    ('text that looks like gb18030', 'pass --encoding gb18030')
    >>> guess_encoding("déjà vu".encode("latin-1"))
    ('text that looks like latin-1', 'pass --encoding latin-1')
    """
    for suffix, magic in MAGIC.items():
        if raw.startswith(magic):
            return f"packed data (.{suffix})", f"add .{suffix} to the name of the file"
    sample = raw[max(0, bad_byte - _SAMPLE_BYTES) : bad_byte + _SAMPLE_BYTES]
    if sample.count(0) > len(sample) // 5:
        wide = "utf-16-le" if sample[1::2].count(0) >= sample[::2].count(0) else "utf-16-be"
        return f"text that looks like {wide}", f"pass --encoding {wide}"
    text = sample.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    if sum(char > "\x7f" for char in text) - damaged > 10 * damaged:
        return "text that is UTF-8 but for a few damaged bytes", "mend it"
    best, best_score = "latin-1", 0.1
    for name in _EAST_ASIAN:
        text = sample.decode(name, "replace")
        wide_chars = [char for char in text if char > "\x7f"]
        good = sum(char in _COMMON for char in wide_chars)
        score = (good - 3 * text.count("\ufffd")) / max(1, len(wide_chars))
        if score > best_score:
            best, best_score = name, score
    return f"text that looks like {best}", f"pass --encoding {best}"


def _depth(text: str) -> int:
    """The deepest nesting, counted without recursion."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for match in _MARKS.finditer(text):
        mark = match[0]
        if mark == '"':
            break
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                what = f"the key {key[:40]!r} is there twice"
                raise BadRow("E301", "duplicate key", what, field=key[:100])
            seen.add(key)
    return fields


def _constant(name: str) -> Any:
    raise BadRow("E301", "NaN or Infinity", f"{name} is not JSON")


# Whole numbers become floats: no row is refused, or slow, for the length of a number in it.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=float)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= MOST_DIGITS else float(digits)


MOST_DIGITS = 19
_WHOLE_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_whole
)


def parse_object(text: str, *, whole: bool = False) -> dict[str, Any]:
    """The object that a row of JSON holds; with `whole`, whole numbers of usual size stay whole.

    Raises:
        BadRow: E301 it is not strict JSON, or E304 it is no object.
    """
    if "\0" in text:
        raise BadRow("E301", "NUL byte", f"a raw NUL byte {_place(text.index(chr(0)))}")
    if text.startswith("\ufeff"):
        raise BadRow("E301", "byte-order mark", "a byte-order mark inside the file")
    if _depth(text) > MAX_DEPTH:
        raise BadRow("E301", "nested too deeply", f"nested deeper than {MAX_DEPTH} levels")
    try:
        value = (_WHOLE_DECODER if whole else _DECODER).decode(text)
    except json.JSONDecodeError as error:
        raise _syntax(text, error) from error
    except RecursionError as error:
        raise BadRow("E301", "nested too deeply", "nested too deeply to be read here") from error
    if not isinstance(value, dict):
        raise BadRow("E304", "not an object", f"the row is {_kind(value)}, not an object")
    if "\\u" in text and _has_lone_surrogate(value):
        raise BadRow("E301", "lone surrogate", "half of a surrogate pair, which is no character")
    return value


def _place(position: int) -> str:
    return f"at character {position + 1:,} of the row"


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _syntax(text: str, error: json.JSONDecodeError) -> BadRow:
    """Name the fault in words that stay the same from one Python to the next."""
    position = error.pos
    before = text[:position].rstrip()
    after = text[position:].lstrip()
    if not after or error.msg.startswith("Unterminated string"):
        what = f"the JSON ends too early, {_place(len(text.rstrip()))}"
        return BadRow("E301", "truncated JSON", what)
    closes = after[0] in "]}" and before.endswith(",")
    extra = error.msg.startswith("Extra data") and after.rstrip() == ","
    if closes or extra or error.msg.startswith("Illegal trailing comma"):
        comma = len(before) - 1 if closes else text.index(",", position)
        return BadRow("E301", "trailing comma", f"a trailing comma {_place(comma)}")
    detail = error.msg[0].lower() + error.msg[1:]
    return BadRow("E301", "not valid JSON", f"not valid JSON {_place(position)} ({detail})")


def _kind(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), "true or false")


def text_of(fields: dict[str, Any], field: str) -> str:
    """The string in a field.

    Raises:
        BadRow: E304, there is no such field or it holds something else.
    """
    if field not in fields:
        keys = ", ".join(repr(key[:40]) for key in list(fields)[:10]) or "no field at all"
        raise BadRow(
            "E304", "missing field", f"no field {field!r}", got=keys, do="pass --text-field NAME"
        )
    value = fields[field]
    if not isinstance(value, str):
        raise BadRow(
            "E304", "text is not a string", f"field {field!r} is {_kind(value)}, not a string"
        )
    return value
