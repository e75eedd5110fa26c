"""Examples as a person can check them: ids, texts, and what of it is learned, in colour.

Knows: examples and a tokenizer. A learned target stands behind the token that it follows.
"""

from typing import Any

from yantai.data.batch import IGNORED
from yantai.data.examples import Example
from yantai.text.tokenizer import Tokenizer

LEARNED, READ, PLAIN, BOLD = "\033[32m", "\033[2m", "\033[0m", "\033[1m"


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


def coloured(example: Example, tokenizer: Tokenizer) -> str:
    """One example for a terminal: what is only read is faint, what is learned is green.

    Where targets are no tokens (labels), each stands in brackets behind its token.
    """
    next_tokens = list(example.ids[1:])
    lines = [f"{BOLD}{example.name}{PLAIN}"]
    if example.source:
        source = "".join(_pieces(example.source, tokenizer))
        lines.append(f"{READ}{source}{PLAIN}")
    known = [place for place, target in enumerate(example.targets) if target != IGNORED]
    inner = [place for place in known if place < len(next_tokens)]
    predicts = bool(inner) and all(next_tokens[place] == example.targets[place] for place in inner)
    text = ""
    for place, (id, target) in enumerate(zip(example.ids, example.targets, strict=True)):
        learned = predicts and place and example.targets[place - 1] != IGNORED
        piece = tokenizer.decode([int(id)], skip_special=False)
        text += f"{LEARNED if learned else READ}{piece}{PLAIN}"
        if target != IGNORED and not predicts:
            text += f"{LEARNED}[{target}]{PLAIN}"
    if predicts and example.targets[-1] != IGNORED:
        last = tokenizer.decode([int(example.targets[-1])], skip_special=False)
        text += f"{LEARNED}{last}{PLAIN}"
    lines.append(text)
    shown = " ".join(str(int(id)) for id in example.ids[:40])
    lines.append(f"{len(example.ids)} ids, {len(known)} learned: {shown}")
    return "\n".join(lines)
