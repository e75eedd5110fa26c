"""Rows of a text and its labels, and their parts for training, validation and test.

Knows: which column means what, which row makes no sense, how rows are shared out. A part is a
function of (rows, seed); every label has its share of each part.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from yantai.base.errors import DataError
from yantai.data.pack import random_stream
from yantai.text.reading_json import BadRow
from yantai.text.table import TableReader

STREAM = 0x73706C74


class HasLabels(Protocol):
    """A row whatever it holds beside its labels."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What it is shared out by."""
        ...

    @property
    def place(self) -> str:
        """`file:line`."""
        ...


class HasText(HasLabels, Protocol):
    """A row whose text is judged."""

    @property
    def text(self) -> str:
        """What is read."""
        ...


R = TypeVar("R", bound=HasLabels)
T = TypeVar("T", bound=HasText)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and what holds of it.

    Attributes:
        text: what is judged.
        labels: one, or any number where several may hold.
        place: `file:line`.
    """

    text: str
    labels: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class Columns:
    """What the columns of a table mean.

    Attributes:
        text, label: names of columns.
        separator: what stands between several labels; None where a row has exactly one.
    """

    text: str = "text"
    label: str = "label"
    separator: str | None = None

    def check(self, fields: dict[str, Any]) -> None:
        """Refuse a row that cannot be learned from.

        Raises:
            BadRow: a column is missing or empty, or not a text.
        """
        self.check_text(fields)
        label = _present(fields, self.label, "--label-column")
        if isinstance(label, list) and self.separator is None:
            raise BadRow(
                "E304", "several labels", f"several labels, got {str(label)[:80]}",
                do="give --label-separator, so that several may hold",
            )  # fmt: skip
        odd = isinstance(label, dict) or (isinstance(label, float) and not label.is_integer())
        if odd or (label is None and self.separator is None):
            raise BadRow("E304", "the label is no label", got=repr(label)[:80])
        if not self.labels(fields) and self.separator is None:
            raise BadRow("E304", "the label is empty")

    def check_text(self, fields: dict[str, Any]) -> None:
        """The same of the text alone, where nobody knows the label yet."""
        text = _present(fields, self.text, "--text-column")
        if not isinstance(text, str):
            raise BadRow("E304", "the text is no text", got=repr(text)[:80])
        if not text.strip():
            raise BadRow("E304", "the text is empty")

    def labels(self, fields: dict[str, Any]) -> tuple[str, ...]:
        """Those of a row, without the spaces around them."""
        value = fields[self.label]
        if value is None:
            return ()
        if isinstance(value, list):
            parts = [_name(item) for item in value]
        else:
            whole = _name(value)
            parts = whole.split(self.separator) if self.separator is not None else [whole]
        found = (part.strip() for part in parts)
        return tuple(dict.fromkeys(part for part in found if part))


def _name(label: Any) -> str:
    """Of a label; a whole number has no point."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _present(fields: dict[str, Any], name: str, flag: str) -> Any:
    if name not in fields:
        there = ", ".join(list(fields)[:8])
        raise BadRow(
            "E304",
            f"no column {name!r}",
            got=there,
            do=f"pass {flag}, or --columns where there is no header",
        )
    return fields[name]


def read_labelled(path: Path, meaning: Columns, **options: Any) -> tuple[list[Labelled], Any]:
    """The rows of a table.

    Args:
        path: see `TableReader`, as for `options`.
        meaning: of its columns.

    Returns:
        The rows, and the account of all that were there.

    Raises:
        DataError: a row is bad and the policy is to stop, or there is none.
    """
    reader = TableReader(path, check=meaning.check, **options)
    rows = [
        Labelled(record.fields[meaning.text], meaning.labels(record.fields), record.place)
        for record in reader
    ]
    return not_empty(rows, reader), reader.account


def not_empty(rows: list[R], reader: TableReader) -> list[R]:
    """The rows.

    Raises:
        DataError: E305, there are none.
    """
    if not rows:
        raise DataError(
            "E305", reader.path, "no rows are left", got=reader.account.losses() or "none"
        )
    return rows


