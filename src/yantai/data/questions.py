"""Questions about a text, and the pieces of it that answer them: SQuAD's JSON, and tables.

Knows: the two forms, answers that do not stand where they are said to stand. In a table a row has
`question`, `context` and `answers`, {"text": […], "answer_start": […]} as `datasets` writes it.
Rows of one article stay together when rows are shared out.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yantai.base.errors import DataError
from yantai.data.labelled import not_empty
from yantai.text.reading_account import RowAccount
from yantai.text.reading_json import BadRow
from yantai.text.reading_sorted import sort_out
from yantai.text.table import Record, TableReader

MAX_BYTES = 1 << 30
_ID = re.compile(rb'"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+)')


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question as it stands in SQuAD's JSON: nothing of it is checked but its place."""

    article: str
    context: Any
    given: dict[str, Any]
    id: str
    line: int | None
    place: str


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a text.

    Attributes:
        question: what is asked.
        context: the text.
        answers: pieces of it, each with the character it begins at; none where it has no answer.
        article: whose rows stay together.
        id: of the question, for files of predictions.
        place: `file:line`, in SQuAD's JSON `file:line[id]`.
    """

    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    article: str
    id: str
    place: str

    @property
    def labels(self) -> tuple[str, ...]:
        """What rows are shared out by."""
        return (self.article,)


def read_questions(
    path: Path, *, policy: str = "stop", quarantine: Path | None = None, **options: Any
) -> tuple[list[Question], RowAccount]:
    """The questions of a file.

    Args:
        path: SQuAD's JSON (1 or 2), or a table.
        policy: stop at a bad question, or quarantine it and go on.
        quarantine: the folder for bad ones.
        options: further ones of `TableReader`, for a table.

    Returns:
        The questions, and the account of all that were there.

    Raises:
        DataError: a question is bad and the policy is to stop; there is none; it is no such file.
    """
    if path.suffix.lower() == ".json" and (articles := _articles(path)) is not None:
        return _of_squad(path, articles, quarantine if policy == "quarantine" else None)
    reader = TableReader(path, policy=policy, quarantine=quarantine, check=_of_row, **options)
    rows = [Question(*_of_row(record.fields), record.place, record.place) for record in reader]
    return not_empty(rows, reader), reader.account


def asked_questions(path: Path, *, marks: bool) -> Iterator[Record] | None:
    """What a file in SQuAD's form asks, answers or not; None if it is a table.

    Args:
        path: the file.
        marks: hand on what is no question, with what is wrong, instead of stopping there.

    Raises:
        DataError: something is no question.
    """
    if path.suffix.lower() != ".json" or (articles := _articles(path)) is None:
        return None
    return _records(path, articles, marks)


def _records(path: Path, articles: list[Any], marks: bool) -> Iterator[Record]:
    for asked in _asked(articles, path):
        try:
            question, text = _texts(asked.given.get("question"), asked.context)
        except BadRow as bad:
            if not marks:
                do = "mend it or pass --on-bad-row mark"
                raise DataError(bad.code, asked.place, bad.what, got=bad.got, do=do) from bad
            yield Record({}, asked.place, bad.what)
            continue
        yield Record({"question": question, "context": text}, asked.place)


def _articles(path: Path) -> list[Any] | None:
    """What SQuAD's JSON has under `data`; None for an array of rows."""
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise DataError("E309", path, "no such file, or larger than 1 GB")
    try:
        table = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError("E301", path, f"not JSON ({error})") from error
    if isinstance(table, list):
        return None
    if not isinstance(table, dict) or not isinstance(table.get("data"), list):
        raise DataError(
            "E304", path, "no list under 'data'", expected="SQuAD's form, or an array of rows"
        )
    return table["data"]


