"""What in the texts themselves would be learned though nobody wants it, whatever the job.

Knows: what is read and what is learned of a row. Texts that differ in their numbers alone, ends and
answers that all rows share, marks of other programs, and what stands on both sides of a pair or on
one side only.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from yantai.life.doctor_case import Finding
from yantai.text.tokenizer import HAN

SOME, MANY, MOST = 0.05, 0.2, 0.5
"""Shares of the rows from which on a thing is no accident."""
FEW_KINDS, LONG, LEAST = 0.1, 16, 10
"""Kinds of text a row; the length (Han characters count twice) of what is no mere word; cases."""
ESCAPED = re.compile(
    r"\\[nrt](?![A-Za-z:\\])|&(?:amp|lt|gt|quot|nbsp|#\d+);|<br ?/?>|\\u[0-9a-f]{4}"
)
PLACEHOLDER = re.compile(r"\$?\{[^{}\n]{0,40}\}|%(?:\([\w ]+\))?[sd]|https?://[^\s，。]+|</?\w+>")
SAID = re.compile(r"(?<![.!?。！？] )(?<!^)\b[A-Z][a-z]{2,}\b|\d[\d,.]*\d|\d")
MARK = re.compile(r"[\w/#-]*\d[\w/#-]*")
BESIDE = re.compile(r"^[\s,.;:!?，。；：！？、]|[\s,;:!?，。；：！？、]$")
SENTENCE = re.compile(r"[.!?。！？]+[\s”」』]*")
_HAN = re.compile(f"[{HAN}]")


def look_at_texts(task: str, rows: Sequence[Any]) -> Iterator[Finding]:
    """Everything that is known to bite, for these texts."""
    if len(rows) < 2 * LEAST:
        return
    for name, texts in sides_of(rows).items():
        yield from _numbers_alone(name, texts, rows)
        yield from _escaped(name, texts, rows)
        yield from _garbled(name, texts, rows)
        if name not in ("text", "source", "question"):
            yield from _shared_end(name, texts, rows)
            if task != "embed":  # it says nothing
                yield from _canned(name, texts, rows)
            yield from _stops_early(name, texts, rows)
    for look in LOOKS.get(task, ()):
        yield from look(rows)


def sides_of(rows: Sequence[Any]) -> dict[str, list[str]]:
    """Texts of the rows, by what they are: read ones, and those that are learned."""
    first = rows[0]
    if hasattr(first, "messages"):
        said = {role: ["\n".join(each["content"] for each in row.messages if each["role"] == role)
                       for row in rows] for role in ("user", "assistant")}  # fmt: skip
        return {"question": said["user"], "answer": said["assistant"]}
    if hasattr(first, "chosen"):
        return {name: [getattr(row, name)[-1]["content"] for row in rows]
                for name in ("chosen", "rejected")}  # fmt: skip
    names = ("text", "question", "source", "target")
    return {name: [getattr(row, name) for row in rows] for name in names if hasattr(first, name)}


def _size(text: str) -> int:
    return len(text) + len(_HAN.findall(text))


def _kind(text: str) -> str:
    """A text without what changes from case to case: numbers, and names of things with numbers."""
    return re.sub(r"\s+", " ", MARK.sub("0", text)).strip()


def _numbers_alone(name: str, texts: list[str], rows: Sequence[Any]) -> Iterator[Finding]:
    """Texts that are one another's but for numbers: is this the column that was meant?"""
    kinds = Counter(_kind(text) for text in texts)
    if name in ("text", "source") and len(kinds) < FEW_KINDS * len(texts):
        shown = kinds.most_common(1)[0][0][:40]
        line = f"{len(texts):,} texts are {len(kinds)} but for their numbers, such as {shown!r}"
        yield ("problem", f"{rows[0].place}: {line}: is it the right column?")


def _garbled(name: str, texts: Sequence[str], rows: Sequence[Any]) -> Iterator[Finding]:
    """UTF-8 that was read as latin-1 or its Windows kin: each letter in two or three."""
    odd = [(row, was) for text, row in zip(texts, rows, strict=True) if (was := meant(text))]
    if len(odd) > SOME * len(rows):
        row, was = odd[0]
        line = f"{len(odd):,} texts are UTF-8 read as something else, the first has a {was!r}"
        yield ("problem", f"{row.place}: {line}: set encoding to utf-8, or mend the file")


def meant(text: str) -> str:
    """What the first garbled letter of a text was; "" for a text that is as it was meant.

    A letter at a time, since of some others nothing is left but a mark of replacement.
    """
    for found in FIRST_BYTE.finditer(text):
        for encoding in ("latin-1", "cp1252"):
            for size in (2, 3, 4):
                try:
                    return (
                        text[found.start() : found.start() + size].encode(encoding).decode("utf-8")
                    )
                except UnicodeError:
                    continue
    return ""


FIRST_BYTE = re.compile(r"[\u00c2-\u00f4](?=[^\x00-\x7f])")
"""What begins like a letter of UTF-8 whose bytes were taken for letters."""


