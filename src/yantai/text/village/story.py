"""A plan told in a language: text, and on demand the truth about it.

Knows how to turn a plan into sentences and into its truth (facts, spans, questions, summary,
sentiment, the other language). Knows nothing of corpora, splits or chat.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from yantai.text.village.dice import Dice
from yantai.text.village.grammar import Ask
from yantai.text.village.lexicon import Item, read_table
from yantai.text.village.plan import Plan
from yantai.text.village.questions import Question, generic_open, person_choices, told_facts
from yantai.text.village.template import Span, Writer, parse_wording
from yantai.text.village.world import Fact, World

JOIN = {"en": " ", "zh": ""}
SENTIMENTS = ("positive", "neutral", "negative")
Message = dict[str, str]


@dataclass(frozen=True)
class Story:
    """One document with its exact truth, worked out when asked for.

    `kind` is "story" or "portrait". The text never contains a line break.
    """

    id: str
    index: int
    split: str
    kind: str
    language: str
    plan: Plan
    world: World
    talk: Callable[["Story"], list[Message]]

    @cached_property
    def text(self) -> str:
        """The document."""
        return tell(self.plan, self.world, self.language, self.split)

    @property
    def plot(self) -> str:
        """The name of its plot grammar."""
        return self.plan.plot.name

    @property
    def cast(self) -> dict[str, str]:
        """The names of the people in it, by role: hero, and pal where there is one."""
        roles = self.plan.roles
        found = {role: roles[role] for role in ("hero", "pal") if role in roles}
        return {role: item.core(self.language) for role, item in found.items()}

    @property
    def heading(self) -> str:
        """A line to stand above it: who is in it, and what happens."""
        line = read_table("dialogues")["heading"][self.language][
            "two" if "pal" in self.cast else "one"
        ]
        return line.format(**self.cast, title=self.plan.plot.title[self.language])

    @property
    def sentences(self) -> tuple[str, ...]:
        """The pieces of the text, one a predicate, in order."""
        return tuple(tell_pieces(self.plan, self.world, self.language, self.split))

    @cached_property
    def _truth(self) -> tuple[tuple[Span, ...], tuple[Fact, ...]]:
        text, spans, facts = tell_with_truth(self.plan, self.world, self.language, self.split)
        assert text == self.text, "text and truth are told apart"
        return tuple(spans), tuple(dict.fromkeys(facts))

    @property
    def entities(self) -> tuple[Span, ...]:
        """Every name in the text as (start, end, label, item id)."""
        return self._truth[0]

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts of the world which the text states, in order."""
        return self._truth[1]

    @property
    def mood(self) -> Item:
        """How the hero feels at the end."""
        return self.plan.events[-1][1]["mood"]

    @property
    def sentiment(self) -> str:
        """positive, neutral or negative: that of the hero's last feeling."""
        return self.mood.group

    @cached_property
    def summary(self) -> str:
        """One sentence that tells the story."""
        wordings = self.plan.plot.summary[self.language]
        dice = Dice("summary", self.plan.index, self.language)
        state = self.plan.events[-1][1]
        return Writer(self.world, self.language).fill(dice.pick(wordings), state, dice)

    @cached_property
    def parallel(self) -> str:
        """The same story in the other language."""
        return self.in_language("zh" if self.language == "en" else "en").text

    def in_language(self, language: str) -> "Story":
        """The same logical story told in `language`."""
        key = f"{self.id.rpartition('-')[0]}-{language}"
        return Story(
            key, self.index, self.split, self.kind, language, self.plan, self.world, self.talk
        )

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """Open questions which the text answers."""
        if self.kind == "portrait":
            mine = [fact for fact in self.facts if fact.subject is self.plan.roles["hero"]]
            return tuple(told_facts(mine, self.world, self.language, self.text))
        state, heldout = self.plan.events[-1][1], self.split == "heldout_wording"
        asked = generic_open(self.plan, self.world, self.language, self.text, heldout)
        own = (self._ask(ask, state) for ask in self.plan.plot.asks)
        return tuple(asked) + tuple(own)

    def _ask(self, ask: Ask, state: Mapping[str, Item]) -> Question:
        writer, dice = Writer(self.world, self.language), Dice("ask", self.plan.index)
        lines = ask.question[self.language].strip().splitlines()
        prompt = writer.fill(parse_wording(dice.pick(lines)), state, dice)
        answer = writer.fill(parse_wording(ask.answer[self.language]), state, dice)
        value = state[ask.role]
        if value.kind == "person":
            choices = person_choices(self.world, self.language)
        else:
            domain = self.plan.plot.domain(ask.role)
            choices = tuple(dict.fromkeys(item.core(self.language) for item in domain))
        return Question(
            prompt=prompt,
            answer=answer,
            accept=(value.core(self.language),),
            choices=choices,
            relation=f"{self.plot}.{ask.role}",
            language=self.language,
            passage=self.text,
        )

    @property
    def dialogue(self) -> list[Message]:
        """Two to six messages that ask for the story or talk about it."""
        return self.talk(self)


def _dice(plan: Plan, world: World, language: str, split: str) -> Dice:
    return Dice("words", world.seed, world.part, plan.plot.name, plan.index, language, split)


def tell_pieces(plan: Plan, world: World, language: str, split: str) -> list[str]:
    """The story's pieces in order, one for each event."""
    writer, dice = Writer(world, language), _dice(plan, world, language, split)
    heldout = split == "heldout_wording"
    return [
        writer.fill(dice.pick(predicate.pool(language, heldout)), state, dice)
        for predicate, state in plan.events
    ]


def tell(plan: Plan, world: World, language: str, split: str) -> str:
    """The story's text; the wording is chosen by dice that depend on the plan and language."""
    return JOIN[language].join(tell_pieces(plan, world, language, split))


def tell_with_truth(
    plan: Plan, world: World, language: str, split: str
) -> tuple[str, list[Span], list[Fact]]:
    """The same text with entity spans and stated facts (the same dice, so the same words)."""
    writer, dice = Writer(world, language), _dice(plan, world, language, split)
    heldout, text = split == "heldout_wording", ""
    spans: list[Span] = []
    facts: list[Fact] = []
    for predicate, state in plan.events:
        if text:
            text += JOIN[language]
        wording = dice.pick(predicate.pool(language, heldout))
        piece, new_spans, new_facts = writer.fill_with_truth(wording, state, dice, len(text))
        text += piece
        spans += new_spans
        facts += new_facts
    return text, spans, facts
