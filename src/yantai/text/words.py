"""Which tokens of a row form a word: in English between spaces, in Chinese by a dictionary.

Knows: how a vocabulary spells its pieces. Words of Chinese are those of jieba's dictionary.
"""

import re
from collections.abc import Sequence

import rjieba

from yantai.text.tokenizer import HAN, Tokenizer

_PIECE = re.compile(rf" ?[^\W\d_{HAN}]+(?:['’][^\W\d_{HAN}]+)*|[{HAN}]+| ?\d+|.", re.DOTALL)
_HAN = re.compile(f"[{HAN}]")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
BREAK = b"\0"


def split_words(text: str) -> list[str]:
    """A text as a list of words, none of its characters lost.

    >>> split_words("It's 3 o'clock in 北京大学.")
    ["It's", ' 3', " o'clock", ' in', ' ', '北京大学', '.']
    """
    found: list[str] = []
    for piece in _PIECE.findall(text):
        found += rjieba.cut(piece) if _HAN.match(piece) else [piece]
    return found


class Words:
    """Numbers for the tokens of a row, the same for the tokens of a word.

    A token that reaches over several words joins them; characters whose bytes lie in several
    tokens join those. Control tokens stand alone.

    Args:
        tokenizer: of any kind.
    """

    def __init__(self, tokenizer: Tokenizer):
        pieces = [tokenizer.token(id) for id in range(tokenizer.vocab_size)]
        marks_rest = any(piece.startswith("##") for piece in pieces)  # WordPiece
        table = tokenizer.bytes_of_ids or [_spelled(piece, marks_rest) for piece in pieces]
        control = frozenset(tokenizer.control.values())
        self._bytes = [BREAK if id in control else piece for id, piece in enumerate(table)]

    def __call__(self, ids: Sequence[int]) -> list[int]:
        """The word of each token.

        Args:
            ids: a row, documents and padding included.
        """
        pieces = [self._bytes[id] or BREAK for id in ids]
        words: list[int] = []  # of each byte
        text = b"".join(pieces).decode("utf-8", errors="surrogateescape")
        for number, word in enumerate(split_words(text)):
            words += [number] * len(word.encode("utf-8", errors="surrogateescape"))
        joined = list(range(words[-1] + 1)) if words else []
        first_words, at = [], 0
        for piece in pieces:
            first, last = joined[words[at]], words[at + len(piece) - 1]
            for word in range(words[at], last + 1):
                joined[word] = first
            first_words.append(first)
            at += len(piece)
        return first_words


def _spelled(piece: str, marks_rest: bool) -> bytes:
    """The bytes of a piece of WordPiece, Unigram or characters, a space where a word begins."""
    byte = _BYTE.fullmatch(piece)
    if byte:
        return bytes([int(byte[1], 16)])
    if piece.startswith("##"):
        return piece[2:].encode()
    if marks_rest and piece[:1].isalnum() and not _HAN.match(piece):
        return b" " + piece.encode()
    return piece.replace("▁", " ").encode()
