"""Texts that nobody wrote, and what a linear model believes of them: practice for a new body.

A Transformer that has read nothing learns from a few thousand rows how these rows go by heart. A
linear model of n-grams learns from them what words say, and it can judge any text: pieces of rows,
and the beginning of one with the end of another. A body that learns its beliefs about many such
texts, beside the rows themselves, ends above both (arXiv 1503.02531; for texts, 1903.12136).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from yantai.metrics.floor import is_spaced

STRENGTHS = (3.0, 30.0)
"""Of the linear model's weights, one over their penalty; the better one on a fifth of the texts."""
ROUNDS = 300


@dataclass(frozen=True)
class Practice:
    """Texts and what is believed of them.

    Attributes:
        texts: invented ones.
        beliefs: "text label": probabilities, of one label among all, or of each by itself.
    """

    texts: list[str]
    beliefs: NDArray[np.float32]


def practice(texts: Sequence[str], truth: NDArray, labels: int, count: int, seed: int) -> Practice:
    """Invented texts with beliefs.

    Args:
        texts: of the rows.
        truth: a label's number for each, or "text label" booleans where several may hold.
        labels: how many there are.
        count: how many texts to invent.
        seed: decides them.
    """
    spaced = is_spaced(texts)
    invented = invent(texts, count, spaced, random.Random(f"practice {seed}"))
    kind: dict[str, Any] = {"analyzer": "char"}
    if spaced:
        kind = {"analyzer": "word", "token_pattern": r"(?u)\b\w+\b|[^\w\s]"}
    counter = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **kind)
    seen, asked = counter.fit_transform(texts), counter.transform(invented)
    if truth.ndim == 1:
        beliefs = _believed(seen, truth, asked, labels)
    else:
        each = [_believed(seen, column, asked, 2)[:, 1] for column in truth.T.astype(np.int64)]
        beliefs = np.stack(each, axis=1)
    return Practice(invented, beliefs.astype(np.float32))


def invent(texts: Sequence[str], count: int, spaced: bool, dice: random.Random) -> list[str]:
    """Pieces of texts, and the beginning of one before the end of another, half of each.

    Args:
        texts: some of which are not empty.
        count: how many.
        spaced: whether words, not characters, stay whole.
        dice: decides.
    """
    parts = [text.split() if spaced else list(text) for text in texts]
    parts = [each for each in parts if each]
    found: list[str] = []
    while len(found) < count:
        one = dice.choice(parts)
        if dice.random() < 0.5:
            size = dice.randint(-(-len(one) // 4), len(one))
            start = dice.randint(0, len(one) - size)
            piece = one[start : start + size]
        else:
            other = dice.choice(parts)
            piece = one[: dice.randint(0, len(one))] + other[dice.randint(0, len(other)) :]
        if piece:
            found.append((" " if spaced else "").join(piece))
    return found


def _believed(seen: Any, truth: NDArray, asked: Any, labels: int) -> NDArray:
    """Float[text, label], by logistic regression; a label that no row has is not believed."""
    known = np.unique(truth)
    beliefs = np.zeros((asked.shape[0], labels))
    if len(known) == 1:
        beliefs[:, known] = 1.0
        return beliefs
    held = np.arange(len(truth)) % 5 == 4
    rest = ~held
    strength = STRENGTHS[-1]
    if held.any() and len(np.unique(truth[rest])) > 1:
        strength = max(
            STRENGTHS,
            key=lambda each: _fitted(seen[rest], truth[rest], each).score(seen[held], truth[held]),
        )
    beliefs[:, known] = _fitted(seen, truth, strength).predict_proba(asked)
    return beliefs


def _fitted(seen: Any, truth: NDArray, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=ROUNDS).fit(seen, truth)
