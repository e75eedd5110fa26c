"""The words for the things of the village, in both languages.

Knows every item that can be named (people of the pool, trades, places, pets, foods ...) and all
its surface forms: "baker", "a baker", "bakes the bread"; 面包师, 烤面包. Knows nothing of who
lives where, of plots or of sentences. The tables themselves are data (`data/*.toml`).
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

LANGUAGES = ("en", "zh")
PACKAGE = "yantai.text.village"
LABELS = {
    "person": "PERSON",
    "place": "PLACE",
    "pet": "ANIMAL",
    "trade": "TRADE",
    "food": "FOOD",
    "treasure": "OBJECT",
}


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One nameable thing; there is exactly one object for each, so identity is equality."""

    kind: str
    id: str
    en: Mapping[str, str]
    zh: Mapping[str, str]
    core_en: str
    core_zh: str
    group: str = ""

    def surface(self, language: str, form: str = "") -> str:
        """The words of `form` ("" is the plain one) in `language`."""
        return (self.en if language == "en" else self.zh)[form]

    def core(self, language: str) -> str:
        """The bare noun, the part of a longer form that an entity span covers."""
        return self.core_en if language == "en" else self.core_zh

    def __repr__(self) -> str:
        return f"{self.kind}:{self.id}"


def read_table(name: str) -> dict[str, Any]:
    """The parsed TOML file `data/<name>.toml` of this package."""
    return tomllib.loads((files(PACKAGE) / "data" / f"{name}.toml").read_text("utf-8"))


def table_names(folder: str) -> list[str]:
    """The names (no ending) of the TOML files in `data/<folder>`, sorted."""
    entries = (files(PACKAGE) / "data" / folder).iterdir()
    return sorted(entry.name[:-5] for entry in entries if entry.name.endswith(".toml"))


def article(noun: str) -> str:
    """The noun with its article: "a goat", "an oar"."""
    vowel = noun[0].lower() in "aeiou" and not noun.startswith(("one", "uni", "use", "eu"))
    return f"{'an' if vowel else 'a'} {noun}"


def capital(text: str) -> str:
    """The text with its first letter raised: `capital("a goat") == "A goat"`."""
    return text[:1].upper() + text[1:]


def with_capitals(forms: dict[str, str]) -> dict[str, str]:
    """Adds for each form a raised one: "he" gives "He", "" gives "C" (for capital)."""
    raised = {(capital(form) if form else "C"): capital(text) for form, text in forms.items()}
    return {**raised, **forms}


def noun_item(kind: str, key: str, en: str, zh: str, group: str = "") -> Item:
    """An item from an English noun and a Chinese one written "measure:noun" (or bare).

    Forms: "" the noun, "a" with article or 一 and measure word, "that" with the or 那.
    """
    measure, _, noun = zh.rpartition(":")
    en_forms = {"": en, "a": article(en), "that": f"the {en}"}
    zh_forms = {"": noun, "a": f"一{measure}{noun}", "that": f"那{measure}{noun}"}
    return Item(kind, key, with_capitals(en_forms), zh_forms, en, noun, group)


def person_item(gender: str, en: str, zh: str) -> Item:
    """A person of the pool with name and pronouns."""
    she = gender == "female"
    english = {
        "": en,
        "he": "she" if she else "he",
        "him": "her" if she else "him",
        "his": "her" if she else "his",
        "own": "hers" if she else "his",
        "himself": "herself" if she else "himself",
        "woman": "woman" if she else "man",
    }
    chinese = {"": zh, "he": "她" if she else "他", "woman": "女人" if she else "男人"}
    return Item("person", en.lower(), with_capitals(english), chinese, en, zh, gender)


def trade_item(row: list[str]) -> Item:
    """A trade with its noun, verb phrases, smell and tool."""
    key, group, noun, does, did, smell, tool, zh, zh_does, zh_smell, zh_measure, zh_tool = row
    english = {"": noun, "a": article(noun), "does": does, "did": did, "smell": smell}
    english |= {"tool": tool, "atool": article(tool)}
    chinese = {"": zh, "does": zh_does, "smell": zh_smell, "tool": zh_tool}
    chinese |= {"atool": f"一{zh_measure}{zh_tool}"}
    return Item("trade", key, with_capitals(english), chinese, noun, zh, group)


def pet_item(row: list[str]) -> Item:
    """An animal: "white goat" / 白山羊, its short name, its voice, with measure word."""
    key, full, head, cry, measure, zh, zh_head, zh_cry = row
    english = {"": full, "a": article(full), "head": head, "cry": cry}
    chinese = {"": zh, "a": f"一{measure}{zh}", "that": f"那{measure}{zh}"}
    chinese |= {
        "one": f"{measure}{zh}",
        "head": zh_head,
        "thathead": f"那{measure}{zh_head}",
        "cry": zh_cry,
    }
    return Item("pet", key, with_capitals(english), chinese, full, zh)


def _plain(kind: str, row: list[str]) -> Item:
    """Rows whose columns are few: place, food, fear, weather, season, time, mood, kin, age."""
    key = row[0]
    match kind, row[1:]:
        case "place", [en, en_at, zh, zh_at]:
            return Item(
                kind, key, with_capitals({"": en, "at": en_at}), {"": zh, "at": zh_at}, en, zh
            )
        case "food", [en, en_some, zh, zh_some]:
            forms = with_capitals({"": en, "some": en_some})
            return Item(kind, key, forms, {"": zh, "some": zh_some}, en, zh)
        case "weather", [en, en_told, zh, zh_told]:
            return Item(kind, key, {"": en, "told": en_told}, {"": zh, "told": zh_told}, en, zh)
        case "mood", [sentiment, en, zh]:
            return Item(kind, key, with_capitals({"": en}), {"": zh}, en, zh, sentiment)
        case "age", [en, en_a, zh]:
            return Item(kind, key, with_capitals({"": en, "a": en_a}), {"": zh}, en, zh)
        case _, [en, zh]:
            forms = with_capitals({"": en, "a": article(en)})
            return Item(kind, key, forms, {"": zh}, en, zh)
    raise ValueError(f"lexicon row of kind {kind!r} has unexpected columns: {row}")


@dataclass(frozen=True)
class Lexicon:
    """All items by kind, in the order of the tables."""

    kinds: Mapping[str, tuple[Item, ...]]

    def __getitem__(self, kind: str) -> tuple[Item, ...]:
        return self.kinds[kind]

    def item(self, kind: str, key: str) -> Item:
        """The item with this id; KeyError names what was asked."""
        for candidate in self.kinds[kind]:
            if candidate.id == key:
                return candidate
        raise KeyError(f"no {kind} called {key!r} in the lexicon")

    def all_items(self) -> Iterator[Item]:
        """Every item of every kind."""
        for items in self.kinds.values():
            yield from items


@cache
def lexicon() -> Lexicon:
    """The lexicon, read once."""
    names, table = read_table("names"), read_table("lexicon")
    kinds: dict[str, tuple[Item, ...]] = {
        "person": tuple(
            person_item(gender, en, zh) for gender in ("female", "male") for en, zh in names[gender]
        )
    }
    for kind, rows in table.items():
        if kind == "trade":
            kinds[kind] = tuple(trade_item(row) for row in rows)
        elif kind == "pet":
            kinds[kind] = tuple(pet_item(row) for row in rows)
        elif kind == "treasure":
            kinds[kind] = tuple(noun_item(kind, r[0], r[1], f"{r[2]}:{r[3]}") for r in rows)
        else:
            kinds[kind] = tuple(_plain(kind, row) for row in rows)
    return Lexicon(kinds)
