"""From a number to a logical story.

Knows how an index becomes a plot, its roles and its row of predicates; knows no wording and no
language: the same plan is told in either. Why no two plans are alike: the index is taken apart
into (plot, turn, rest). The turn decides who may be the companion, and `rest` goes through a
permutation of range(size of the plot), whose image is read as digits of mixed radix: hero, sky,
companion, the other roles, the alternatives taken and the optional beats kept. All these steps are
bijections, and every digit can be seen in the text (the reader reads it back), so different indices
give different texts, in either language. What the dice add (which shared remarks are made, and the
wording) only makes them differ more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from yantai.text.village.dice import Dice, mix, permute
from yantai.text.village.grammar import Plot, Predicate, Step, plots
from yantai.text.village.lexicon import Item
from yantai.text.village.world import World

SHARED_SHARE = 0.15
"""How often an optional shared remark (weather, season, feeling, a fact) is made."""

Event = tuple[Predicate, Mapping[str, Item]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A logical story: a plot, who stands in its roles, and what happens with the state then."""

    plot: Plot
    index: int
    roles: Mapping[str, Item]
    events: tuple[Event, ...]

    def key(self) -> tuple[object, ...]:
        """The logical form as plain strings, the same for every telling of the story."""
        roles = sorted((role, item.id) for role, item in self.roles.items())
        return (self.plot.name, tuple(roles), tuple(p.name for p, _ in self.events))


@dataclass(frozen=True, slots=True)
class Digits:
    """What there is to choose in a plot for a world of a given size."""

    names: tuple[str, ...]
    radices: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many plans there are."""
        product = 1
        for radix in self.radices:
            product *= radix
        return product


@cache
def digits_of(plot: Plot, people: int, circle: int) -> Digits:
    """The digits of a plot where `circle` people may be a hero's companion.

    A companion is not the hero, a place not the hero's home nor taken.
    """
    names, radices, places = ["hero", "sky", "swap"], [people, len(plot.skies), 2], 1
    for role, domain in plot.domains.items():
        names.append(role)
        kind = domain[0].kind
        radices.append(circle if kind == "person" else len(domain))
        if kind == "place":
            radices[-1] -= places
            places += 1
    for place, step in enumerate(plot.steps):
        if step.optional and not step.is_group:
            names.append(f"keep:{place}")
            radices.append(2)
        if not step.is_group and len(step.options) > 1:
            names.append(f"take:{place}")
            radices.append(len(step.options))
    return Digits(tuple(names), tuple(radices))


def turns_of(plot: Plot, circles: tuple[int, ...]) -> tuple[int, ...]:
    """The circles that a plot's stories take in turn; one where nobody stands beside the hero."""
    has_company = any(domain[0].kind == "person" for domain in plot.domains.values())
    return circles if has_company else circles[:1]


@cache
def capacity(people: int, circles: tuple[int, ...], only: tuple[str, ...] = ()) -> int:
    """How many different plans a world of this size has, in whole rounds of all plots."""
    sizes = []
    for name, plot in plots().items():
        if not only or name in only:
            turns = turns_of(plot, circles)
            smallest = min(digits_of(plot, people, circle).size for circle in turns)
            sizes.append(len(turns) * smallest)
    return len(sizes) * min(sizes)


def unrank(rank: int, digits: Digits) -> dict[str, int]:
    """The digits of `rank` in mixed radix."""
    values = {}
    for name, radix in zip(digits.names, digits.radices, strict=True):
        rank, values[name] = divmod(rank, radix)
    return values


def cast(plot: Plot, world: World, digit: Mapping[str, int], turn: int) -> dict[str, Item]:
    """Who and what stands in each role."""
    hero = world.items[digit["hero"]]
    roles: dict[str, Item] = {"hero": hero}
    taken = [world.value(hero, "home")]
    for role, domain in plot.domains.items():
        kind = domain[0].kind
        if kind == "person":
            roles[role] = world.companions(hero, turn)[digit[role]]
        elif kind == "place":
            free = [item for item in domain if item not in taken]
            roles[role] = free[digit[role]]
            taken.append(roles[role])
        else:
            roles[role] = domain[digit[role]]
    return roles


def _choose(
    step: Step, take: int, state: Mapping[str, Item], dice: Dice, told: set[str]
) -> Predicate:
    """The predicate of a step; a shared group prefers topics which were not told yet."""
    if not step.is_group:
        return step.options[take]
    fitting = [p for p in step.options if p.fits(state)]
    fresh = [p for p in fitting if p.topic not in told]
    return dice.pick(fresh or fitting)


def make_plan(index: int, world: World, only: tuple[str, ...] = ()) -> Plan:
    """The logical story with this number; raises IndexError when the village runs out of them."""
    names = [name for name in plots() if not only or name in only]
    there_are = capacity(world.size, world.circles, only)
    if not 0 <= index < there_are:
        raise IndexError(
            f"story {index}: {len(names)} plots and {world.size} people give {there_are} different "
            "stories; take more people or plots"
        )
    block, place = divmod(index, len(names))
    first = Dice("turn", world.seed, world.part, block).below(len(names))
    plot = plots()[names[(place + first) % len(names)]]
    circles = turns_of(plot, world.circles)
    rank, turn = divmod(block, len(circles))
    digits = digits_of(plot, world.size, circles[turn])
    seed = mix("plan", world.seed, world.part, plot.name)
    digit = unrank(permute(rank, digits.size, seed), digits)
    roles = cast(plot, world, digit, turn)
    dice = Dice("events", world.seed, world.part, index)
    return Plan(plot, index, roles, tuple(_events(plot, roles, digit, dice)))


def _kept(step: Step, place: int, digit: Mapping[str, int], dice: Dice) -> bool:
    """Whether an optional step is taken: a plot's own one by its digit, a shared one by dice."""
    return dice.chance(SHARED_SHARE) if step.is_group else bool(digit[f"keep:{place}"])


def _events(
    plot: Plot, roles: Mapping[str, Item], digit: Mapping[str, int], dice: Dice
) -> list[Event]:
    """Walks the steps, carrying the state along."""
    state = dict(roles)
    state["weather"], state["season"], state["time"] = plot.skies[digit["sky"]]
    state["mood"] = plot.first_mood
    order = list(range(len(plot.steps)))
    if digit["swap"]:
        order[0], order[1] = 1, 0
    events: list[Event] = []
    told: set[str] = set()
    for place in order:
        step = plot.steps[place]
        if step.optional and not _kept(step, place, digit, dice):
            continue
        predicate = _choose(step, digit.get(f"take:{place}", 0), state, dice, told)
        told.add(predicate.topic)
        if predicate.sets:
            state = {**state, **predicate.sets}
        events.append((predicate, state))
    return events
