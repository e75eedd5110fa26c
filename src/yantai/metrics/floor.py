"""What anybody has to beat: the commonest label, and naive Bayes on n-grams (scikit-learn).

Knows: texts and labels. scikit-learn takes seconds to import, and waits until it is needed. A model
that is not above this floor has learned nothing worth its hours.
"""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHINESE_SHARE = 0.2
ADDED = (1.0, 0.3, 0.1, 0.05, 0.02)
"""To every count of naive Bayes; one of these."""
TOGETHER = 1024
Named = tuple[int, int, str]


def is_spaced(texts: Sequence[str]) -> bool:
    """Whether words are set apart by spaces; of Chinese and Japanese, n-grams are of characters."""
    letters = [letter for text in texts[:1000] for letter in text[:500] if not letter.isspace()]
    wide = sum("\u3040" <= letter <= "\u9fff" for letter in letters)
    return wide < CHINESE_SHARE * max(1, len(letters))


def majority(truth: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The commonest label, so many times."""
    return np.full(count, np.bincount(truth).argmax())


def naive_bayes(
    texts: Sequence[str], truth: NDArray, others: Sequence[str]
) -> NDArray[np.int64] | NDArray[np.bool_]:
    """Labels of other texts by multinomial naive Bayes on 1- and 2-grams of words or characters.

    What is added to every count is chosen on a fifth of the texts: between 1, the usual, and a
    fiftieth lie up to seven points where classes are many and texts short.

    Args:
        texts: to learn from.
        truth: a label for each, or "text label" booleans where several may hold.
        others: to be judged.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    kind: dict[str, Any] = {"analyzer": "char"}
    if is_spaced(texts):
        kind = {"analyzer": "word", "token_pattern": r"(?u)\b\w+\b"}  # words of one letter too
    counter = CountVectorizer(ngram_range=(1, 2), **kind)
    seen, asked = counter.fit_transform(texts), counter.transform(others)
    held = np.arange(len(texts)) % 5 == 4
    rest = ~held
    right = [
        (_judge(seen[rest], truth[rest], seen[held], added) == truth[held]).mean()
        for added in ADDED
        if held.any()
    ]
    best = ADDED[int(np.argmax(right))] if right else ADDED[0]
    return _judge(seen, truth, asked, best)


def _judge(seen: Any, truth: NDArray, asked: Any, added: float) -> NDArray:
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.naive_bayes import MultinomialNB

    if truth.ndim == 1:
        return MultinomialNB(alpha=added).fit(seen, truth).predict(asked)
    judge = OneVsRestClassifier(MultinomialNB(alpha=added))
    with warnings.catch_warnings():  # a label that all or none of a part have
        warnings.simplefilter("ignore", UserWarning)
        said = judge.fit(seen, truth).predict(asked)
    return said.reshape(asked.shape[0], -1).astype(bool)


def known_phrases(
    learned: Sequence[tuple[str, Sequence[Named]]], texts: Sequence[str]
) -> list[tuple[Named, ...]]:
    """Spans of texts by somebody who knows those of others by heart, and nothing of their meaning.

    Args:
        learned: texts and their spans (start, end, label).
        texts: to be searched; the longest known phrase at a place is taken, under the label that it
            had most often.
    """
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for text, spans in learned:
        for start, end, label in spans:
            seen[text[start:end]][label] += 1
    if not seen:
        return [() for _ in texts]
    longest_first = sorted(seen, key=lambda phrase: (-len(phrase), phrase))
    pattern = re.compile("|".join(map(_whole, longest_first)))
    return [
        tuple(
            (found.start(), found.end(), seen[found.group()].most_common(1)[0][0])
            for found in pattern.finditer(text)
        )
        for text in texts
    ]


def _whole(phrase: str) -> str:
    """A pattern of the phrase that stands in no longer word; Chinese words have no borders."""
    before = r"(?<![^\W\u3040-\u9fff])" if re.match(r"[^\W\u3040-\u9fff]", phrase) else ""
    behind = r"(?![^\W\u3040-\u9fff])" if re.match(r"[^\W\u3040-\u9fff]", phrase[-1:]) else ""
    return before + re.escape(phrase) + behind


def usual_place(learned: Sequence[tuple[str, tuple[str, int]]], texts: Sequence[str]) -> list[str]:
    """Answers by somebody who has not read the question: the piece where answers usually stand.

    Args:
        learned: texts and an answer in each, with the character it begins at.
        texts: from each of which a piece is taken, of the middle length at the middle place.
    """
    if not learned:
        return ["" for _ in texts]
    place = float(np.median([start / len(text) for text, (_, start) in learned]))
    size = int(np.median([len(answer) for _, (answer, _) in learned]))
    return [text[int(place * len(text)) :][:size].strip() for text in texts]


def shared_letters(one: Sequence[str], other: Sequence[str]) -> NDArray[np.bool_]:
    """Whether a text's partner shares most with it of all, by TF–IDF of letter n-grams.

    Args:
        one, other: texts, the partners at the same places.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    counter = TfidfVectorizer(analyzer="char", ngram_range=(1, 4)).fit([*one, *other])
    rows, columns = counter.transform(one), counter.transform(other).T
    nearest = [
        (rows[start : start + TOGETHER] @ columns).toarray().argmax(1)
        for start in range(0, len(one), TOGETHER)
    ]
    said = zip(np.concatenate(nearest).tolist(), other, strict=True)
    return np.array([other[place] == own for place, own in said])
