"""The checker is no rubber stamp: true stories are spoiled in many ways, and it has to notice."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.text.village import Village, check
from yantai.text.village.dice import Dice
from yantai.text.village.grammar import groups
from yantai.text.village.lexicon import lexicon
from yantai.text.village.story import JOIN
from yantai.text.village.template import Writer

LANGUAGES = ("en", "zh")
COUNT = 120


@pytest.fixture(scope="module")
def village():
    return Village()


def swap_one(text, old, new, dice):
    """Replaces one of the places where `old` stands."""
    places = [m.start() for m in re.finditer(re.escape(old), text)]
    if not places or old == new:
        return text
    at = dice.pick(places)
    return text[:at] + new + text[at + len(old) :]


def other_name(story, dice):
    names = [
        p.core(story.language) for p in story.world.items if p not in story.plan.roles.values()
    ]
    return swap_one(
        story.text, story.plan.roles["hero"].core(story.language), dice.pick(names), dice
    )


def stranger(story, dice):
    name = Village().world.strangers().items[0].core(story.language)
    return swap_one(story.text, story.plan.roles["hero"].core(story.language), name, dice)


def of_kind(label, kind):
    def mutate(story, dice):
        spans = [s for s in story.entities if s.label == label]
        if not spans:
            return story.text
        start, end, _, key = dice.pick(spans)
        others = [item for item in lexicon()[kind] if item.id != key]
        return story.text[:start] + dice.pick(others).core(story.language) + story.text[end:]

    return mutate


def pronoun(story, dice):
    pairs = (
        [(r"\bshe\b", "he"), (r"\bhe\b", "she"), (r"\bhis\b", "her"), (r"\bShe\b", "He")]
        if story.language == "en"
        else [("她", "他"), ("他(?!们|自己)", "她")]
    )
    found = [(m, new) for old, new in pairs for m in re.finditer(old, story.text)]
    if not found:
        return story.text
    match, new = dice.pick(found)
    return story.text[: match.start()] + new + story.text[match.end() :]


def drop(story, dice):
    pieces = list(story.sentences)
    pieces.pop(dice.below(len(pieces)))
    return JOIN[story.language].join(pieces)


def drop_needed(story, dice):
    """Drops a sentence that the plot cannot do without."""
    steps = story.plan.plot.steps
    spare = {p for step in steps if step.optional for p in step.options}
    needed = {p for step in steps if not step.optional for p in step.options} - spare
    pieces = list(story.sentences)
    pieces.pop(dice.pick([i for i, (p, _) in enumerate(story.plan.events) if p in needed]))
    return JOIN[story.language].join(pieces)


def double(story, dice):
    pieces = list(story.sentences)
    at = dice.below(len(pieces))
    pieces.insert(at, pieces[at])
    return JOIN[story.language].join(pieces)


def shuffle(story, dice):
    return JOIN[story.language].join(dice.shuffled(story.sentences))


def swap_neighbours(story, dice):
    pieces = list(story.sentences)
    at = 2 + dice.below(len(pieces) - 3)
    pieces[at], pieces[at + 1] = pieces[at + 1], pieces[at]
    return JOIN[story.language].join(pieces)


def cut(story, dice):
    pieces = story.sentences
    return JOIN[story.language].join(pieces[: len(pieces) // 2])


def mix(story, dice):
    other = Village().story(story.index + 1 + dice.below(300), story.language)
    half = len(story.sentences) // 2
    return JOIN[story.language].join((*story.sentences[:half], *other.sentences[half:]))


def weather(story, dice):
    """A remark on another weather than the story's, where the story speaks of the outdoors."""
    said = [i for i, (p, _) in enumerate(story.plan.events) if p.name.startswith(("sky.", "land."))]
    now = story.plan.events[0][1]["weather"]
    other = [p for p in groups()["sky"] if now not in p.needs["weather"]]
    pieces = list(story.sentences)
    for place in said[:1]:
        wording = dice.pick(dice.pick(other).pool(story.language, False))
        pieces[place] = Writer(story.world, story.language).fill(wording, {}, dice)
    return JOIN[story.language].join(pieces)


def letters(story, dice):
    at = dice.below(len(story.text) - 1)
    return story.text[:at] + "q" + story.text[at + 1 :]


def truncated(story, dice):
    return story.text[: len(story.text) - 3 - dice.below(40)]


