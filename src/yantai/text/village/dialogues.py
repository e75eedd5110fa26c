"""Conversations with the storyteller.

Knows the kinds of talk (greetings, facts, open questions, stories, translations, summaries, who
the storyteller is, people who do not live here) and strings them into chat rows. The wordings are
data (`data/dialogues.toml`). Knows nothing of corpora; stories are handed in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from yantai.text.village.dice import Dice
from yantai.text.village.lexicon import Item, read_table
from yantai.text.village.questions import Question, ask_fact, question_wordings
from yantai.text.village.story import Message, Story
from yantai.text.village.world import RELATIONS, Fact, World

Turns = list[Message]
KINDS: Mapping[str, int] = {
    "fact": 6,
    "open": 3,
    "story": 4,
    "translation": 2,
    "summary": 2,
    "unknown": 2,
    "identity": 1,
}
"""The kinds of talk, as often as they come up."""


@cache
def _lines(kind: str, language: str, who: str, heldout: bool) -> tuple[str, ...]:
    lines = read_table("dialogues")[kind][language][who].strip().splitlines()
    chosen = tuple(line.lstrip("~ ") for line in lines if line.startswith("~") == heldout)
    return chosen or tuple(line for line in lines if not line.startswith("~"))


def exchange(user: str, assistant: str) -> Turns:
    """One question and its reply as messages."""
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


@dataclass(frozen=True)
class Talk:
    """Makes chat rows for a world in one language; `story` gives the story of a number."""

    world: World
    language: str
    heldout: bool
    story: Callable[[int], Story]

    def line(self, kind: str, who: str, dice: Dice, **filled: str) -> str:
        """A line of the table with its gaps filled."""
        text = dice.pick(_lines(kind, self.language, who, self.heldout and who == "user"))
        for name, value in filled.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def set_piece(self, kind: str, dice: Dice) -> Turns:
        """A greeting, thanks or an introduction."""
        return exchange(self.line(kind, "user", dice), self.line(kind, "assistant", dice))

    def fact(self, dice: Dice, subject: Item | None = None) -> Turns:
        """A closed-book question about someone of the village."""
        person = subject or dice.pick(self.world.items)
        relation = dice.pick(RELATIONS)
        fact = Fact(person, relation, self.world.value(person, relation))
        side = "heldout" if self.heldout else "train"
        how = dice.pick(question_wordings(relation, self.language, side))
        question = ask_fact(fact, self.world, self.language, how, dice)
        return exchange(question.prompt, question.answer)

    def unknown(self, dice: Dice) -> Turns:
        """A question about someone who does not live here."""
        person = dice.pick(self.world.outsiders())
        relation = dice.pick(RELATIONS[:7])
        side = "heldout" if self.heldout else "train"
        how = dice.pick(question_wordings(relation, self.language, side))
        name = person.core(self.language)
        prompt = "".join(part if isinstance(part, str) else name for part in how.parts)
        return exchange(prompt, self.line("unknown", "assistant", dice, hero=name))

    def ask_for(self, story: Story, dice: Dice) -> Turns:
        """A request for this story, and the story.

        Whoever asks may name the companion too, and must where no rule says who it will be: a
        reply that nobody can foresee teaches a model to guess.
        """
        kind = "story_of_two" if self._names_companion(story, dice) else "story"
        title = story.plan.plot.title[self.language]
        return exchange(self.line(kind, "user", dice, title=title, **story.cast), story.text)

    def _names_companion(self, story: Story, dice: Dice) -> bool:
        hero, pal = story.plan.roles["hero"], story.plan.roles.get("pal")
        if pal is None:
            return False
        unforeseen = self.world.company == "friends" and pal is not self.world.value(hero, "friend")
        return unforeseen or dice.chance(0.5)

    def about(self, story: Story, dice: Dice, question: Question | None = None) -> Turns:
        """A question about the story just told."""
        asked = question or dice.pick(story.questions)
        user = self.line("about_story", "user", dice, question=asked.prompt)
        return exchange(user, asked.answer)

    def open(self, story: Story, dice: Dice) -> Turns:
        """A question with its passage."""
        asked = dice.pick(story.questions)
        user = self.line("open", "user", dice, text=story.text, question=asked.prompt)
        return exchange(user, asked.answer)

    def summary(self, story: Story, dice: Dice) -> Turns:
        """A request to sum up."""
        return exchange(self.line("summary", "user", dice, text=story.text), story.summary)

    def translation(self, story: Story, dice: Dice) -> Turns:
        """One sentence of the story, to be put into the other language."""
        pieces = story.sentences
        place = dice.below(len(pieces))
        other = "zh" if self.language == "en" else "en"
        user = self.line("translation", "user", dice, sentence=pieces[place])
        return exchange(user, story.in_language(other).sentences[place])

    def of_story(self, story: Story) -> Turns:
        """The dialogue that belongs to a story: it is asked for, told, perhaps talked about."""
        dice = Dice("dialogue", story.index, self.language)
        turns = self.ask_for(story, dice)
        questions = dice.shuffled(story.questions)
        for question in questions[: dice.below(3)]:
            turns += self.about(story, dice, question)
        return turns

    def middle(self, kind: str, number: int, dice: Dice) -> Turns:
        """The turns that give a row its kind."""
        if kind == "fact":
            person, turns = dice.pick(self.world.items), []
            for _ in range(1 + dice.below(3)):
                turns += self.fact(dice, person if dice.chance(0.5) else None)
            return turns
        if kind == "identity":
            return self.set_piece("identity", dice)
        if kind == "unknown":
            return self.unknown(dice)
        story = self.story(number)
        if kind == "story":
            return self.of_story(story)
        return {"open": self.open, "summary": self.summary, "translation": self.translation}[kind](
            story, dice
        )

    def row(self, number: int, kind: str) -> dict[str, object]:
        """Chat row `number`: perhaps a greeting, the middle, perhaps thanks."""
        dice = Dice("row", self.world.seed, self.world.part, number, self.language, kind)
        turns = self.set_piece("greeting", dice) if dice.chance(0.2) else []
        turns += self.middle(kind, number, dice)
        if dice.chance(0.15):
            turns += self.set_piece("thanks", dice)
        return {"messages": turns, "language": self.language, "kind": kind}