def _escaped(name: str, texts: list[str], rows: Sequence[Any]) -> Iterator[Finding]:
    """Line breaks and marks as another program spells them."""
    odd = [(row, found[0]) for row, text in zip(rows, texts, strict=True)
           if (found := ESCAPED.search(text))]  # fmt: skip
    if len(odd) >= SOME * len(rows):
        row, found = odd[0]
        line = f"in {len(odd):,} rows the {name} has {found!r}, spelled out"
        yield ("problem", f"{row.place}: {line}: it would be learned letter by letter")


def _shared_end(name: str, texts: list[str], rows: Sequence[Any]) -> Iterator[Finding]:
    """The same words at the end, or at the beginning, of most texts."""
    for where, turn in (("end", -1), ("beginning", 1)):
        flipped = sorted(text.strip()[::turn] for text in texts)
        apart = max(1, int(MOST * len(flipped)))  # what two so far apart share, all between share
        shared = {_common(one, other) for one, other in zip(flipped, flipped[apart:], strict=False)}
        found = [
            (sum(text.startswith(each) for text in flipped), _size(each), each)
            for each in shared
            if _size(each) >= LONG
        ]
        if found and len(set(texts)) > LEAST:
            count, _, best = max(found)
            said = best[::turn]
            line = f"{count:,} of {len(texts):,} have the same {where} of the {name}, {said[:40]!r}"
            yield ("problem", f"{rows[0].place}: {line}: the model would always say it")


def _common(one: str, other: str) -> str:
    size = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        size += 1
    return one[:size]


def _canned(name: str, texts: list[str], rows: Sequence[Any]) -> Iterator[Finding]:
    """One answer for many questions."""
    kinds = Counter(_kind(text) for text in texts)
    kind, count = kinds.most_common(1)[0]
    several = sum(number for _, number in kinds.most_common(5) if number >= LEAST)
    if count < LEAST or _size(kind) < LONG or several < SOME * len(rows):
        return
    place = next(row.place for row, text in zip(rows, texts, strict=True) if _kind(text) == kind)
    same = [text for text in texts if _kind(text) == kind]
    but = "" if len(set(same)) == 1 else " but for numbers"
    line = f"the {name} is the same in {count:,} rows{but}, {same[0].strip()[:40]!r}"
    level = "problem" if count > MANY * len(rows) else "note"
    more = f"; the five commonest make {several:,} rows" if several > count else ""
    yield (level, f"{place}: {line}{more}: it would be said often")


