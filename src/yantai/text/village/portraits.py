"""Portraits: short descriptions of a person or of a place, made of facts.

Knows the two descriptive plots (`data/portraits.toml`): an opening, then their predicates in any
order, then a last line. Two portraits differ in person or place or in the order of their parts,
both of which can be seen in the text.
"""

from collections.abc import Mapping
from functools import cache

from yantai.text.village.dice import Dice, mix, permute
from yantai.text.village.grammar import Plot, Predicate, Step, read_predicates
from yantai.text.village.lexicon import LANGUAGES, Item, lexicon, read_table
from yantai.text.village.plan import Event, Plan
from yantai.text.village.template import parse_lines
from yantai.text.village.world import World

ORDERED = 6
"""A person's portrait tells this many of the eight facts, a place's this many details."""


@cache
def portrait_plots() -> Mapping[str, Plot]:
    """The plots "portrait" (of a person) and "place"."""
    found = {}
    for name, table in read_table("portraits").items():
        own = read_predicates(table["beat"], name)
        middle = tuple(p for key, p in own.items() if key not in ("first", "last"))
        found[name] = Plot(
            name=name,
            title=table["title"],
            domains={"spot": lexicon()["place"]} if name == "place" else {},
            skies=(),
            steps=(Step((own["first"],), False, False), Step(middle, False, True)),
            summary={language: parse_lines(table["summary"][language]) for language in LANGUAGES},
            asks=(),
            predicates=own,
            first_mood=lexicon().item("mood", "calm"),
        )
    return found


def orders(plot: Plot) -> int:
    """In how many ways the parts of a portrait can be told."""
    total, count = 1, len(plot.steps[1].options)
    for taken in range(ORDERED):
        total *= count - taken
    return total


def arrangement(rank: int, options: tuple[Predicate, ...]) -> list[Predicate]:
    """The rank-th way to put ORDERED of the options in a row."""
    left, row = list(options), []
    for _ in range(ORDERED):
        rank, place = divmod(rank, len(left))
        row.append(left.pop(place))
    return row


def portrait_capacity(people: int) -> int:
    """How many different portraits a world of this size has."""
    return people * min(orders(plot) for plot in portrait_plots().values())


def make_portrait(index: int, world: World) -> Plan:
    """Portrait number `index`: three of a person, then one of a place and who lives there."""
    if not 0 <= index < portrait_capacity(world.size):
        raise IndexError(
            f"portrait {index}: {world.size} people give {portrait_capacity(world.size)} "
            "different portraits; take more people"
        )
    turn, place = divmod(index, 4)
    name, number = ("place", turn) if place == 3 else ("portrait", 3 * turn + place)
    plot = portrait_plots()[name]
    rank, who = divmod(number, world.size)
    hero = world.items[who]
    rank = permute(rank, orders(plot), mix("portrait", world.seed, world.part, who, name))
    roles: dict[str, Item] = {"hero": hero}
    if name == "place":
        roles["spot"] = world.value(hero, "home")
    middle = arrangement(rank, plot.steps[1].options)
    state = {**roles, "mood": plot.first_mood}
    row = [plot.predicates["first"], *middle]
    if Dice("last", world.seed, index).chance(0.5):
        row.append(plot.predicates["last"])
    events: list[Event] = [(predicate, state) for predicate in row]
    return Plan(plot, index, roles, tuple(events))
