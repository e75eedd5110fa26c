"""The village: determinism, uniqueness, spans, questions, splits, dialogues, richness."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.text.village import (
    RELATIONS,
    Village,
    World,
    check,
    grade,
    vocabulary_report,
)
from yantai.text.village.dice import Dice, permute
from yantai.text.village.grammar import plots
from yantai.text.village.lexicon import LABELS, lexicon
from yantai.text.village.plan import capacity, make_plan
from yantai.text.village.questions import named

LANGUAGES = ("en", "zh")
KINDS = {label: kind for kind, label in LABELS.items()}


@pytest.fixture(scope="module")
def village():
    return Village()


def fingerprint(seed: int) -> str:
    village = Village(seed=seed)
    rows = [*village.documents(40), *village.dialogues(20)]
    return sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def test_same_seed_same_corpus_in_another_process():
    code = (
        "import sys, json; from hashlib import sha256; from yantai.text.village import Village;"
        "v = Village(seed=11); rows = [*v.documents(40), *v.dialogues(20)];"
        "print(sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest())"
    )
    for hash_seed in ("1", "2"):
        path = ":".join(p for p in sys.path if p)
        env = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == fingerprint(11)


def test_other_seed_other_world():
    assert World(1).facts != World(2).facts
    assert fingerprint(1) != fingerprint(2)


def test_facts_by_default_are_at_most_200_and_complete(village):
    assert len(village.world.facts) <= 200
    assert {fact.relation for fact in village.world.facts} == set(RELATIONS)
    for fact in village.world.facts:
        if fact.relation in ("friend", "sibling"):
            assert village.world.value(fact.value, fact.relation) is fact.subject


@pytest.mark.parametrize("people", [4, 12, 40])
def test_worlds_of_other_sizes(people):
    world = World(3, people)
    assert len(world.facts) == 8 * people
    assert check(next(Village(3, people).stories(1, "en")).text, world, "en").ok


def test_world_size_errors_say_what_is_allowed():
    with pytest.raises(ValueError, match="at most 92, got 400"):
        World(1, 400)
    with pytest.raises(ValueError, match="heldout_wording"):
        next(Village().documents(3, split="test"))
    with pytest.raises(IndexError, match="take more people"):
        make_plan(10**12, World(1))


def test_names_are_apart():
    people = lexicon()["person"]
    assert len(people) >= 80
    for language in LANGUAGES:
        names = [person.core(language).casefold() for person in people]
        assert not [(a, b) for a in names for b in names if a is not b and a in b]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(0, 2**40))
def test_permute_is_a_bijection(size, seed):
    assert sorted(permute(index, size, seed) for index in range(size)) == list(range(size))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(), max_size=30), st.integers())
def test_shuffle_keeps_the_items(items, seed):
    assert sorted(Dice(seed).shuffled(items)) == sorted(items)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_documents_are_alike(village, language):
    texts = [row["text"] for row in village.documents(10000, (language,))]
    assert len(set(texts)) == len(texts)


@pytest.mark.slow
def test_no_two_plans_are_alike(village):
    full = {
        (plan.key(), tuple(sorted((k, v.id) for k, v in plan.events[0][1].items())))
        for plan in (make_plan(index, village.world) for index in range(20000))
    }
    assert len(full) == 20000
    assert capacity(24, (23,)) > 1_000_000


def test_every_role_is_told_in_every_wording_of_some_certain_step():
    """The premise of the proof that different plans give different texts."""
    for plot in plots().values():
        certain = [step for step in plot.steps if not step.optional]
        for role in plot.domains:
            assert any(
                all(
                    any(s.role == role and not s.relation for s in wording.slots())
                    for predicate in step.options
                    for language in LANGUAGES
                    for wording in predicate.wordings[language]
                )
                for step in certain
            ), f"{plot.name}: the role {role} can be left untold"


@pytest.mark.parametrize("split", ["train", "heldout_wording", "heldout_facts"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_document_passes_and_reads_back(village, language, split):
    world = village.world_of(split)
    for story in [*village.stories(500, language, split), *village.portraits(150, language, split)]:
        verdict = check(story.text, world, language)
        assert verdict.ok, (story.text, verdict.problems)
        assert verdict.logical == story.plan.key()


def test_parallel_texts_say_the_same(village):
    for story in [*village.stories(150, "en"), *village.portraits(50, "en")]:
        there = check(story.parallel, village.world, "zh")
        assert there.logical == check(story.text, village.world, "en").logical
        assert story.in_language("zh").parallel == story.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_spans_are_exact(village, language):
    labels = set()
    for story in [*village.stories(200, language), *village.portraits(40, language)]:
        assert any(span.label == "PERSON" for span in story.entities)
        for start, end, label, item in story.entities:
            assert story.text[start:end] == lexicon().item(KINDS[label], item).core(language)
            labels.add(label)
        for person in story.world.items:  # no name is left unmarked
            name = person.core(language)
            marked = sum(1 for s in story.entities if s.item == person.id)
            assert story.text.count(name) == marked
    assert labels == {"PERSON", "PLACE", "ANIMAL", "TRADE", "FOOD", "OBJECT"}


def test_facts_of_a_story_are_those_of_the_world(village):
    for story in village.stories(200, "zh"):
        assert set(story.facts) <= set(village.world.facts)


def test_sentiment_has_three_values_and_follows_the_end(village):
    found = {}
    for story in village.stories(400, "en"):
        found.setdefault(story.sentiment, set()).add(story.plot)
        assert story.mood.core("en") in story.sentences[-1]
    assert all(len(found[kind]) >= 5 for kind in ("positive", "neutral", "negative"))


def test_length_of_stories(village):
    for story in village.stories(400, "en"):
        assert 6 <= len(story.sentences) <= 16
        assert 45 <= len(story.text.split()) <= 200, story.text
        assert 70 <= len(story.parallel) <= 330, story.parallel


def test_story_is_frozen(village):
    with pytest.raises(FrozenInstanceError):
        next(village.stories(1, "en")).index = 3


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("wording", ["train", "heldout"])
def test_closed_questions_are_graded(village, language, wording):
    questions = village.questions(language, wording)
    assert {q.relation for q in questions} == set(RELATIONS)
    per_relation = len(questions) / len(RELATIONS) / 24
    assert per_relation >= (6 if wording == "train" else 3)
    for question in questions:
        assert grade(question.answer, question)
        assert grade(question.answer.upper().replace(" ", "  ").replace("。", " "), question)
        assert question.accept[0] in question.choices
        wrong = [c for c in question.choices if c not in question.accept]
        assert not grade(wrong[0], question)
        assert not grade(f"{question.accept[0]}, {wrong[0]}", question)
        assert not grade("", question)


def test_held_out_question_wordings_are_unseen(village):
    for language in LANGUAGES:
        train = {q.prompt for q in village.questions(language, "train")}
        heldout = {q.prompt for q in village.questions(language, "heldout")}
        assert not train & heldout
        asked = [
            message["content"]
            for row in village.dialogues(600, (language,))
            for message in row["messages"]
        ]
        assert not heldout & set(asked)


@pytest.mark.parametrize("language", LANGUAGES)
def test_open_questions_are_graded(village, language):
    for question in village.open_questions(300, language):
        assert question.passage
        assert grade(question.answer, question), (question.answer, question.accept)
        wrong = [c for c in question.choices if c not in question.accept]
        assert wrong and not grade(wrong[0], question)


def test_a_longer_name_hides_the_shorter_one():
    assert named("a ginger cat", ["cat", "ginger cat"], "en") == {"ginger cat"}
    assert named("天下起了暴风雨", ["下雨", "暴风雨"], "zh") == {"暴风雨"}
    assert named("concatenate", ["cat"], "en") == set()


def test_splits_share_no_people_no_stories_no_wording(village):
    here, there = village.world, village.world_of("heldout_facts")
    assert not set(here.items) & set(there.items)
    assert not {f.key() for f in here.facts} & {f.key() for f in there.facts}
    names = {p.core(language) for p in there.items for language in LANGUAGES}
    train = [str(row["text"]) for row in village.documents(1500)]
    assert not any(name in text for name in names for text in train)
    plans = [
        {s.plan.key() for s in village.stories(800, "en", split)}
        for split in ("train", "heldout_wording")
    ]
    assert not plans[0] & plans[1]
    sentences = {s for story in village.stories(800, "zh") for s in story.sentences}
    reserved = 0
    for story in village.stories(200, "zh", "heldout_wording"):
        reserved += sum(s not in sentences for s in story.sentences) / len(story.sentences)
    assert reserved / 200 > 0.8


@pytest.mark.parametrize("split", ["train", "heldout_wording", "heldout_facts"])
def test_dialogues(village, split):
    rows = list(village.dialogues(300, split=split))
    assert rows == list(village.dialogues(300, split=split))
    assert {row["language"] for row in rows} == set(LANGUAGES)
    kinds = {row["kind"] for row in rows}
    assert {"open", "story", "translation", "summary"} <= kinds
    assert ("fact" in kinds) == (split != "heldout_facts")
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        for message in row["messages"]:
            assert "{" not in message["content"] and message["content"].strip()


def test_dialogue_of_a_story_tells_it(village):
    for story in village.stories(50, "en"):
        talk = story.dialogue
        assert 2 <= len(talk) <= 6
        assert talk[1] == {"role": "assistant", "content": story.text}


def test_documents_are_stable_and_mixed(village):
    rows = list(village.documents(200))
    assert rows == list(village.documents(200)) == list(village.documents(400))[:200]
    assert sum(row["kind"] == "portrait" for row in rows) / 200 == pytest.approx(0.3, abs=0.02)
    assert all(row["planted"] == [] and row["duplicate_of"] is None for row in rows)
    assert len({row["id"] for row in rows}) == 200


def test_plots_can_be_restricted():
    small = Village(plots=("kite", "letter"))
    assert {story.plot for story in small.stories(50, "en")} == {"kite", "letter"}


def test_the_village_is_rich():
    report = vocabulary_report(stories=600)
    assert report["plots"] >= 30
    assert report["facts"] <= 200
    for language in LANGUAGES:
        assert report[language]["content_words"] >= 300
        assert 0.05 < report[language]["distinct_4grams"] < 1


def test_friends_keep_each_other_company_in_every_other_story_and_no_two_stories_are_alike():
    village = Village(seed=3, people=8, company="friends", plots=("borrowed_tool", "letter"))
    stories = list(village.stories(800, "en"))
    assert len({story.text for story in stories}) == 800
    with_company = [story for story in stories if "pal" in story.plan.roles]
    friends = [
        village.world.value(story.plan.roles["hero"], "friend") is story.plan.roles["pal"]
        for story in with_company
    ]
    assert sum(friends) / len(friends) == pytest.approx(0.5, abs=0.02)
    assert len({story.plan.roles["pal"] for story in with_company}) == 8
    assert all(check(story.text, village.world, "en").ok for story in stories[:50])
    assert village.world.strangers().circles == (1, 6)


def test_dialogues_come_in_the_kinds_asked_for():
    rows = list(Village(seed=5).dialogues(400, kinds={"fact": 3, "story": 1}))
    counted = Counter(row["kind"] for row in rows)
    assert set(counted) == {"fact", "story"}
    assert counted["fact"] / counted["story"] == pytest.approx(3, rel=0.3)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_request_names_the_companion_wherever_nobody_could_foresee_one(language):
    village = Village(seed=5, people=12, company="friends", plots=("the_lie", "letter"))
    named = Counter()
    for story in village.stories(300, language):
        request = village._talk(language, "train").of_story(story)[0]["content"]
        assert story.cast["hero"] in request
        if "pal" not in story.cast:
            named["nobody there"] += 1
            continue
        friend = village.world.value(story.plan.roles["hero"], "friend")
        foreseen = story.plan.roles["pal"] is friend
        if not foreseen:
            assert story.cast["pal"] in request
        named["foreseen", story.cast["pal"] in request] += foreseen
    assert named["nobody there"] > 50
    assert min(named["foreseen", True], named["foreseen", False]) > 20  # it may be named, or not


def test_headings_stand_above_stories_and_nowhere_else():
    plain = list(Village(seed=5).documents(60))
    headed = list(Village(seed=5, headings=True).documents(60))
    assert {row["kind"] for row in plain} == {"story", "portrait"}
    for before, after in zip(plain, headed, strict=True):
        heading, _, rest = after["text"].partition("\n")
        if after["kind"] == "portrait":
            assert after["text"] == before["text"]
            continue
        assert rest == before["text"]
        assert 8 <= len(heading) <= 60
    story = Village(seed=5).story(0, "en")
    assert all(name in story.heading for name in story.cast.values())
