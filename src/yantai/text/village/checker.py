"""Says whether a text is consistent with the world and with itself.

Knows how to judge readings: every piece readable; the pieces in an order one plot allows, from its
beginning to its end; each slot agreeing with the others and with the world (names, pronouns,
facts); weather, season, time and feeling continuous. Knows no wording: reading is the reader's.
The work is linear in the length of the text.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from yantai.text.village.grammar import STATE, Plot, Predicate, plots
from yantai.text.village.lexicon import Item, lexicon
from yantai.text.village.portraits import portrait_plots
from yantai.text.village.reader import Piece, Reading, reader
from yantai.text.village.template import Slot
from yantai.text.village.world import Fact, World

MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong: the sentence, a short kind, and the reason in plain words."""

    sentence: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of a text; `plot`, `logical` and `facts` are what was understood of it."""

    ok: bool
    problems: tuple[Problem, ...]
    plot: str = ""
    logical: tuple[object, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(slots=True)
class Case:
    """The judging of one text under one plot."""

    text: str
    world: World
    language: str
    plot: Plot
    problems: list[Problem] = field(default_factory=list)
    held: dict[str, frozenset[Item]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)

    def complain(self, piece: Piece | None, kind: str, reason: str) -> None:
        """Notes a problem (the first MOST_PROBLEMS of them)."""
        sentence = self.text[piece.start : piece.end] if piece else ""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(sentence[:200], kind, reason))

    def start(self) -> None:
        """Before the first word: everyone could be anyone, the feeling is the plot's first."""
        people = frozenset(self.world.items)
        for role, domain in self.plot.domains.items():
            self.held[role] = people if domain[0].kind == "person" else frozenset(domain)
        self.held["hero"] = people
        if self.plot.skies:
            for place, name in enumerate(STATE[:3]):
                self.held[name] = frozenset(sky[place] for sky in self.plot.skies)
        self.held["mood"] = frozenset([self.plot.first_mood])

    def take(self, piece: Piece, reading: Reading) -> None:
        """Takes a reading for true: effects, needs, then each slot against what is held."""
        predicate = reading.predicate
        self.order.append(predicate.name)
        for name, item in predicate.sets.items():
            self.held[name] = frozenset([item])
        for name, allowed in predicate.needs.items():
            self._meet(piece, name, allowed, f"this needs the {name} to be {_list(allowed)}")
        slots = sorted(reading.found, key=lambda found: bool(found[0].relation or found[0].form))
        for slot, items in slots:
            self._slot(piece, slot, items)

    def _meet(self, piece: Piece, name: str, allowed: frozenset[Item], reason: str) -> None:
        both = self.held.get(name, allowed) & allowed
        if both:
            self.held[name] = both
        else:
            self.complain(piece, name, f"{reason}, but it is {_list(self.held[name])}")

    def _slot(self, piece: Piece, slot: Slot, items: frozenset[Item]) -> None:
        role, held = slot.role, self.held.get(slot.role)
        if held is None:
            return
        if slot.relation:
            self._fact(piece, slot, items)
            return
        both = held & items
        if both:
            self.held[role] = both
        elif role in ("hero", "pal") and not slot.form and not items & set(self.world.items):
            name = next(iter(items)).core(self.language)
            self.complain(piece, "person", f"nobody called {name} lives in this village")
        else:
            kind = "pronoun" if slot.form.lower() in ("he", "his", "him", "himself") else role
            told = self._words(held, slot)
            self.complain(piece, kind, f"the {role} should be {told}, not {_list(items)}")

    def _fact(self, piece: Piece, slot: Slot, items: frozenset[Item]) -> None:
        held, table = self.held[slot.role], self.world.table
        true = frozenset(person for person in held if table[person][slot.relation] in items)
        if true:
            self.held[slot.role] = true
            if len(true) == 1 and slot.relation not in ("kin", "age"):
                person = next(iter(true))
                self.facts.append(Fact(person, slot.relation, table[person][slot.relation]))
            return
        if len(held) == 1:
            person = next(iter(held))
            name, value = person.core(self.language), table[person][slot.relation]
            reason = f"the {slot.relation} of {name} is {value.core(self.language)}"
        else:
            reason = f"no {slot.role} of this story has such a {slot.relation}"
        self.complain(piece, "fact", f"{reason}, not {_list(items)}")

    def _words(self, items: frozenset[Item], slot: Slot) -> str:
        forms = sorted({item.surface(self.language, slot.form) for item in items})
        return " or ".join(forms[:3])

    def finish(self) -> None:
        """After the last word: roles of two people differ, the sky was one the plot knows."""
        people = [self.held[role] for role in ("hero", "pal") if role in self.held]
        if len(people) == 2 and people[0] == people[1] and len(people[0]) == 1:
            self.complain(None, "person", "the hero and the companion are the same person")
        home = {self.world.value(hero, "home") for hero in self.held["hero"]}
        if self.plot.name != "place" and "spot" in self.held and self.held["spot"] <= home:
            self.complain(None, "place", "the place of the story is the hero's own home")


def _list(items: frozenset[Item]) -> str:
    names = sorted(item.id if item.kind in STATE else item.core_en for item in items)
    return " or ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def guess_plot(pieces: list[Piece]) -> Plot | None:
    """The plot to which most pieces belong; the first one where several do."""
    votes: dict[str, int] = {}
    for piece in pieces:
        for name in dict.fromkeys(r.predicate.plot for r in piece.readings):
            if name:
                votes[name] = votes.get(name, 0) + 1
    if not votes:
        return None
    best = max(votes, key=lambda name: votes[name])
    return plots().get(best) or portrait_plots()[best]


