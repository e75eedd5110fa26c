"""Examples as a person can check them: ids, texts, and what of it is learned, in colour.

Knows: examples and a tokenizer. A learned target stands behind the token that it follows.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from yantai.data.batch import IGNORED
from yantai.data.examples import Example
from yantai.text.tokenizer import Tokenizer

LEARNED, READ, PLAIN, BOLD = "\033[32m", "\033[2m", "\033[0m", "\033[1m"
CONTROL = {True: ("\033[7m", "\033[27m"), False: ("‹", "›")}
"""What stands around a control token, in colour or without: a text that spells one has no such."""


def as_table(example: Example, tokenizer: Tokenizer) -> dict[str, Any]:
    """One example, for JSON."""
    return {
        "row": example.name,
        "source": _pieces(example.source, tokenizer),
        "ids": list(example.ids),
        "texts": _pieces(example.ids, tokenizer),
        "targets": [None if target == IGNORED else int(target) for target in example.targets],
    }


def _pieces(ids: Any, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode([int(id)], skip_special=False) for id in ids]


def shown_text(
    example: Example,
    tokenizer: Tokenizer,
    names: Sequence[str] = (),
    *,
    colour: bool = True,
    spelled: Callable[[int], str] = str,
) -> str:
    """One example for a person: what is only read is faint, what is learned is green.

    Where targets are no tokens (labels), each stands in brackets behind its token. Control tokens
    are reversed, or between ‹ and › without colour; the same letters in a text are not.

    Args:
        example: what is shown.
        tokenizer: whose ids these are.
        names: of labels, where targets are numbers of labels.
        spelled: what a target without a name is called.
        colour: else what is learned stands between ⟦ and ⟧.
    """

    def text_of(ids: list[int]) -> str:
        return _told(ids, tokenizer, colour)

    lines = [f"{BOLD}{example.name}{PLAIN}" if colour else example.name]
    if example.source:
        lines.append(_marked(text_of(_ints(example.source)), False, colour))
    targets, following = list(example.targets), list(example.ids[1:])
    known = [place for place, target in enumerate(targets) if target != IGNORED]
    inner = [place for place in known if place < len(following)]
    predicts = bool(inner) and all(following[place] == targets[place] for place in inner)
    pieces: list[tuple[bool, list[int] | str]] = []
    for place, id in enumerate(example.ids):
        learned = predicts and place > 0 and targets[place - 1] != IGNORED
        if pieces and pieces[-1][0] == learned and isinstance(pieces[-1][1], list):
            pieces[-1][1].append(int(id))  # a character may be of several tokens
        else:
            pieces.append((learned, [int(id)]))
        if targets[place] != IGNORED and not predicts:
            number = int(targets[place])
            called = names[number] if number < len(names) else spelled(number)
            pieces.append((True, f"[{called}]"))
    if predicts and targets[-1] != IGNORED:
        pieces.append((True, [int(targets[-1])]))
    texts = (
        (learned, each if isinstance(each, str) else text_of(each)) for learned, each in pieces
    )
    lines.append("".join(_marked(text, learned, colour) for learned, text in texts))
    lines.append(f"{len(example.ids)} ids, {len(known)} learned: {' '.join(map(str, example.ids))}")
    return "\n".join(lines)


def _told(ids: list[int], tokenizer: Tokenizer, colour: bool) -> str:
    """The text of some ids, control tokens marked."""
    control, (before, behind) = frozenset(tokenizer.control.values()), CONTROL[colour]
    texts = []
    for special, group in groupby(ids, lambda id: id in control):
        if special:
            texts += [f"{before}{tokenizer.token(id)}{behind}" for id in group]
        else:
            texts.append(tokenizer.decode(list(group), skip_special=False))
    return "".join(texts)


def _marked(text: str, learned: bool, colour: bool) -> str:
    if not colour:
        return f"⟦{text}⟧" if learned and not text.startswith("[") else text
    return f"{LEARNED if learned else READ}{text}{PLAIN}"


def _ints(ids: Any) -> list[int]:
    return [int(id) for id in ids]
