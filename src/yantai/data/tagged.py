"""Texts with named spans: from tables that give characters, tables of words, and files of columns.

Knows: three ways to write the same. In a table, a row has `text` and a list of entities, each
{"start", "end", "label"} by characters; or `tokens` and `tags`, BIO or BIOES. A .conll, .bio or
.iob file has a word and its tag a line, and an empty line behind each sentence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from yantai.base.errors import DataError, UsageError
from yantai.data.labelled import not_empty
from yantai.text.reading_account import RowAccount
from yantai.text.reading_json import BadRow
from yantai.text.reading_sorted import sort_out
from yantai.text.spans import Span, joined, spans_of_words
from yantai.text.table import TableReader

COLUMN_FILES = (".conll", ".bio", ".iob", ".bioes")


@dataclass(frozen=True, slots=True)
class Tagged:
    """A text and the spans in it.

    Attributes:
        text: what is read.
        spans: in order, none inside another.
        place: `file:line`.
    """

    text: str
    spans: tuple[Span, ...]
    place: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The kinds of span it has."""
        return tuple(sorted({span.label for span in self.spans}))


@dataclass(frozen=True)
class SpanColumns:
    """What the columns of a table mean.

    Attributes:
        text: the text, or the list of words.
        spans: the entities, or the list of tags.
    """

    text: str = "text"
    spans: str = "entities"

    def check(self, fields: dict[str, Any]) -> None:
        """Refuse a row that makes no sense.

        Raises:
            BadRow: with the reason.
        """
        self.read(fields)

    def read(self, fields: dict[str, Any]) -> tuple[str, tuple[Span, ...]]:
        """The text of a row and its spans."""
        if self.text not in fields and {"tokens", "tags"} <= set(fields):
            return _of_words(fields["tokens"], fields["tags"])
        for name, flag in ((self.text, "--text-column"), (self.spans, "--label-column")):
            if name not in fields:
                there = ", ".join(list(fields)[:8])
                raise BadRow("E304", f"no column {name!r}", got=there, do=f"pass {flag}")
        text, spans = fields[self.text], fields[self.spans]
        if isinstance(text, list):
            return _of_words(text, spans)
        if not isinstance(text, str) or not text.strip():
            raise BadRow("E304", "the text is empty or no text", got=repr(text)[:80])
        return text, _of_characters(text, spans)


def _of_words(words: Any, tags: Any) -> tuple[str, tuple[Span, ...]]:
    fine = isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags)
    if not fine or not words or not all(isinstance(item, str) for item in [*words, *tags]):
        raise BadRow("E304", "words and tags are not two lists of texts of the same length")
    text, places = joined(words)
    try:
        return text, spans_of_words(places, tags)
    except ValueError as error:
        raise BadRow("E304", "a tag is neither BIO nor BIOES", got=str(error)[:80]) from error


def _of_characters(text: str, given: Any) -> tuple[Span, ...]:
    if not isinstance(given, list):
        raise BadRow("E304", "the entities are no list", got=repr(given)[:80])
    spans = []
    for item in given:
        values = [item.get(key) for key in ("start", "end", "label")] if _is_table(item) else item
        if not isinstance(values, list) or len(values) != 3:
            raise BadRow("E304", "an entity is not start, end, label", got=repr(item)[:80])
        start, end, label = values
        whole = all(isinstance(edge, float | int) and edge % 1 == 0 for edge in (start, end))
        if not whole or not isinstance(label, str) or not label:
            raise BadRow("E304", "an entity is not start, end, label", got=repr(item)[:80])
        if not 0 <= start < end <= len(text):
            raise BadRow("E304", "an entity lies outside of its text", got=repr(item)[:80])
        spans.append(Span(int(start), int(end), label))
    spans.sort()
    for one, next_one in pairwise(spans):
        if next_one.start < one.end:
            raise BadRow("E304", "two entities overlap", got=f"{one} and {next_one}"[:80])
    return tuple(spans)


def _is_table(item: Any) -> bool:
    return isinstance(item, dict)


def read_tagged(path: Path, meaning: SpanColumns, **options: Any) -> tuple[list[Tagged], Any]:
    """The rows of a table, or the sentences of a file of columns.

    Args:
        path: what to read.
        meaning: of a table's columns.
        options: those of `TableReader`; of a file of columns `encoding`, `policy`, `quarantine`.

    Returns:
        The rows, and the account of all that were there.

    Raises:
        DataError: a row is bad and the policy is to stop, or there is none.
    """
    if path.suffix.lower() in COLUMN_FILES:
        return _of_columns(path, options)
    reader = TableReader(path, check=meaning.check, **options)
    found = [Tagged(*meaning.read(record.fields), record.place) for record in reader]
    return not_empty(found, reader), reader.account


def _of_columns(path: Path, options: dict[str, Any]) -> tuple[list[Tagged], RowAccount]:
    """The sentences of a file with a word and its tag a line; a bad line spoils its sentence."""

    def describe(sentence: tuple[list[str], int]) -> tuple[str, dict[str, Any], bytes]:
        lines, first = sentence
        return f"{path.name}:{first}", {"line": first}, "\n".join(lines).encode()

    def read(sentence: tuple[list[str], int]) -> Tagged:
        lines, first = sentence
        return Tagged(*_of_lines(lines, first), f"{path.name}:{first}")

    sentences = _sentences(path, options.get("encoding", "utf-8"))
    keeps = options.get("policy") == "quarantine"
    return sort_out(sentences, read, describe, path, options["quarantine"] if keeps else None)


def _of_lines(lines: list[str], first: int) -> tuple[str, tuple[Span, ...]]:
    parts = [line.split() for line in lines]
    for number, part in enumerate(parts, first):
        if len(part) < 2:
            what = f"a line without a tag (line {number})"
            raise BadRow("E304", "a line without a tag", what, got=repr(part[0])[:80])
    return _of_words([part[0] for part in parts], [part[-1] for part in parts])


def _sentences(path: Path, encoding: str) -> Iterator[tuple[list[str], int]]:
    """The lines of each sentence, and the number of its first."""
    if not path.is_file():
        raise UsageError("E206", path, "there is no such file")
    try:
        text = path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            "E302", f"{path}:{error.start}", f"not {encoding}", do="pass --encoding"
        ) from error
    lines: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip() and not line.startswith("-DOCSTART-"):
            lines.append(line)
            continue
        if lines:
            yield lines, number - len(lines)
        lines = []
