"""How well a vocabulary fits texts, by the language they are in.

Knows: a tokenizer, and scripts.
"""

import re
from collections.abc import Iterable

from yantai.text.tokenizer import HAN, Tokenizer

_HAN = re.compile(f"[{HAN}]")


def script_of(text: str) -> str:
    """`zh` where at least a fifth of the letters are Han characters, else `en`.

    >>> script_of("砚台 is an inkstone"), script_of("inkstone")
    ('en', 'en')
    >>> script_of("砚台是磨墨的文具")
    'zh'
    """
    han = len(_HAN.findall(text))
    letters = sum(character.isalpha() for character in text)
    return "zh" if letters and han / letters >= 0.2 else "en"


def compression_report(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, dict[str, float]]:
    """How well the vocabulary fits each language: bytes and characters a token, and totals."""
    totals: dict[str, list[int]] = {}
    batch: list[str] = []

    def count() -> None:
        for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
            row = totals.setdefault(script_of(text), [0, 0, 0, 0])
            sizes = (1, len(text.encode()), len(text), len(ids))
            totals[script_of(text)] = [a + b for a, b in zip(row, sizes, strict=True)]
        batch.clear()

    for text in texts:
        batch.append(text)
        if len(batch) == 1024:
            count()
    count()
    return {
        language: {
            "documents": documents,
            "bytes": size,
            "tokens": tokens,
            "bytes_per_token": round(size / max(tokens, 1), 4),
            "characters_per_token": round(characters / max(tokens, 1), 4),
        }
        for language, (documents, size, characters, tokens) in sorted(totals.items())
    }
