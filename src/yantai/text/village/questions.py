"""Questions with answers that can be graded.

Knows how to ask for a fact of the world (closed book) or about a story (open book) and how to
grade a reply. The wordings are data (`data/questions.toml`). Knows no corpus and no chat.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from yantai.text.village.dice import Dice
from yantai.text.village.grammar import PEOPLE
from yantai.text.village.lexicon import Item, lexicon, read_table
from yantai.text.village.plan import Plan
from yantai.text.village.template import Wording, Writer, parse_lines
from yantai.text.village.world import RELATIONS, VALUE_KIND, Fact, World


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer, and what is needed to grade a reply.

    `accept` are the names of the right value, `choices` those of all plausible values (so chance
    is 1/len(choices)); `subject` is a name the reply may repeat freely.
    """

    prompt: str
    answer: str
    accept: tuple[str, ...]
    choices: tuple[str, ...]
    relation: str
    language: str
    passage: str | None = None
    subject: str = ""
    fact: tuple[str, str, str] | None = None

    @property
    def full_prompt(self) -> str:
        """The passage, if there is one, and then the question."""
        return f"{self.passage}\n\n{self.prompt}" if self.passage else self.prompt


def plain(text: str, language: str) -> str:
    """Lower case; English words between single spaces, Chinese without any space or mark."""
    words = re.findall(r"\w+", text.casefold().replace("'s", "").replace("’s", ""))
    return f" {' '.join(words)} " if language == "en" else "".join(words)


@cache
def _needle(text: str, language: str) -> str:
    return plain(text, language)


def named(reply: str, names: Sequence[str], language: str) -> set[str]:
    """Which of the names the reply contains; a name inside a longer found name does not count."""
    text = plain(reply, language)
    spans: list[tuple[int, int, str]] = []
    for name in dict.fromkeys(names):
        needle, at = _needle(name, language), -1
        while needle.strip() and (at := text.find(needle, at + 1)) >= 0:
            spans.append((at, at + len(needle), name))
    return {
        name
        for start, end, name in spans
        if not any(s <= start and end <= e and e - s > end - start for s, e, _ in spans)
    }


def grade(reply: str, question: Question) -> bool:
    """Whether the reply names the right value and no other choice.

    Case, spaces and punctuation do not matter. `grade("A baker, I think.", q)` is True when the
    answer to q is "baker".
    """
    names = (*question.accept, *question.choices)
    found = named(reply, names, question.language)
    allowed = {_needle(name, question.language) for name in (*question.accept, question.subject)}
    right = {_needle(name, question.language) for name in question.accept}
    plain_found = {_needle(name, question.language) for name in found}
    return bool(plain_found & right) and plain_found <= allowed


@cache
def _table() -> dict[str, dict[str, dict[str, tuple[Wording, ...]]]]:
    found = {}
    for name, row in read_table("questions").items():
        found[name] = {
            language: {part: parse_lines(lines) for part, lines in parts.items()}
            for language, parts in row.items()
        }
    return found


def question_wordings(relation: str, language: str, wording: str) -> tuple[Wording, ...]:
    """The ways to ask for a relation: the "train" ones or the "heldout" ones."""
    if wording not in ("train", "heldout"):
        raise ValueError(f'wording must be "train" or "heldout", got {wording!r}')
    asked = _table()[relation][language]["ask"]
    return tuple(w for w in asked if w.heldout == (wording == "heldout"))


def short_name(item: Item, language: str) -> tuple[str, ...]:
    """The names by which a reply may call a value: "ginger cat", or just "cat"."""
    names = [item.core(language)]
    if item.kind == "pet":
        names.append(item.surface(language, "head"))
    if item.kind == "place":
        names.append(item.core(language).rpartition(" ")[2] if language == "en" else names[0])
    return tuple(dict.fromkeys(names))


@cache
def _kind_choices(kind: str, language: str) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(n for item in lexicon()[kind] for n in short_name(item, language)[:1])
    )


def person_choices(world: World, language: str) -> tuple[str, ...]:
    """The names of everyone in the world."""
    return tuple(item.core(language) for item in world.items)


def ask_fact(fact: Fact, world: World, language: str, wording: Wording, dice: Dice) -> Question:
    """The closed-book question for a fact in this wording."""
    writer, binding = Writer(world, language), {"hero": fact.subject}
    answers = _table()[fact.relation][language]["answer"]
    kind = VALUE_KIND[fact.relation]
    choices = _kind_choices(kind, language)
    if kind == "person":
        choices = tuple(
            n for n in person_choices(world, language) if n != fact.subject.core(language)
        )
    return Question(
        prompt=writer.fill(wording, binding, dice),
        answer=writer.fill(dice.pick(answers), binding, dice),
        accept=short_name(fact.value, language),
        choices=choices,
        relation=fact.relation,
        language=language,
        subject=fact.subject.core(language),
        fact=fact.key(),
    )


def closed_questions(world: World, language: str, wording: str) -> Iterator[Question]:
    """Every fact of the world in every wording of that side, relation by relation."""
    for relation in RELATIONS:
        for number, how in enumerate(question_wordings(relation, language, wording)):
            for fact in world.facts:
                if fact.relation == relation:
                    dice = Dice("closed", number, *fact.key(), language, wording)
                    yield ask_fact(fact, world, language, how, dice)


def told_facts(facts: Sequence[Fact], world: World, language: str, text: str) -> Iterator[Question]:
    """The facts which a portrait tells, asked with the portrait as passage."""
    for fact in facts:
        dice = Dice("told", language, *fact.key())
        how = dice.pick(question_wordings(fact.relation, language, "train"))
        yield replace(ask_fact(fact, world, language, how, dice), passage=text)


def generic_open(
    plan: Plan, world: World, language: str, text: str, heldout: bool = False
) -> Iterator[Question]:
    """Who it is about, what the weather was, how it ended for the hero, who else was there."""
    first, last = plan.events[0][1], plan.events[-1][1]
    asked = [("hero", last["hero"], last), ("weather", first["weather"], first)]
    asked.append(("mood", last["mood"], last))
    if "pal" in plan.roles:
        asked.append(("pal", last["pal"], last))
    for name, value, state in asked:
        writer, dice = Writer(world, language), Dice("open", plan.index, name)
        table = _table()[f"open_{name}"][language]
        subject = "" if name == "hero" else last["hero"].core(language)
        if name in PEOPLE:
            choices = tuple(n for n in person_choices(world, language) if n != subject)
        else:
            choices = _kind_choices(name, language)
        wordings = [wording for wording in table["ask"] if wording.heldout == heldout]
        yield Question(
            prompt=writer.fill(dice.pick(wordings), state, dice),
            answer=writer.fill(dice.pick(table["answer"]), state, dice),
            accept=(value.core(language),),
            choices=choices,
            relation=f"story.{name}",
            language=language,
            passage=text,
            subject=subject,
        )
