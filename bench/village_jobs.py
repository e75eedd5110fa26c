"""Every job on the embedded village, whose truth is exact: stories that were never read.

Knows: how a story becomes rows of each job, and when an answer is right. A translation is right if
the village's reader understands the same of it as of the story; a summary if it is one of those
that the village has for it; a vector if the nearest of all others is that of the same story in the
other language. Conversations and preferences are about facts of the village that were read, asked
in words that were not: the answer is right, or the right one of two is the likelier.

    python -m bench.village_jobs --jobs classify tag --seeds 3
"""

import argparse
import itertools
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yantai
from yantai.evaluate.compare import proportion
from yantai.life.finetune import finetune
from yantai.text.village import Village, check, grade
from yantai.text.village.dialogues import exchange
from yantai.text.village.dice import Dice
from yantai.text.village.template import Writer
from yantai.training.recipe import Finetune

LANGUAGES = ("en", "zh")
READ = 6000
"""Documents that whoever is to answer has read before."""
CHOOSE = 100
"""Stories of each language by which the best is chosen."""
TALKS, TALK = 12_000, {"fact": 8, "open": 1, "unknown": 1}
"""Conversations that are learned, and how often each kind comes up."""
Row = dict[str, Any]


def texts_of(story: Any) -> list[Row]:
    """A story and how it ends."""
    return [{"text": story.text, "label": story.sentiment}]


def names_of(story: Any) -> list[Row]:
    """A story and its names."""
    spans = [[span.start, span.end, span.label] for span in story.entities]
    return [{"text": story.text, "entities": spans}]


def asked_of(story: Any) -> list[Row]:
    """What the story answers in words of its own."""
    rows = []
    for question in story.questions:
        start = next((at for each in question.accept if (at := story.text.find(each)) >= 0), -1)
        if start < 0:
            continue
        answer = next(each for each in question.accept if story.text.startswith(each, start))
        answers = {"text": [answer], "answer_start": [start]}
        rows.append({"question": question.prompt, "context": story.text, "answers": answers})
    return rows


def translation_of(story: Any) -> list[Row]:
    """A story and the same in the other language."""
    return [{"text": story.text, "target": story.parallel}]


def summary_of(story: Any) -> list[Row]:
    """A story and its one sentence."""
    return [{"text": story.text, "target": story.summary}]


def right_labels(model: Any, stories: list[Any]) -> list[bool]:
    """Whether the feeling at the end is seen."""
    judged = yantai.classify(model, [story.text for story in stories])
    return [one.label == story.sentiment for one, story in zip(judged, stories, strict=True)]


def right_names(model: Any, stories: list[Any]) -> list[bool]:
    """Of each name, whether it is found; of each span found, whether it is one."""
    right = []
    found = yantai.tag(model, [story.text for story in stories])
    for spans, story in zip(found, stories, strict=True):
        said = {(span.start, span.end, span.label) for span in spans}
        true = {(span.start, span.end, span.label) for span in story.entities}
        right += [each in said and each in true for each in said | true]
    return right


def right_answers(model: Any, stories: list[Any]) -> list[bool]:
    """Whether the answer names the right value and no other."""
    right = []
    for story in stories:
        asked = [question for question in story.questions
                 if any(each in story.text for each in question.accept)]  # fmt: skip
        for question in asked:
            answer = yantai.answer(model, question.prompt, story.text)
            right.append(grade(answer.text, question))
    return right


def right_translations(model: Any, stories: list[Any]) -> list[bool]:
    """Whether the village's reader understands the same."""
    right = []
    written = yantai.translate(model, [story.text for story in stories], max_new_tokens=400)
    for text, story in zip(written, stories, strict=True):
        other = "zh" if story.language == "en" else "en"
        truth = check(story.parallel, story.world, other)
        verdict = check(text, story.world, other)
        right.append(verdict.ok and verdict.logical == truth.logical)
    return right


def right_summaries(model: Any, stories: list[Any]) -> list[bool]:
    """Whether it is a summary that the village could have written."""
    written = yantai.summarize(model, [story.text for story in stories], max_new_tokens=80)
    right = []
    for text, story in zip(written, stories, strict=True):
        writer, state = Writer(story.world, story.language), story.plan.events[-1][1]
        right.append(
            any(
                text.strip() == writer.fill(wording, state, Dice("summary", number))
                for wording in story.plan.plot.summary[story.language]
                for number in range(8)
            )
        )
    return right


def pair_of(story: Any) -> list[Row]:
    """A story in English and the same in Chinese; each pair once."""
    return translation_of(story) if story.language == "en" else []


def talks_of(village: Village, wording: str) -> list[Row]:
    """Conversations about facts to learn from; in other words, each fact asked in each of them."""
    if wording == "train":
        return list(village.dialogues(TALKS, kinds=TALK))
    asked = [each for language in LANGUAGES for each in village.questions(language, wording)]
    return [{"messages": exchange(each.prompt, each.answer)} for each in asked]


def choices_of(village: Village, wording: str) -> list[Row]:
    """Questions, the answer, and the same answer with the value of somebody else."""
    rows = []
    for language in LANGUAGES:
        known = village.questions(language, wording)
        for number, each in enumerate(known):
            mine = value_in(each)
            wrong = (each.answer.replace(mine, value_in(one))
                     for one in known[number:] + known[:number]
                     if one.choices == each.choices and value_in(one))  # fmt: skip
            rejected = next((text for text in wrong if not grade(text, each)), None)
            if mine and rejected:
                rows.append({"prompt": each.prompt, "chosen": each.answer, "rejected": rejected})
    return rows


