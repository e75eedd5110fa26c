"""Texts that a job is asked about, one or several.

Knows: what is no text. How long it may be, the job says.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from yantai.base.errors import UsageError


def given_texts(inputs: str | Sequence[Any], name: str = "inputs") -> list[str]:
    """The texts.

    Args:
        inputs: one, or several.
        name: of the argument.

    Raises:
        UsageError: E201, one is no text, or has nothing but spaces: any answer to it were made up.

    >>> given_texts("a"), given_texts(["a", "b"])
    (['a'], ['a', 'b'])
    """
    if not isinstance(inputs, str | Iterable):
        raise UsageError("E201", name, "is no text", got=type(inputs).__name__)
    texts = [inputs] if isinstance(inputs, str) else list(inputs)
    for number, text in enumerate(texts):
        where = name if isinstance(inputs, str) else f"{name}[{number}]"
        if not isinstance(text, str):
            raise UsageError("E201", where, "is no text", got=type(text).__name__)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError("E201", where, "has half of a surrogate pair, which is no character")
        if not text.strip():
            raise UsageError("E201", where, "is empty", got=repr(text)[:40])
    return texts
