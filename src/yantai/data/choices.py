"""Questions with several answers to choose among, for language models that were taught nothing.

Knows: three forms of row. `query`, `choices`, `gold`: which answer follows; `context_options`,
`continuation`, `gold`: which beginning it follows; `context`, `continuation`: whether it is what
the model would say.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yantai.data.labelled import not_empty
from yantai.text.reading_json import BadRow
from yantai.text.table import TableReader


@dataclass(frozen=True, slots=True)
class Choice:
    """Beginnings and what follows each; one pair is right.

    Attributes:
        pairs: (beginning, continuation) of each option.
        gold: the number of the right one.
        place: `file:line`.
    """

    pairs: tuple[tuple[str, str], ...]
    gold: int
    place: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Rows with the same beginning stay together."""
        return (self.pairs[0][0],)


def read_choices(path: Path, **options: Any) -> tuple[list[Choice], Any]:
    """The rows of a file; arguments as of `TableReader`.

    Raises:
        DataError: a row is bad and the policy is to stop, or there is none.
    """
    reader = TableReader(path, check=_pairs, **options)
    rows = [Choice(*_pairs(record.fields), record.place) for record in reader]
    return not_empty(rows, reader), reader.account


def _pairs(fields: dict[str, Any]) -> tuple[tuple[tuple[str, str], ...], int]:
    if "choices" in fields:
        query, choices = fields.get("query", fields.get("question")), fields["choices"]
        pairs = [(query, choice) for choice in choices] if isinstance(choices, list) else []
    elif "context_options" in fields:
        options = fields["context_options"]
        follows = fields.get("continuation")
        pairs = [(option, follows) for option in options] if isinstance(options, list) else []
    else:
        pairs = [(fields.get("context"), fields.get("continuation"))]
    texts = all(isinstance(text, str) and text.strip() for pair in pairs for text in pair)
    if not pairs or not texts:
        there = ", ".join(list(fields)[:8])
        raise BadRow("E304", "no question with choices", got=there)
    gold = fields.get("gold", fields.get("label", 0))
    whole = isinstance(gold, int | float) and not isinstance(gold, bool) and gold % 1 == 0
    if not whole or not 0 <= gold < len(pairs):
        raise BadRow("E304", "the right choice is none of them", got=repr(gold)[:80])
    return tuple((str(begins), str(follows)) for begins, follows in pairs), int(gold)
