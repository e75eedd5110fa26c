"""Sentence templates: how a wording is written down, and how it becomes text.

Knows the notation and how to fill it. A wording is one line:

    {hero.Home} ...          a slot: role, then a relation of the world, then a form
    [soon|at once]           one of several
    ~ at the line's start    reserved for the held-out wording

Knows nothing of plots or of checking; the reader compiles the same parts into a matcher.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from yantai.text.village.dice import Dice
from yantai.text.village.lexicon import LABELS, Item
from yantai.text.village.world import VALUE_KIND, Fact, World

MARK = re.compile(r"\{([^{}]+)\}|\[([^\[\]]+)\]")


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for words: `role`, optionally one of its relations, and a form of the item."""

    role: str
    relation: str
    form: str

    def __str__(self) -> str:
        return ".".join(part for part in (self.role, self.relation, self.form) if part)


Plain = str | Slot


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several ways to go on."""

    options: tuple[tuple[Plain, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Wording:
    """One way of saying a predicate in one language."""

    parts: tuple[Plain | Choice, ...]
    heldout: bool
    source: str

    def slots(self) -> set[Slot]:
        """The slots that occur whatever is chosen."""
        sure: set[Slot] = set()
        for part in self.parts:
            if isinstance(part, Slot):
                sure.add(part)
            elif isinstance(part, Choice):
                sure |= set.intersection(
                    *({p for p in option if isinstance(p, Slot)} for option in part.options)
                )
        return sure

    def all_slots(self) -> set[Slot]:
        """The slots that may occur."""
        found: set[Slot] = set()
        for part in self.parts:
            if isinstance(part, Slot):
                found.add(part)
            elif isinstance(part, Choice):
                found |= {p for option in part.options for p in option if isinstance(p, Slot)}
        return found


class Span(NamedTuple):
    """An entity in a text: `text[start:end]` is its name."""

    start: int
    end: int
    label: str
    item: str


def parse_slot(text: str) -> Slot:
    """`hero.home.at` is the form "at" of the home of the hero."""
    role, *rest = text.strip().split(".")
    relation = rest.pop(0) if rest and rest[0] in VALUE_KIND else ""
    if len(rest) > 1:
        raise ValueError(f"slot {{{text}}} has too many parts")
    return Slot(role, relation, rest[0] if rest else "")


def _plain_parts(text: str) -> tuple[Plain, ...]:
    parts: list[Plain] = []
    for place, piece in enumerate(re.split(r"\{([^{}]+)\}", text)):
        if place % 2:
            parts.append(parse_slot(piece))
        elif piece:
            parts.append(piece)
    return tuple(parts)


def parse_wording(line: str) -> Wording:
    """The parts of one line of the notation above."""
    heldout = line.startswith("~")
    text = line[1:].strip() if heldout else line.strip()
    parts: list[Plain | Choice] = []
    for place, piece in enumerate(re.split(r"\[([^\[\]]*)\]", text)):
        if place % 2:
            parts.append(Choice(tuple(_plain_parts(option) for option in piece.split("|"))))
        else:
            parts.extend(_plain_parts(piece))
    if any("[" in p or "]" in p or "|" in p for p in parts if isinstance(p, str)):
        raise ValueError(f"unbalanced brackets in the wording {line!r}")
    return Wording(tuple(parts), heldout, text)


def parse_lines(block: str) -> tuple[Wording, ...]:
    """One wording a line; empty lines are skipped."""
    return tuple(parse_wording(line) for line in block.strip().splitlines() if line.strip())


Binding = Mapping[str, Item]


class Writer:
    """Fills wordings in one language for one world, noting entity spans if asked."""

    def __init__(self, world: World, language: str) -> None:
        self.world, self.language = world, language
        self.table = world.table
        self.forms = (lambda item: item.en) if language == "en" else (lambda item: item.zh)

    def item(self, slot: Slot, binding: Binding) -> Item:
        """The thing a slot names under this binding."""
        item = binding[slot.role]
        return self.table[item][slot.relation] if slot.relation else item

    def fill(self, wording: Wording, binding: Binding, dice: Dice) -> str:
        """The text of the wording; choices fall by the dice."""
        pieces: list[str] = []
        table, forms = self.table, self.forms
        for part in self.chosen(wording, dice):
            if isinstance(part, str):
                pieces.append(part)
            else:
                item = binding[part.role]
                if part.relation:
                    item = table[item][part.relation]
                pieces.append(forms(item)[part.form])
        return "".join(pieces)

    @staticmethod
    def chosen(wording: Wording, dice: Dice) -> list[Plain]:
        """The parts with every choice made."""
        flat: list[Plain] = []
        for part in wording.parts:
            if isinstance(part, Choice):
                flat.extend(part.options[dice.below(len(part.options))])
            else:
                flat.append(part)
        return flat

    def fill_with_truth(
        self, wording: Wording, binding: Binding, dice: Dice, start: int
    ) -> tuple[str, list[Span], list[Fact]]:
        """Like `fill`, and also the entities (offset by `start`) and the facts it states."""
        text, spans, facts = "", [], []
        for part in self.chosen(wording, dice):
            if isinstance(part, str):
                text += part
                continue
            item = self.item(part, binding)
            surface = self.forms(item)[part.form]
            offset = surface.find(item.core(self.language))
            if offset >= 0 and item.kind in LABELS:
                at = start + len(text) + offset
                end = at + len(item.core(self.language))
                spans.append(Span(at, end, LABELS[item.kind], item.id))
            if part.relation in VALUE_KIND and part.relation not in ("kin", "age", ""):
                facts.append(Fact(binding[part.role], part.relation, item))
            text += surface
        return text, spans, facts