def value_in(question: Any) -> str:
    """The words of an answer that name its value; "" where they do not stand in it as they are."""
    return next((each for each in question.accept if each in question.answer), "")


def right_replies(model: Any, village: Village, language: str) -> list[bool]:
    """Whether a reply names the right value and no other, for unseen wordings."""
    asked = village.questions(language, "heldout")
    talks = [[{"role": "user", "content": each.prompt}] for each in asked]
    replies = model.chat_batch(talks, batch=64, max_new_tokens=40)
    return [grade(reply, each) for reply, each in zip(replies, asked, strict=True)]


@dataclass(frozen=True)
class Exam:
    """A job on stories.

    Attributes:
        rows: of a story.
        right: what the taught model does with unseen ones; None: what `finetune` itself measures.
        stories: read in each language, and how many are asked about.
        settings: of `Finetune`, beside its defaults.
    """

    rows: Callable[[Any], list[Row]]
    right: Callable[[Any, list[Any]], list[bool]] | None
    stories: int = 2000
    asked: int = 300
    settings: dict[str, Any] = field(default_factory=dict)


EXAMS = {
    "classify": Exam(texts_of, right_labels),
    "tag": Exam(names_of, right_names),
    "span": Exam(asked_of, right_answers, asked=100),
    "translate": Exam(translation_of, right_translations, asked=100),
    "summarize": Exam(summary_of, right_summaries, asked=100),
    "embed": Exam(pair_of, None),
}
FACTS: dict[str, tuple[Callable[[Village, str], list[Row]], str | None]] = {
    "chat": (talks_of, None),
    "prefer": (choices_of, "likelier"),
}
"""Jobs on facts: rows, and what of the report of `finetune` is the share that is right."""


def write(path: Path, rows: Iterable[Row]) -> Path:
    """Rows as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def sit(name: str, seed: int, folder: Path, changes: dict[str, Any], known: int | None) -> None:
    """Teach one job from nothing, and ask about stories behind those that were read."""
    exam, village = EXAMS[name], Village(seed=7)
    exam = replace(exam, stories=known or exam.stories)
    count = exam.stories + CHOOSE + exam.asked
    told = {language: list(village.stories(count, language)) for language in LANGUAGES}
    parts = {
        "data": slice(0, exam.stories),
        "valid": slice(exam.stories, exam.stories + CHOOSE),
        "test": slice(exam.stories + CHOOSE, None),
    }
    files = {
        part: write(
            folder / f"{part}.jsonl",
            [row for each in told.values() for story in each[where] for row in exam.rows(story)],
        )
        for part, where in parts.items()
    }
    given = {"task": name, "model": "scratch", "out": folder / "run", "seed": seed}
    report = finetune(Finetune(**given | files | exam.settings | changes), lambda text: None)
    if exam.right is None:
        say_share(name, "both", seed, report["metrics"]["found"], report)
        return
    model = yantai.load(folder / "run" / "model", dtype="float32")
    for language, stories in told.items():
        right = exam.right(model, stories[parts["test"]])
        score = {"n": len(right)} | proportion(sum(right), len(right), 0.0).as_dict()
        say_share(name, language, seed, score, report)


def say_share(
    name: str, language: str, seed: int, score: dict[str, Any], report: dict[str, Any]
) -> None:
    """A line of a result."""
    shown = f"{score['value']:.3f} [{score['low']:.3f}-{score['high']:.3f}]"
    count, seconds = score.get("n", report["n"]), report["training"]["seconds"]
    print(f"RESULT {name} {language} seed {seed}: {shown} of {count}, {seconds:.0f} s", flush=True)


def know(name: str, seed: int, folder: Path, changes: dict[str, Any], known: int | None) -> None:
    """Teach facts, and ask for them in other words; who is to answer has read of the village."""
    rows_of, metric = FACTS[name]
    village = Village(seed=7, people=12, headings=True)
    data = write(folder / "rows.jsonl", rows_of(village, "train"))
    asked = write(folder / "asked.jsonl", rows_of(village, "heldout"))
    given = {"task": name, "model": "scratch", "data": data, "test": asked, "out": folder / "run"}
    if metric is None:
        given["pretrain_on"] = (write(folder / "read.jsonl", village.documents(known or READ)),)
    report = finetune(Finetune(**given | {"seed": seed} | changes), lambda text: None)
    if metric is not None:
        say_share(name, "both", seed, report["metrics"][metric], report)
        return
    model = yantai.load(folder / "run" / "model", dtype="float32")
    for language in LANGUAGES:
        right = right_replies(model, village, language)
        score = {"n": len(right)} | proportion(sum(right), len(right), 0.0).as_dict()
        say_share(name, language, seed, score, report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    jobs = [*EXAMS, *FACTS]
    parser.add_argument("--jobs", nargs="+", choices=jobs, default=jobs)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--known", type=int, help="stories of each language, or documents, read")
    parser.add_argument("--changes", default="{}", help="JSON: changes to the settings")
    parser.add_argument("--scratch", type=Path, default=Path("runs/village-jobs"))
    options = parser.parse_args()
    for name, seed in itertools.product(options.jobs, range(options.seeds)):
        folder = options.scratch / f"{name}-{os.getpid()}-{seed}"
        folder.mkdir(parents=True)
        learn = know if name in FACTS else sit
        learn(name, seed, folder, json.loads(options.changes), options.known)


if __name__ == "__main__":
    main()
