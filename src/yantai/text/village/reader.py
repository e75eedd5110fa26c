"""Reads text back into predicates.

Knows how to compile the wordings of all predicates into one matcher a language, and how to match
it against a text. The matcher is a graph of word (or character) edges and slot edges without
loops; a match follows all branches at once from one position, so its work is bounded by the size
of the graph around the words actually present, whatever the text. Knows no world: whether what was
read is true is the checker's business.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from yantai.text.village.grammar import PEOPLE, Plot, Predicate, groups, plots
from yantai.text.village.lexicon import Item, lexicon
from yantai.text.village.portraits import portrait_plots
from yantai.text.village.template import Choice, Plain, Slot, Wording
from yantai.text.village.world import VALUE_KIND

WORD = {"en": re.compile(r"[A-Za-z]+|\s+|.", re.S), "zh": re.compile(r".", re.S)}
SENTENCE_END = {
    "en": re.compile(r'[.!?]+["”]?(?=\s|$)'),
    "zh": re.compile(r"[。！？]+”?"),
}
Found = tuple[Slot, frozenset[Item]]
Memo = dict[tuple[str, int], list[tuple[int, frozenset[Item]]]]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One way to read a piece of text: the predicate, and for each slot the items it can name."""

    predicate: Predicate
    wording: Wording
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the text and its readings; none if it cannot be read."""

    start: int
    end: int
    readings: tuple[Reading, ...]


@dataclass(slots=True)
class Node:
    """A state of the matcher."""

    words: dict[str, "Node"] = field(default_factory=dict)
    slots: dict[tuple[Slot, str], "Node"] = field(default_factory=dict)
    jumps: list["Node"] = field(default_factory=list)
    ends: list[tuple[Predicate, Wording]] = field(default_factory=list)


class Surfaces:
    """All surface forms of a kind in one form, as a tree of words: which items begin here?"""

    def __init__(self, items: Iterable[Item], form: str, language: str) -> None:
        self.root: dict[str, Any] = {}
        self.meant: dict[str, list[Item]] = {}
        for item in items:
            self.meant.setdefault(item.surface(language, form), []).append(item)
        for surface, meant in self.meant.items():
            node = self.root
            for word in WORD[language].findall(surface):
                node = node.setdefault(word, {})
            node[""] = frozenset(meant)

    def matches(self, words: list[str], at: int) -> list[tuple[int, frozenset[Item]]]:
        """Every (end, items) that a surface beginning at word `at` gives."""
        node: dict[str, Any] = self.root
        found: list[tuple[int, frozenset[Item]]] = []
        while True:
            if "" in node:
                found.append((at, node[""]))
            if at >= len(words) or words[at] not in node:
                return found
            node = node[words[at]]
            at += 1


class Reader:
    """The matcher of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.root = Node()
        self.surfaces: dict[str, Surfaces] = {}
        for predicate, plot in all_predicates():
            for wording in predicate.wordings[language]:
                self._add(predicate, plot, wording)

    def _add(self, predicate: Predicate, plot: Plot | None, wording: Wording) -> None:
        node = self.root
        for part in wording.parts:
            if isinstance(part, Choice):
                joint = Node()
                for option in part.options:
                    last = node
                    for plain in option:
                        last = self._extend(last, plain, plot)
                    last.jumps.append(joint)
                node = joint
            else:
                node = self._extend(node, part, plot)
        node.ends.append((predicate, wording))

    def _extend(self, node: Node, part: Plain, plot: Plot | None) -> Node:
        if isinstance(part, Slot):
            return node.slots.setdefault((part, self._surfaces_for(part, plot)), Node())
        for word in WORD[self.language].findall(part):
            node = node.words.setdefault(word, Node())
        return node

    def _surfaces_for(self, slot: Slot, plot: Plot | None) -> str:
        """The name of the table of surfaces for a slot, made on first use."""
        if slot.relation:
            kind, items = VALUE_KIND[slot.relation], lexicon()[VALUE_KIND[slot.relation]]
        elif slot.role in PEOPLE:
            kind, items = "person", lexicon()["person"]
        else:
            items = plot.domain(slot.role) if plot else lexicon()[DOMAIN.get(slot.role, slot.role)]
            kind = items[0].kind
            items = lexicon().kinds.get(kind, items)
        key = f"{kind}/{slot.form}"
        if key not in self.surfaces:
            self.surfaces[key] = Surfaces(items, slot.form, self.language)
        return key

    def match(self, words: list[str], at: int, memo: Memo) -> dict[int, list[Reading]]:
        """All readings that begin at word `at`, by the word at which they end."""
        ends: dict[int, list[Reading]] = {}
        todo: list[tuple[Node, int, tuple]] = [(self.root, at, ())]
        count = len(words)
        while todo:
            node, here, trail = todo.pop()
            for predicate, wording in node.ends:
                reading = Reading(predicate, wording, _unwind(trail))
                ends.setdefault(here, []).append(reading)
            for jump in node.jumps:
                todo.append((jump, here, trail))
            if here < count and words[here] in node.words:
                todo.append((node.words[words[here]], here + 1, trail))
            for (slot, key), after in node.slots.items():
                place = (key, here)
                if place not in memo:
                    memo[place] = self.surfaces[key].matches(words, here)
                for end, items in memo[place]:
                    todo.append((after, end, (trail, slot, items)))
        return ends

    def read(self, text: str) -> list[Piece]:
        """The text as pieces in order; what cannot be read is cut at the next sentence end."""
        words = WORD[self.language].findall(text)
        starts = [0]
        for word in words:
            starts.append(starts[-1] + len(word))
        index_of = {start: number for number, start in enumerate(starts)}
        pieces: list[Piece] = []
        memo: Memo = {}
        at = 0
        while at < len(words):
            if words[at].isspace():
                at += 1
                continue
            ends = self.match(words, at, memo)
            whole = [end for end in ends if self._stops_well(words, end)]
            if whole:
                end = max(whole)
                pieces.append(Piece(starts[at], starts[end], tuple(ends[end])))
                at = end
                continue
            found = SENTENCE_END[self.language].search(text, starts[at])
            stop = found.end() if found else len(text)
            while stop not in index_of:
                stop += 1
            pieces.append(Piece(starts[at], stop, ()))
            at = index_of[stop]
        return pieces

    def _stops_well(self, words: list[str], end: int) -> bool:
        return end == len(words) or self.language == "zh" or words[end].isspace()


def _unwind(trail: tuple) -> tuple[Found, ...]:
    found = []
    while trail:
        trail, slot, items = trail
        found.append((slot, items))
    return tuple(reversed(found))


DOMAIN: Mapping[str, str] = {"spot": "place"}


def all_predicates() -> Iterable[tuple[Predicate, Plot | None]]:
    """Every predicate with the plot that owns it."""
    for group in groups().values():
        yield from ((predicate, None) for predicate in group)
    for plot in (*plots().values(), *portrait_plots().values()):
        yield from ((predicate, plot) for predicate in plot.predicates.values())


@cache
def reader(language: str) -> Reader:
    """The matcher of a language, compiled once."""
    return Reader(language)
