"""Texts that are nearly the same: pairs whose letter n-grams agree.

Knows: texts, TF–IDF and cosines (scikit-learn, whose import takes seconds and waits until then).
"""

from collections.abc import Sequence

import numpy as np

NEAR = 0.9
TOGETHER = 1024


def near_pairs(
    texts: Sequence[str], others: Sequence[str], threshold: float = NEAR
) -> list[tuple[int, int]]:
    """(number in `texts`, number of its nearest in `others`) of each text that has a near one.

    Args:
        texts, others: what is compared.
        threshold: cosine of the weights of their 4-grams of letters from which two are near.

    >>> near_pairs(["The old mill stood still."], ["No.", "The old mill stood still!"], 0.8)
    [(0, 1)]
    """
    if not texts or not others:
        return []
    from sklearn.feature_extraction.text import TfidfVectorizer

    counter = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), sublinear_tf=True)
    try:
        known = counter.fit_transform([*others, *texts])[: len(others)]
    except ValueError:  # nothing but spaces
        return []
    found = []
    for start in range(0, len(texts), TOGETHER):
        scores = (counter.transform(texts[start : start + TOGETHER]) @ known.T).tocsr()
        for row in range(scores.shape[0]):
            values = scores.data[scores.indptr[row] : scores.indptr[row + 1]]
            if len(values) and values.max() >= threshold:
                place = scores.indptr[row] + int(np.argmax(values))
                found.append((start + row, int(scores.indices[place])))
    return found
