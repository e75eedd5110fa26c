"""How rich the language of the village is, in figures.

Knows how to count words and 4-grams of any text. Words: English words in lower case that are not
function words; Chinese words of the list `data/words_zh.toml`, found longest first.
"""

import re
from collections.abc import Sequence
from functools import cache

from yantai.text.village.grammar import plots
from yantai.text.village.lexicon import lexicon, read_table
from yantai.text.village.village import Village

FUNCTION_WORDS = frozenset(read_table("words_en")["function_words"])


def grams(tokens: Sequence[str], size: int = 4) -> float:
    """The share of distinct ones among all runs of `size` tokens."""
    runs = [tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]
    return len(set(runs)) / len(runs) if runs else 0.0


def tokens(text: str, language: str) -> list[str]:
    """English words in lower case, or Chinese characters."""
    if language == "en":
        return re.findall(r"[a-z]+", text.casefold())
    return re.findall(r"[\u4e00-\u9fff]", text)


def distinct_share(text: str, language: str) -> float:
    """The share of distinct 4-grams of a text: of words in English, of characters in Chinese."""
    return grams(tokens(text, language))


@cache
def _chinese_words() -> re.Pattern[str]:
    words = sorted(read_table("words_zh")["words"], key=lambda w: (-len(w), w))
    return re.compile("|".join(map(re.escape, words)))


def content_words(text: str, language: str) -> set[str]:
    """The distinct content words of a text, names of people left out."""
    names = {item.core(language).casefold() for item in lexicon()["person"]}
    if language == "en":
        return {w for w in tokens(text, "en") if len(w) > 1} - FUNCTION_WORDS - names
    for name in names:
        text = text.replace(name, "，")
    return set(_chinese_words().findall(text))


def vocabulary_report(village: Village | None = None, stories: int = 1500) -> dict[str, object]:
    """Content words, plots and the share of distinct 4-grams of a sample, a language."""
    village = village or Village()
    report: dict[str, object] = {"plots": len(plots()), "facts": len(village.world.facts)}
    for language in ("en", "zh"):
        rows = village.documents(stories, (language,))
        text = "\n".join(str(row["text"]) for row in rows)
        report[language] = {
            "content_words": len(content_words(text, language)),
            "distinct_4grams": round(distinct_share(text, language), 4),
            "sample_bytes": len(text.encode()),
            "sample_documents": stories,
        }
    return report
