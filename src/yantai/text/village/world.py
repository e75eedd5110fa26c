"""The world: who lives in the village and what is true of them.

Knows people and facts, drawn from a seed. Knows no sentence; a fact is a triple of items, and the
words for it are elsewhere.
"""

from dataclasses import dataclass
from typing import Literal

from yantai.text.village.dice import Dice
from yantai.text.village.lexicon import Item, lexicon

Company = Literal["anyone", "friends"]
RELATIONS = ("trade", "home", "pet", "food", "fear", "treasure", "friend", "sibling")
VALUE_KIND = {
    "trade": "trade",
    "home": "place",
    "pet": "pet",
    "food": "food",
    "fear": "fear",
    "treasure": "treasure",
    "friend": "person",
    "sibling": "person",
    "kin": "kin",
    "age": "age",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One true thing: the subject's `relation` is `value`."""

    subject: Item
    relation: str
    value: Item

    def key(self) -> tuple[str, str, str]:
        """The fact as three plain strings."""
        return (self.subject.id, self.relation, self.value.id)


@dataclass(frozen=True, slots=True)
class Person:
    """A villager: the name pair (as an item of the pool), gender and age in years."""

    item: Item
    gender: str
    years: int

    @property
    def name(self) -> tuple[str, str]:
        """The English and the Chinese name."""
        return (self.item.en[""], self.item.zh[""])

    @property
    def age_group(self) -> str:
        """young, grown or old."""
        return "young" if self.years < 30 else "grown" if self.years < 60 else "old"


class World:
    """A village drawn from a seed: `people` villagers with eight facts each.

    Trades, homes, pets, foods, fears and treasures are drawn without repeats while the tables
    last, friends and siblings are mutual pairs. `part` 0 is the village, part 1 the strangers:
    other names from the same shuffled pool, freshly drawn facts. `company` says whom a hero's
    stories bring in: anyone alike, or in every other story the best friend.
    """

    def __init__(
        self, seed: int = 7, people: int = 24, part: int = 0, company: Company = "anyone"
    ) -> None:
        pool = len(lexicon()["person"])
        if people < 4 or people % 2 or people * (part + 1) > pool:
            raise ValueError(
                f"people must be even, at least 4 and at most {pool // (part + 1)}, got {people}"
            )
        self.seed, self.size, self.part, self.company = seed, people, part, company
        self.circles = (people - 1,) if company == "anyone" else (1, people - 2)
        dice = Dice("world", seed, part, people)
        self.people = self._draw_people(dice)
        self.by_item = {person.item: person for person in self.people}
        self.table: dict[Item, dict[str, Item]] = {person.item: {} for person in self.people}
        self._draw_things(dice)
        self._draw_bonds(dice)
        self.items = tuple(person.item for person in self.people)
        self.facts = tuple(
            Fact(item, relation, self.table[item][relation])
            for item in self.items
            for relation in RELATIONS
        )

    def _draw_people(self, dice: Dice) -> tuple[Person, ...]:
        """Half women, half men, from a slice of the pool that no other part shares."""
        chosen: list[Item] = []
        half = self.size // 2
        for gender in ("female", "male"):
            items = [item for item in lexicon()["person"] if item.group == gender]
            order = Dice("names", self.seed, gender).shuffled(items)
            chosen += order[self.part * half : (self.part + 1) * half]
        chosen = dice.shuffled(chosen)
        years = dice.shuffled([18 + (62 * place) // self.size for place in range(self.size)])
        return tuple(Person(item, item.group, age) for item, age in zip(chosen, years, strict=True))

    def _draw_things(self, dice: Dice) -> None:
        for relation in RELATIONS[:6]:
            values: list[Item] = []
            while len(values) < self.size:
                values += dice.shuffled(lexicon()[VALUE_KIND[relation]])
            for person, value in zip(self.people, values, strict=False):
                self.table[person.item][relation] = value

    def _draw_bonds(self, dice: Dice) -> None:
        """Around a ring: neighbours are by turns siblings and friends."""
        ring = dice.shuffled(self.people)
        for place, person in enumerate(ring):
            row, other = self.table[person.item], ring[place ^ 1]
            row["sibling"] = other.item
            row["friend"] = ring[(place + (1 if place % 2 else -1)) % self.size].item
            side = "older" if other.years > person.years else "younger"
            kin = f"{side}_{'sister' if other.gender == 'female' else 'brother'}"
            row["kin"] = lexicon().item("kin", kin)
            row["age"] = lexicon().item("age", person.age_group)

    def value(self, subject: Item, relation: str) -> Item:
        """What `relation` is for this person (also "kin" and "age")."""
        return self.table[subject][relation]

    def companions(self, hero: Item, turn: int) -> tuple[Item, ...]:
        """Who may stand beside this hero, `circles[turn]` people in a fixed order."""
        others = tuple(item for item in self.items if item is not hero)
        if self.company == "anyone":
            return others
        friend = self.value(hero, "friend")
        return (friend,) if turn == 0 else tuple(item for item in others if item is not friend)

    def knows(self, person: Item) -> bool:
        """Whether this person of the pool lives in this world."""
        return person in self.table

    def strangers(self) -> "World":
        """The sister world: other people, other facts, the same lexicon."""
        return World(self.seed, self.size, part=1, company=self.company)

    def outsiders(self) -> tuple[Item, ...]:
        """People of the pool who live neither here nor among the strangers."""
        half, found = self.size // 2, []
        for gender in ("female", "male"):
            items = [item for item in lexicon()["person"] if item.group == gender]
            found += Dice("names", self.seed, gender).shuffled(items)[2 * half :]
        return tuple(found)
