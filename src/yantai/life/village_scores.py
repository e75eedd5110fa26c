"""What a model knows of its village: questions answered, stories checked, bits per byte.

Knows: the village's questions and its checker, a model that chats. Every score has its interval
and what chance alone would give.
"""

from collections.abc import Sequence
from typing import Any

from yantai.evaluate.compare import proportion
from yantai.evaluate.text_loss import text_loss
from yantai.infer.language_model import LanguageModel
from yantai.text.document import Document
from yantai.text.village import Question, Village, check, grade

LANGUAGES = ("en", "zh")
STORY_TOKENS = 400


def score_questions(
    model: LanguageModel, questions: Sequence[Question], *, passages: bool, batch: int = 64
) -> dict[str, Any]:
    """The share of questions whose greedy answer names the right value and no other.

    Args:
        model: answers.
        questions: of one language.
        passages: put the passage before the question (open book).
        batch: conversations at once.
    """
    conversations = []
    for question in questions:
        text = f"{question.passage}\n{question.prompt}" if passages else question.prompt
        conversations.append([{"role": "user", "content": text}])
    replies = model.chat_batch(conversations, batch=batch, max_new_tokens=40)
    right = [grade(reply, item) for reply, item in zip(replies, questions, strict=True)]
    chance = sum(1 / max(1, len(item.choices)) for item in questions) / max(1, len(questions))
    wrong = [
        {"question": item.prompt, "expected": item.answer, "got": reply}
        for item, reply, good in zip(questions, replies, right, strict=True)
        if not good
    ]
    estimate = proportion(sum(right), len(right), chance)
    return {**estimate.as_dict(), "n": len(right), "wrong": wrong[:10]}


def score_stories(
    model: LanguageModel, village: Village, language: str, count: int, *, temperature: float
) -> dict[str, Any]:
    """The share of stories told on request that are consistent with the world and themselves."""
    requests = story_requests(village, language, count)
    settings: dict[str, Any] = {"max_new_tokens": STORY_TOKENS, "seed": 1}
    if temperature:
        settings["temperature"] = temperature
    conversations = [[{"role": "user", "content": request}] for request in requests]
    stories = model.chat_batch(conversations, batch=50, **settings)
    verdicts = [check(story, village.world, language) for story in stories]
    good = sum(verdict.ok for verdict in verdicts)
    problems = [
        {"story": story, "problem": str(verdict.problems[0])}
        for story, verdict in zip(stories, verdicts, strict=True)
        if not verdict.ok
    ]
    distinct = len(set(stories))
    return {
        **proportion(good, count, 0.0).as_dict(),
        "n": count,
        "distinct": distinct,
        "problems": problems[:10],
        "sample": stories[0],
    }


def story_requests(village: Village, language: str, count: int) -> list[str]:
    """Different requests for stories, worded as in training."""
    found: dict[str, None] = {}
    talk: Any = village.dialogues(count * 60, languages=(language,), kinds={"story": 1})
    for row in talk:
        said = [message["content"] for message in row["messages"]]
        story = max(range(len(said)), key=lambda place: len(said[place]))
        found.setdefault(said[story - 1])
        if len(found) == count:
            break
    return list(found)


def score_text(model: LanguageModel, village: Village, language: str, count: int) -> dict[str, Any]:
    """Bits per byte on stories whose people and facts never occurred in training."""
    texts = [story.text for story in village.stories(count, language, split="heldout_facts")]
    documents = [Document(text, str(number), "village", 1) for number, text in enumerate(texts)]
    report = text_loss(model, documents).report()
    return {
        "value": report["bits_per_byte"],
        "low": report["intervals"]["bits_per_byte"]["low"],
        "high": report["intervals"]["bits_per_byte"]["high"],
        "chance": 8.0,
        "n": count,
    }


def score_all(
    model: LanguageModel,
    village: Village,
    *,
    questions: int | None = None,
    stories: int = 100,
    opened: int = 200,
) -> dict[str, dict[str, Any]]:
    """Every score in both languages: {name: {language: estimate}}.

    Args:
        model: answers and tells.
        village: asks and checks.
        questions: how many closed-book questions, all by default.
        stories, opened: how many stories and open-book questions, each language.
    """
    scores: dict[str, dict[str, Any]] = {}
    for language in LANGUAGES:
        closed = village.questions(language, wording="heldout")[:questions]
        asked = village.open_questions(opened, language)
        rows = {
            "closed book, unseen wording": score_questions(model, closed, passages=False),
            "open book, unseen facts": score_questions(model, asked, passages=True, batch=32),
            "consistent stories": score_stories(model, village, language, stories, temperature=0.0),
            "bits per byte, unseen facts": score_text(model, village, language, 100),
        }
        for name, row in rows.items():
            scores.setdefault(name, {})[language] = row
    return scores
