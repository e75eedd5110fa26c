"""Whether an answer is right, whole or in part: SQuAD's rule, and CMRC's for Chinese.

Knows: texts. In English (arXiv 1606.05250, section 6.1) case, punctuation and articles do not
count, and F1 is over the words that two answers share. In Chinese (arXiv 1810.07366, section 4.1)
punctuation does not count, and F1 is over the longest run of characters that they share.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(said: str, answers: Sequence[str], *, chinese: bool = False) -> float:
    """1 where it is one of the answers; no answer is right where there is none.

    >>> exact_match("The old mill.", ["old mill"])
    1.0
    """
    if not answers or not said:
        return float(not answers and not said)
    if chinese:
        return float(any(_letters(said) == _letters(each) for each in answers))
    return float(any(_words(said) == _words(each) for each in answers))


def answer_f1(said: str, answers: Sequence[str], *, chinese: bool = False) -> float:
    """The best overlap with one of the answers, 0 to 1.

    >>> answer_f1("in the old mill", ["the mill"])
    0.5
    """
    if not answers or not said:
        return float(not answers and not said)
    return max(_overlap(said, each, chinese) for each in answers)


def _overlap(said: str, truth: str, chinese: bool) -> float:
    mine = _letters(said) if chinese else _words(said)
    theirs = _letters(truth) if chinese else _words(truth)
    if not mine or not theirs:
        return float(mine == theirs)
    shared = _longest_run(mine, theirs) if chinese else (Counter(mine) & Counter(theirs)).total()
    return 2 * shared / (len(mine) + len(theirs))


def _words(text: str) -> list[str]:
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return _ARTICLES.sub(" ", plain).split()


def _letters(text: str) -> list[str]:
    """Chinese characters one by one, other words whole, no punctuation."""
    kept = "".join(
        " " if unicodedata.category(letter)[0] in "PSZ" else letter for letter in text.lower()
    )
    return re.findall(r"[\u3040-\u9fff]|[^\s\u3040-\u9fff]+", kept)


def _longest_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Of the pieces that both have in a row."""
    best, before = 0, [0] * (len(other) + 1)
    for piece in one:
        now = [0] * (len(other) + 1)
        for place, theirs in enumerate(other, 1):
            if piece == theirs:
                now[place] = before[place - 1] + 1
                best = max(best, now[place])
        before = now
    return best