def check_known(rows: Sequence[HasLabels], known: Sequence[str], where: str) -> None:
    """Refuse a label that training has not.

    Raises:
        DataError: E304, with the first row that has one.
    """
    names = set(known)
    for row in rows:
        odd = next((label for label in row.labels if label not in names), None)
        if odd is not None:
            shown = ", ".join(list(known)[:10]) + (", …" if len(known) > 10 else "")
            raise DataError(
                "E304",
                row.place,
                f"a label that {where} has not",
                expected=shown,
                got=repr(odd),
                do="mend the row, or pass --on-bad-row quarantine",
            )


def share_out(rows: Sequence[T], shares: Sequence[float], seed: int) -> list[list[T]]:
    """Parts of the rows in their old order; every set of labels is spread over all parts.

    A label that the first part would not have has its first row there. Rows of the same text stay
    together, or the test would ask what was learned by heart.

    Args:
        rows: all of them.
        shares: how much each part gets; the last part gets what is over.
        seed: decides who goes where.

    >>> rows = [Labelled(f"{n}", (label,), "") for n, label in enumerate("xxxxxyyyyy")]
    >>> [len(part) for part in share_out(rows, (0.8, 0.2), 0)]
    [8, 2]
    """
    first: dict[str, int] = {}  # of the rows of a text, the one that decides for all
    labels: dict[int, set[str]] = defaultdict(set)
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        leader = first.setdefault(row.text, number)
        labels[leader].update(row.labels)
        if leader == number:
            groups[row.labels].append(number)
    part_of: dict[int, int] = {}
    carried = [0.0] * len(shares)
    for key, (_, members) in enumerate(sorted(groups.items())):
        order = [
            members[place] for place in random_stream(seed, STREAM, key).permutation(len(members))
        ]
        sizes = _sizes(len(order), shares, carried)
        numbers = [part for part, size in enumerate(sizes) for _ in range(size)]
        part_of |= dict(zip(order, numbers, strict=True))
    known = {label for leader, part in part_of.items() if part == 0 for label in labels[leader]}
    for leader in sorted(part_of):
        if not known.issuperset(labels[leader]):
            part_of[leader] = 0
            known.update(labels[leader])
    parts: list[list[T]] = [[] for _ in shares]
    for row in rows:
        parts[part_of[first[row.text]]].append(row)
    return parts


def share_groups(rows: Sequence[R], shares: Sequence[float], seed: int) -> list[list[R]]:
    """Parts of the rows in their old order; rows with the same labels stay in one part.

    Args:
        rows: all of them.
        shares: how much each part gets, as nearly as whole groups allow.
        seed: decides who goes where.
    """
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row.labels].append(number)
    keys = sorted(groups)
    part_of: dict[int, int] = {}
    filled = [0] * len(shares)
    for place in random_stream(seed, STREAM).permutation(len(keys)):
        members = groups[keys[place]]
        # the part that lacks most of its share
        part = max(
            range(len(shares)),
            key=lambda each: shares[each] / sum(shares) * len(rows) - filled[each],
        )
        filled[part] += len(members)
        part_of |= dict.fromkeys(members, part)
    parts: list[list[R]] = [[] for _ in shares]
    for number, row in enumerate(rows):
        parts[part_of[number]].append(row)
    return parts


def _sizes(count: int, shares: Sequence[float], carried: list[float]) -> list[int]:
    """Whole numbers near count·share; what is lost to rounding goes into the next group's."""
    sizes = []
    for part, share in enumerate(shares[:-1]):
        wanted = count * share / sum(shares) + carried[part]
        size = min(max(0, round(wanted)), count - sum(sizes))
        carried[part] = wanted - size
        sizes.append(size)
    return [*sizes, count - sum(sizes)]


def label_counts(rows: Sequence[HasLabels]) -> dict[str, int]:
    """How often each label stands there, in the order of their names."""
    counts = Counter(label for row in rows for label in row.labels)
    return dict(sorted(counts.items()))
