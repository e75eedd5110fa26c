"""`yantai.answer`: a question about a text, answered by a piece of it.

Knows: a model whose head points at tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from yantai.base.errors import UsageError
from yantai.infer.inputs import given_texts
from yantai.infer.language_model import LanguageModel
from yantai.tasks.span import answer_questions


@dataclass(frozen=True)
class Answer:
    """A piece of a text.

    Attributes:
        text: the piece; the best one, even where the model finds that there is none.
        start, end: its characters: the first one, and the one after the last.
        score: ln of its odds against "no answer"; below 0 the text has none.
    """

    text: str
    start: int
    end: int
    score: float


@overload
def answer(model: LanguageModel, question: str, context: str, *, batch: int = 8) -> Answer: ...
@overload
def answer(
    model: LanguageModel, question: Sequence[str], context: Sequence[str], *, batch: int = 8
) -> list[Answer]: ...
def answer(
    model: LanguageModel,
    question: str | Sequence[str],
    context: str | Sequence[str],
    *,
    batch: int = 8,
) -> Answer | list[Answer]:
    """Answer one question, or several, each of its own text.

    Args:
        model: one that `yantai finetune --task span` made, or one of `transformers` for question
            answering.
        question: what is asked.
        context: the text that has the answer, of any length.
        batch: rows that are read together; the result does not depend on it.

    Raises:
        UsageError: the model answers no questions, or the two lists differ in length.

    >>> answer(model, "Who has the goose?", "Old Anna has a goose.").text  # doctest: +SKIP
    'Old Anna'
    """
    model.must_be_for("span")
    single = isinstance(question, str)
    asked, texts = given_texts(question, "question"), given_texts(context, "context")
    if len(asked) != len(texts):
        raise UsageError(
            "E201", "context", "one for each question", expected=len(asked), got=len(texts)
        )
    pairs = list(zip(asked, texts, strict=True))
    found = []
    for text, best in zip(
        texts, answer_questions(model.network, model.frame, pairs, batch), strict=True
    ):
        piece = text[best.start : best.end]
        start = best.start + len(piece) - len(piece.lstrip())
        piece = piece.strip()
        found.append(Answer(piece, start, start + len(piece), best.score))
    return found[0] if single else found