def _own(case: Case, piece: Piece) -> list[Reading]:
    """The readings that belong to the plot; complains if there are none."""
    own = [r for r in piece.readings if r.predicate.plot in ("", case.plot.name)]
    if not piece.readings:
        case.complain(piece, "unreadable", "this is no sentence of the village")
    elif not own:
        other = piece.readings[0].predicate.plot
        case.complain(piece, "plot", f"this belongs to the story {other}, not {case.plot.name}")
    return own


def _step_of(predicate: Predicate, plot: Plot, since: int) -> int | None:
    """The first step from `since` on where the predicate may come."""
    for place in range(since, len(plot.steps)):
        if predicate in plot.steps[place].options:
            return place
    return None


def _judge_story(case: Case, pieces: list[Piece]) -> None:
    """Follows the steps of the plot; the first two may come in either order."""
    plot, at, seen = case.plot, 0, set()
    for piece in pieces:
        own = _own(case, piece)
        found = [(_place(r, plot, at, seen), r) for r in own]
        later = [(place, r) for place, r in found if place is not None]
        if not later:
            for reading in own[:1]:
                case.complain(piece, "order", "this comes too late, or for a second time")
                case.take(piece, reading)
            continue
        place, reading = _best(case, later)
        missed = [p for p in range(at, place) if not plot.steps[p].optional and p not in seen]
        if missed and place > 1:
            case.complain(piece, "order", "something that has to happen before this is missing")
            seen.update(missed)
        seen.add(place)
        at = max(at, place + 1) if place > 1 else at
        if seen >= {0, 1}:
            at = max(at, 2)
        case.take(piece, reading)
    left = [p for p in range(at, len(plot.steps)) if not plot.steps[p].optional]
    if [p for p in left if p not in seen]:
        case.complain(None, "end", "the story stops before its end")


def _place(reading: Reading, plot: Plot, at: int, seen: set[int]) -> int | None:
    place = _step_of(reading.predicate, plot, at)
    while place is not None and place in seen:
        place = _step_of(reading.predicate, plot, place + 1)
    return place


def _best(case: Case, later: list[tuple[int, Reading]]) -> tuple[int, Reading]:
    """The nearest step; among equals a reading that agrees with what is held."""

    def clashes(reading: Reading) -> int:
        held, needs = case.held, {**reading.predicate.needs}
        for name in reading.predicate.sets:
            needs.pop(name, None)
        wrong = sum(1 for name, allowed in needs.items() if not held.get(name, allowed) & allowed)
        return wrong + sum(
            1
            for slot, items in reading.found
            if not slot.relation and slot.role in held and not held[slot.role] & items
        )

    return min(later, key=lambda pair: (pair[0], clashes(pair[1])))


def _judge_portrait(case: Case, pieces: list[Piece]) -> None:
    """An opening first, then everything at most once, a last line last."""
    seen: set[str] = set()
    for number, piece in enumerate(pieces):
        own = _own(case, piece)
        if not own:
            continue
        fresh = [r for r in own if r.predicate.name not in seen] or own
        name = fresh[0].predicate.name
        if name in seen:
            case.complain(piece, "order", "this was said before")
        if (name == "first") != (number == 0):
            case.complain(piece, "order", "a portrait begins with its opening, and only there")
        if name == "last" and number != len(pieces) - 1:
            case.complain(piece, "order", "the last line comes last")
        seen.add(name)
        case.take(piece, fresh[0])
    if len(seen - {"first", "last"}) < 3:
        case.complain(None, "end", "the portrait says too little")


def logical_form(case: Case) -> tuple[object, ...]:
    """What the text says, in the shape of `Plan.key()`, where it is certain."""
    roles = {
        role: next(iter(items)).id
        for role, items in case.held.items()
        if len(items) == 1 and role not in STATE
    }
    return (case.plot.name, tuple(sorted(roles.items())), tuple(case.order))


def check(text: str, world: World, language: str) -> Verdict:
    """Reads a story or portrait and judges it; `ok` means that no problem was found."""
    pieces = reader(language).read(text.strip())
    plot = guess_plot(pieces)
    if plot is None:
        sentence = text.strip()[:200]
        reason = "nothing in this text is a sentence of a village story"
        return Verdict(False, (Problem(sentence, "unreadable", reason),))
    case = Case(text.strip(), world, language, plot)
    case.start()
    (_judge_portrait if plot.name in portrait_plots() else _judge_story)(case, pieces)
    case.finish()
    facts = tuple(dict.fromkeys(case.facts))
    return Verdict(not case.problems, tuple(case.problems), plot.name, logical_form(case), facts)


def mentions(text: str, language: str) -> Iterator[tuple[Item, str, Item]]:
    """Every (person, relation, value) that a text states next to a name, true or not."""
    for piece in reader(language).read(text.strip()):
        for reading in piece.readings[:1]:
            named: Mapping[str, frozenset[Item]] = {
                slot.role: items
                for slot, items in reading.found
                if not slot.relation and not slot.form and len(items) == 1
            }
            told = set()
            for slot, items in reading.found:
                key = (slot.role, slot.relation)
                if slot.relation and slot.role in named and len(items) == 1 and key not in told:
                    told.add(key)
                    yield next(iter(named[slot.role])), slot.relation, next(iter(items))


__all__ = ["Problem", "Verdict", "check", "lexicon", "mentions"]
