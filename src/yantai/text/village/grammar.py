"""Plots as data: which predicates there are, how each is worded, in which order they may come.

Knows the tables `data/shared.toml`, `data/portraits.toml` and `data/plots/*.toml`. Knows no world
and writes no story. A *predicate* is one thing that can be said ("the animal is gone"); a *step*
is a point of a plot where one of several predicates comes; a *plot* is a row of steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from yantai.text.village.lexicon import (
    LANGUAGES,
    Item,
    capital,
    lexicon,
    noun_item,
    read_table,
    table_names,
)
from yantai.text.village.template import Wording, parse_lines

STATE = ("weather", "season", "time", "mood")
PEOPLE = ("hero", "pal")
Sky = tuple[Item, Item, Item]


@dataclass(frozen=True, slots=True, eq=False)
class Predicate:
    """Something that can be said, its wordings, what it needs of the state and what it changes."""

    name: str
    plot: str
    wordings: Mapping[str, tuple[Wording, ...]]
    needs: Mapping[str, frozenset[Item]]
    sets: Mapping[str, Item]

    @property
    def topic(self) -> str:
        """The last part of the name: the topic of "intro.trade" is "trade"."""
        return self.name.rpartition(".")[2]

    def fits(self, state: Mapping[str, Item]) -> bool:
        """Whether the state is one in which this may be said."""
        return all(state.get(name) in allowed for name, allowed in self.needs.items())

    def pool(self, language: str, heldout: bool) -> tuple[Wording, ...]:
        """The wordings of one side of the split (training ones where none is reserved)."""
        return _pool(self, language, heldout)

    def __repr__(self) -> str:
        return f"{self.plot}/{self.name}"


@cache
def _pool(predicate: Predicate, language: str, heldout: bool) -> tuple[Wording, ...]:
    every = predicate.wordings[language]
    return tuple(w for w in every if w.heldout == heldout) or every


@dataclass(frozen=True, slots=True)
class Step:
    """A point of a plot: one of these predicates comes, or none if it is optional."""

    options: tuple[Predicate, ...]
    optional: bool
    is_group: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """An open question of a plot: its answer is the item in `role`."""

    role: str
    question: Mapping[str, str]
    answer: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """A plot grammar with its roles, skies, steps and truth."""

    name: str
    title: Mapping[str, str]
    domains: Mapping[str, tuple[Item, ...]]
    skies: tuple[Sky, ...]
    steps: tuple[Step, ...]
    summary: Mapping[str, tuple[Wording, ...]]
    asks: tuple[Ask, ...]
    predicates: Mapping[str, Predicate]
    first_mood: Item

    def domain(self, role: str) -> tuple[Item, ...]:
        """Every item that could ever stand in the role."""
        if role in PEOPLE:
            return lexicon()["person"]
        return self.domains[role] if role in self.domains else lexicon()[role]


def read_predicates(tables: Mapping[str, Any], plot: str) -> dict[str, Predicate]:
    """Predicates from TOML tables {name: {en, zh, needs, mood, time, weather}}."""
    found = {}
    for name, row in tables.items():
        wordings = {language: parse_lines(row[language]) for language in LANGUAGES}
        needs = {
            key: frozenset(lexicon().item(key, value) for value in values.split())
            for key, values in row.get("needs", {}).items()
        }
        sets = {key: lexicon().item(key, row[key]) for key in STATE if key in row}
        unknown = set(row) - {*LANGUAGES, "needs", *STATE}
        if unknown:
            raise ValueError(f"predicate {plot}/{name} has unknown keys {sorted(unknown)}")
        found[name] = Predicate(name, plot, wordings, needs, sets)
    return found


@cache
def groups() -> Mapping[str, tuple[Predicate, ...]]:
    """The predicates that all plots share, by group: "open", "intro", "meet" ..."""
    found = {}
    for group, tables in read_table("shared").items():
        named = {f"{group}.{name}": row for name, row in tables.items()}
        found[group] = tuple(read_predicates(named, "").values())
    return found


def _items(kind: str, rows: list[list[str]]) -> tuple[Item, ...]:
    """A plot's own choices: phrases or, where the Chinese has a measure word, nouns."""
    made = []
    for place, (en, zh) in enumerate(rows):
        if ":" in zh:
            made.append(noun_item(kind, str(place), en, zh))
        else:
            made.append(Item(kind, str(place), {"": en, "C": capital(en)}, {"": zh}, en, zh))
    return tuple(made)


def _skies(lines: list[str]) -> tuple[Sky, ...]:
    """ "rain,fog autumn morning" gives two skies; snow falls in winter only."""
    found: list[Sky] = []
    for line in lines:
        names = [part.split(",") for part in line.split()]
        for weather, season, time in product(*names):
            if weather != "snow" or season == "winter":
                item = lexicon().item
                found.append((item("weather", weather), item("season", season), item("time", time)))
    return tuple(dict.fromkeys(found))


def _steps(lines: list[str], own: Mapping[str, Predicate]) -> tuple[Step, ...]:
    """ "?@rest" is an optional shared group, "found|given" a choice of own predicates."""
    steps = []
    for line in ["@open", "@intro", *lines]:
        name = line.removeprefix("?")
        if name.startswith("@"):
            options = tuple(p for part in name[1:].split("|") for p in groups()[part])
        else:
            options = tuple(own[part] for part in name.split("|"))
        steps.append(Step(options, name != line, name.startswith("@")))
    return tuple(steps)


def _asks(rows: list[dict[str, str]]) -> tuple[Ask, ...]:
    made = []
    for row in rows:
        question = {language: row[language] for language in LANGUAGES}
        answer = {language: row[f"answer_{language}"] for language in LANGUAGES}
        made.append(Ask(row["role"], question, answer))
    return tuple(made)


def read_plot(name: str) -> Plot:
    """The plot in `data/plots/<name>.toml`; a role is a kind, or a kind and the ids that suit."""
    table = read_table(f"plots/{name}")
    own = read_predicates(table["beat"], name)
    domains: dict[str, tuple[Item, ...]] = {}
    for role, kind in table.get("roles", {}).items():
        kind, _, only = kind.partition(" ")
        items = lexicon()[kind]
        domains[role] = tuple(lexicon().item(kind, key) for key in only.split()) or items
    for role, rows in table.get("choices", {}).items():
        domains[role] = _items(f"{name}.{role}", rows)
    return Plot(
        name=name,
        title=table["title"],
        domains=domains,
        skies=_skies(table["skies"]),
        steps=_steps(table["steps"], own),
        summary={language: parse_lines(table["summary"][language]) for language in LANGUAGES},
        asks=_asks(table.get("ask", [])),
        predicates=own,
        first_mood=lexicon().item("mood", table.get("mood", "calm")),
    )


@cache
def plots() -> Mapping[str, Plot]:
    """All plots by name."""
    return {name: read_plot(name) for name in table_names("plots")}