def _of_squad(
    path: Path, articles: list[Any], folder: Path | None
) -> tuple[list[Question], RowAccount]:
    def describe(asked: _Asked) -> tuple[str, dict[str, Any], bytes]:
        raw = json.dumps({"context": asked.context, **asked.given}, ensure_ascii=False).encode()
        return asked.place, {"id": asked.id, "line": asked.line}, raw

    return sort_out(_asked(articles, path), _of_item, describe, path, folder)


def _lines_of_ids(path: Path) -> dict[str, int]:
    """The line on which each id first stands."""
    raw, found, line, counted = path.read_bytes(), dict[str, int](), 1, 0
    for match in _ID.finditer(raw):
        line, counted = line + raw.count(b"\n", counted, match.start()), match.start()
        with suppress(ValueError):
            found.setdefault(str(json.loads(match[1])), line)
    return found


def _asked(articles: list[Any], path: Path) -> Iterator[_Asked]:
    """The questions in the order of the file."""
    lines = _lines_of_ids(path)
    for number, article in enumerate(articles):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            raise DataError("E304", f"{path}:data[{number}]", "an article without paragraphs")
        title = str(article.get("title") or article.get("id") or number)
        for part, paragraph in enumerate(paragraphs):
            questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
            if not isinstance(questions, list):
                where = f"{path}:data[{number}].paragraphs[{part}]"
                raise DataError("E304", where, "a paragraph without questions")
            for place, asked in enumerate(questions):
                given = asked if isinstance(asked, dict) else {}
                id = str(given.get("id") or f"data[{number}].paragraphs[{part}].qas[{place}]")
                line = lines.get(id)
                where = f"{path.name}:{line or ''}[{id}]"
                yield _Asked(title, paragraph.get("context"), given, id, line, where)


def _of_item(asked: _Asked) -> Question:
    given = asked.given
    answers = given.get("answers", [])
    if given.get("is_impossible") is True and answers:
        raise BadRow("E304", "an answer where there is none", "is_impossible, and has an answer")
    if not isinstance(answers, list) or not all(isinstance(each, dict) for each in answers):
        raise BadRow("E304", "the answers are no list of tables")
    pairs = [(each.get("text"), each.get("answer_start")) for each in answers]
    question, text = _texts(given.get("question"), asked.context)
    answered = checked_answers(text, pairs)
    return Question(question, text, answered, asked.article, asked.id, asked.place)


def _of_row(fields: dict[str, Any]) -> tuple[str, str, tuple[tuple[str, int], ...], str]:
    question, context = _texts(fields.get("question"), fields.get("context"))
    given = fields.get("answers", {})
    texts, starts = (
        (given.get("text", []), given.get("answer_start", []))
        if isinstance(given, dict)
        else (0, 0)
    )
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise BadRow("E304", "the answers are not two lists of the same length")
    pairs = list(zip(texts, starts, strict=True))
    article = fields.get("title") or context
    return question, context, checked_answers(context, pairs), str(article)


def _texts(question: Any, context: Any) -> tuple[str, str]:
    for name, value in (("question", question), ("context", context)):
        if not isinstance(value, str) or not value.strip():
            raise BadRow("E304", f"the {name} is missing or empty", got=repr(value)[:80])
    return question, context


def checked_answers(context: str, pairs: list[tuple[Any, Any]]) -> tuple[tuple[str, int], ...]:
    """The answers, each where it stands.

    Raises:
        BadRow: one does not stand where it is said to.
    """
    found = []
    for text, start in pairs:
        whole = isinstance(start, int | float) and not isinstance(start, bool) and start % 1 == 0
        if not isinstance(text, str) or not text or not whole:
            raise BadRow("E304", "an answer is not a text and its place", got=repr(text)[:80])
        place = int(start)
        if place < 0 or context[place : place + len(text)] != text:
            there = context[max(0, place) : max(0, place) + len(text)]
            raise BadRow(
                "E304", "an answer does not stand where it is said to stand",
                f"an answer does not stand at character {place}: {text!r}"[:160],
                got=repr(there)[:80],
            )  # fmt: skip
        found.append((text, place))
    return tuple(found)