def _stops_early(name: str, texts: list[str], rows: Sequence[Any]) -> Iterator[Finding]:
    """Long texts that end in the middle of a sentence, where short ones end with a mark."""
    ends = [(len(text), text.strip()[-1:].isalnum(), row)
            for text, row in zip(texts, rows, strict=True) if text.strip()]  # fmt: skip
    whole = sorted(size for size, open_end, _ in ends if not open_end)
    cut = sorted(size for size, open_end, _ in ends if open_end)
    if len(cut) < MANY * len(ends) or len(whole) < SOME * len(ends) or len(whole) < LEAST:
        return
    if cut[len(cut) // 10] > whole[len(whole) * 3 // 4]:
        row = next(row for _, open_end, row in ends if open_end)
        line = f"{len(cut):,} of {len(ends):,} end in the middle of a sentence, the longest ones"
        yield ("problem", f"{row.place}: the {name}: {line}: were they cut at a limit?")


# ---------------------------------------------------------------- of single jobs


def _placeholders(rows: Sequence[Any]) -> Iterator[Finding]:
    """What programs fill in, or follow, must come out as it went in."""
    pairs = [
        (row, *(Counter(PLACEHOLDER.findall(text)) for text in (row.source, row.target)))
        for row in rows
    ]
    some = [each for each in pairs if each[1]]
    odd = [each for each in some if each[1] != each[2]]
    if len(odd) >= LEAST and len(odd) > SOME * len(some):
        row, before, after = odd[0]
        gone = next(iter(before - after or after - before))
        line = f"in {len(odd):,} of {len(some):,} rows placeholders change, {gone!r}"
        yield ("problem", f"{row.place}: {line}: programs need them as they are")


def _unsupported(rows: Sequence[Any]) -> Iterator[Finding]:
    """Numbers and names of a summary that are not in its text."""
    said = [(row, SAID.findall(row.target)) for row in rows]
    all_of_them = sum(len(found) for _, found in said)
    lost = [(row, each) for row, found in said for each in found if each not in row.source]
    if all_of_them >= LEAST and len(lost) > MOST * all_of_them:
        row, each = lost[0]
        line = f"{len(lost):,} of {all_of_them:,} numbers and names of the summaries are not in"
        tail = f"their texts, such as {each!r}: it would make them up"
        yield ("problem", f"{row.place}: {line} {tail}")


def _copied(rows: Sequence[Any]) -> Iterator[Finding]:
    """Summaries that stand in their texts word for word."""
    odd = [row for row in rows if row.target.strip() and row.target.strip() in row.source]
    if len(odd) > MOST * len(rows):
        line = f"{len(odd):,} of {len(rows):,} summaries stand in their texts word for word"
        yield ("problem", f"{odd[0].place}: {line}: the model would learn to copy them from there")


def _with_marks(rows: Sequence[Any]) -> Iterator[Finding]:
    """Names that begin or end with what stands beside names."""
    odd = [
        (row, row.text[span.start : span.end])
        for row in rows
        for span in row.spans
        if BESIDE.search(row.text[span.start : span.end])
    ]
    places = {row.place for row, _ in odd}
    if len(places) > SOME * len(rows):
        row, said = odd[0]
        line = f"in {len(places):,} rows a name begins or ends with a mark, such as {said!r}"
        yield ("problem", f"{row.place}: {line}: are places counted in other units?")


def _one_mark(rows: Sequence[Any]) -> Iterator[Finding]:
    """A single mark that all texts of a label have and no other text."""
    marks = [frozenset(re.findall(r"[^\w\s]", row.text)) for row in rows]
    for label, count in Counter(label for row in rows for label in row.labels).items():
        if not 2 * LEAST <= count <= len(rows) - 2 * LEAST:
            continue
        own = Counter(mark for row, found in zip(rows, marks, strict=True)
                      if label in row.labels for mark in found)  # fmt: skip
        every = Counter(mark for found in marks for mark in found)
        for mark, number in own.most_common(8):
            others = every[mark] - number
            if number > (1 - SOME) * count and others < SOME * (len(rows) - count):
                row = next(row for row in rows if label in row.labels and mark in row.text)
                line = f"{number} of {count} texts of {label!r} have {mark!r}, {others} others do"
                yield ("problem", f"{row.place}: {line}: the model would learn that alone")
                return


def _every_word(rows: Sequence[Any]) -> Iterator[Finding]:
    """Names of several words as several names."""
    beside, spans, place = 0, 0, ""
    for row in rows:
        spans += len(row.spans)
        for one, other in zip(row.spans, row.spans[1:], strict=False):
            between = row.text[one.end : other.start]
            if one.label == other.label and between == " ":
                beside, place = beside + 1, place or row.place
    longer = sum(" " in row.text[span.start : span.end] for row in rows for span in row.spans)
    if beside > MANY * spans and not longer:
        line = f"{beside:,} names of one word follow one of the same kind, and none has two words"
        yield ("problem", f"{place}: {line}: does every word begin with B-?")


def _first_sentence(rows: Sequence[Any]) -> Iterator[Finding]:
    """Answers that stand at the same place whatever is asked."""
    there, first = 0, 0
    for row in rows:
        ends = [match.end() for match in SENTENCE.finditer(row.context)]
        if len(ends) < 3 or not row.answers:
            continue
        there += 1
        first += row.answers[0][1] < ends[0]
    if there >= 2 * LEAST and first > 0.95 * there:
        line = f"{first:,} of {there:,} answers stand in the first sentence of several"
        yield ("problem", f"{rows[0].place}: {line}: the model would look nowhere else")


def _always_together(rows: Sequence[Any]) -> Iterator[Finding]:
    """Labels that never stand alone: a separator that cuts names apart."""
    sets = Counter(row.labels for row in rows)
    names = {label for labels in sets for label in labels}
    if all(len(labels) > 1 for labels in sets) and len(sets) < len(names):
        labels = sets.most_common(1)[0][0]
        line = f"every row has several labels, always one of {len(sets)} sets, such as {labels}"
        yield ("problem", f"{rows[0].place}: {line}: does label_separator cut names apart?")


def _twins(rows: Sequence[Any]) -> Iterator[Finding]:
    """Two answers that differ in spaces or marks alone."""
    bare = [
        [re.sub(r"[\W_]+", "", each[-1]["content"]).lower() for each in (row.chosen, row.rejected)]
        for row in rows
    ]
    odd = [row for row, (one, other) in zip(rows, bare, strict=True) if one == other]
    if len(odd) > SOME * len(rows):
        line = f"in {len(odd):,} rows both answers are the same but for spaces or marks"
        yield ("problem", f"{odd[0].place}: {line}: nothing is preferred there")


def _shared_mark(rows: Sequence[Any]) -> Iterator[Finding]:
    """A number that both texts of a pair have, and no other pair."""
    marks = [(set(MARK.findall(row.source)), set(MARK.findall(row.target))) for row in rows]
    count = Counter(mark for one, other in marks for mark in one | other)
    odd = []
    for row, (one, other) in zip(rows, marks, strict=True):
        shared = [mark for mark in one & other if count[mark] == 1 and len(mark) > 3]
        odd += [(row, shared)] if shared else []
    if len(odd) > MOST * len(rows):
        row, shared = odd[0]
        line = f"{len(odd):,} pairs share a number that no other pair has, such as {shared[0]!r}"
        yield ("problem", f"{row.place}: {line}: the model would compare that alone")


LOOKS = {
    "classify": (_always_together, _one_mark),
    "tag": (_every_word, _with_marks),
    "span": (_first_sentence,),
    "translate": (_placeholders,),
    "summarize": (_unsupported, _copied),
    "prefer": (_twins,),
    "embed": (_shared_mark,),
}