# the share of truly changed texts that must be caught, by kind of mutation
MUTATIONS = {
    "a name": (other_name, 0.99),
    "a stranger": (stranger, 0.99),
    "a trade": (of_kind("TRADE", "trade"), 0.97),
    "an animal": (of_kind("ANIMAL", "pet"), 0.97),
    "a food": (of_kind("FOOD", "food"), 0.97),
    "a treasure": (of_kind("OBJECT", "treasure"), 0.97),
    "a place": (of_kind("PLACE", "place"), 0.93),
    "a pronoun": (pronoun, 0.98),
    "the weather": (weather, 0.95),
    "any sentence dropped": (drop, 0.75),
    "a needed sentence dropped": (drop_needed, 0.99),
    "a sentence doubled": (double, 0.99),
    "neighbours swapped": (swap_neighbours, 0.97),
    "all shuffled": (shuffle, 0.99),
    "cut in half": (cut, 0.99),
    "two stories mixed": (mix, 0.99),
    "a letter": (letters, 0.99),
    "the end cut off": (truncated, 0.99),
}


def caught_share(village, language, mutate, count=COUNT):
    changed = caught = 0
    for story in village.stories(count, language):
        text = mutate(story, Dice("mutation", story.index))
        if text != story.text:
            changed += 1
            caught += not check(text, village.world, language).ok
    return caught / changed if changed else 0.0, changed


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_caught(village, language, name):
    mutate, wanted = MUTATIONS[name]
    count = 3 * COUNT if name == "the weather" else COUNT
    share, changed = caught_share(village, language, mutate, count)
    assert changed >= 20
    assert share >= wanted, f"{name} in {language}: {share:.3f} of {changed}"


def test_problems_name_the_sentence_and_the_reason(village):
    story = next(
        s for s in village.stories(200, "en") if s.facts and s.facts[0].relation == "trade"
    )
    trade = story.facts[0].value
    new = next(t for t in lexicon()["trade"] if t is not trade)
    text = story.text.replace(trade.core("en"), new.core("en"), 1)
    if text == story.text:
        text = story.text.replace(trade.en["did"], new.en["did"], 1)
    problem = check(text, village.world, "en").problems[0]
    assert problem.kind == "fact"
    assert story.facts[0].subject.core("en") in problem.sentence
    assert trade.core("en") in problem.reason and new.core("en") in problem.reason


def test_a_story_of_the_strangers_is_not_of_this_world(village):
    for story in village.stories(40, "zh", "heldout_facts"):
        assert not check(story.text, village.world, "zh").ok
        assert check(story.text, story.world, "zh").ok


@pytest.mark.parametrize("language", LANGUAGES)
def test_portrait_with_a_wrong_fact_is_caught(village, language):
    for story in village.portraits(60, language):
        spans = [s for s in story.entities if s.label in ("TRADE", "ANIMAL", "FOOD", "OBJECT")]
        kinds = {"TRADE": "trade", "ANIMAL": "pet", "FOOD": "food", "OBJECT": "treasure"}
        for start, end, label, key in spans[:2]:
            new = next(i for i in lexicon()[kinds[label]] if i.id != key).core(language)
            text = story.text[:start] + new + story.text[end:]
            assert not check(text, village.world, language).ok, text


@pytest.mark.parametrize("language", LANGUAGES)
def test_hostile_text_is_judged_fast(village, language):
    sentence = village.story(0, language).sentences[0]
    hostile = [
        "a" * 10_000,
        sentence * (10_000 // len(sentence)),
        (sentence + JOIN[language]) * (10_000 // len(sentence)),
        sentence[:-1] * (10_000 // len(sentence)),
        "“" * 10_000,
        "The " * 2500,
        "阿梅" * 5000,
        "",
    ]
    for text in hostile:
        start = time.perf_counter()
        assert not check(text, village.world, language).ok
        assert time.perf_counter() - start < 1


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=300), st.sampled_from(LANGUAGES))
def test_any_text_gets_a_verdict(text, language):
    verdict = check(text, Village().world, language)
    assert not verdict.ok and verdict.problems


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 500_000), st.integers(0, 50), st.sampled_from(LANGUAGES))
def test_any_story_of_any_seed_passes(index, seed, language):
    village = Village(seed)
    story = village.story(index, language)
    assert check(story.text, village.world, language).ok
