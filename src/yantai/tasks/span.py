"""Answer a question by a piece of a text, or say that the text has no answer.

Knows: where answers begin and end. What is read is BOS question EOS context EOS; the context's
tokens are of kind 1, for models that know kinds. A context that is too long is read in windows that
overlap, each with the question. The place where a text is judged as a whole stands for "no answer"
(arXiv 1810.04805, section 4.3).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yantai.core.face import Model
from yantai.core.head import widened
from yantai.data.batch import IGNORED, Batch
from yantai.data.examples import Example
from yantai.tasks.frame import Frame, logits_at
from yantai.tasks.task import EveryTarget

MAX_ANSWER = 64
QUESTION_SHARE = 0.5
NOTHING = -1e9
"""The score of an answer where there is no token to answer with."""


def question_room(frame: Frame) -> int:
    """Tokens of a question that are read."""
    return int(frame.room * QUESTION_SHARE)


@dataclass(frozen=True)
class SpanTask(EveryTarget):
    """−Σ ½ (ln p(first token) + ln p(last token)), each over all tokens of its example.

    Attributes:
        length: tokens an example may have; a target is first·length + last.
    """

    length: int
    name: str = "span"

    def loss_sum(self, model: Model, batch: Batch) -> Tensor:
        """The sum over examples, natural logarithm."""
        hidden = self.hidden(model, batch)
        there = batch.documents >= 0
        logits = widened(model.logits_of(hidden[there]))
        rows = torch.arange(len(batch.ids), device=there.device)[:, None]
        keys = (rows * (int(batch.documents.max()) + 1) + batch.documents)[there]
        _, group = keys.unique(return_inverse=True)  # documents stand end to end, in this order
        total = _log_sums(logits, group)
        starts = torch.zeros(len(total), dtype=torch.long, device=group.device)
        starts[1:] = group.bincount().cumsum(0)[:-1]
        asked = batch.targets[there]
        known = asked != IGNORED
        own = group[known]
        first = starts[own] + asked[known] // self.length
        last = starts[own] + asked[known] % self.length
        losses = total[own, 0] - logits[first, 0] + total[own, 1] - logits[last, 1]
        return losses.sum() / 2


def _log_sums(logits: Tensor, group: Tensor) -> Tensor:
    """ln Σ exp over each group of rows."""
    size = int(group.max()) + 1
    index = group[:, None].expand_as(logits)
    most = logits.new_full((size, logits.shape[1]), -torch.inf)
    most = most.scatter_reduce(0, index, logits.detach(), "amax")
    sums = torch.zeros_like(most).index_add(0, group, (logits - most[group]).exp())
    return sums.log() + most


@dataclass(frozen=True)
class Window:
    """A question with a piece of its context.

    Attributes:
        ids: what is read, without the BOS and EOS around all of it.
        shift: tokens before the context, BOS included.
        offsets: characters of the context that each of its tokens here spells.
        question: its number.
    """

    ids: list[int]
    shift: int
    offsets: list[tuple[int, int]]
    question: int


def windows_of(frame: Frame, pairs: Sequence[tuple[str, str]]) -> Iterator[Window]:
    """The windows of (question, context) pairs; neighbours share half of their tokens."""
    for number, (question, context) in enumerate(pairs):
        asked = frame.tokenizer.encode(question)[: question_room(frame)]
        asked += frame.between
        ids, offsets = frame.tokenizer.encode_with_offsets(context)
        room = frame.room - len(asked)
        shift = len(frame.begin) + len(asked)
        for start in range(0, max(1, len(ids) - room // 2), max(1, room // 2)):
            piece = slice(start, start + room)
            yield Window(asked + ids[piece], shift, offsets[piece], number)


def place_of(frame: Frame, window: Window, start: int, end: int) -> tuple[int, int] | None:
    """First and last token of a piece of the context; None where the window has not all of it."""
    inside = [
        place for place, (first, last) in enumerate(window.offsets) if first < end and start < last
    ]
    if not inside or window.offsets[inside[0]][0] > start or window.offsets[inside[-1]][1] < end:
        return None
    return window.shift + inside[0], window.shift + inside[-1]


def no_answer_place(frame: Frame, window: Window) -> int:
    """The token that stands for "no answer"."""
    if frame.shape == "encoder":
        return 0
    return len(frame.begin) + len(window.ids) + len(frame.end) - 1


def questioned(
    frame: Frame,
    pairs: Sequence[tuple[str, str]],
    answers: Sequence[tuple[int, int] | None],
    names: Sequence[str],
) -> list[Example]:
    """Every window with its answer, or with none."""
    examples = []
    for window in windows_of(frame, pairs):
        answer = answers[window.question]
        found = place_of(frame, window, *answer) if answer is not None else None
        none = no_answer_place(frame, window)
        first, last = found or (none, none)
        code = first * frame.length + last
        name = names[window.question]
        examples.append(frame.example(window.ids, name, judgement=code, second=window.shift))
    return examples


@dataclass(frozen=True)
class Found:
    """The best piece of a context.

    Attributes:
        start, end: its characters.
        score: ln of its odds against "no answer".
    """

    start: int
    end: int
    score: float


def answer_questions(
    model: Model, frame: Frame, pairs: Sequence[tuple[str, str]], batch: int = 8
) -> list[Found]:
    """The best answer to each question, whether there is one or not (its score says).

    Args:
        model: in evaluation mode, with the head of `SpanTask`.
        frame: how texts become tokens.
        pairs: (question, context).
        batch: rows that are read together.
    """
    windows = list(windows_of(frame, pairs))
    examples, starts = [], []
    count = 0
    for window in windows:
        name = f"question {window.question + 1}"
        example = frame.example(window.ids, name, second=window.shift)
        places = range(count, count + len(example.ids))
        examples.append(replace(example, targets=places))
        starts.append(count)
        count += len(example.ids)
    best: dict[int, Found] = {}
    if not windows:
        return []
    logits = logits_at(model, frame.rows(examples), count, batch).numpy()
    for window, start in zip(windows, starts, strict=True):
        found = _best_piece(frame, window, logits[start:])
        known = best.get(window.question)
        if known is None or found.score > known.score:
            best[window.question] = found
    return [best[number] for number in range(len(pairs))]


def _best_piece(frame: Frame, window: Window, logits: NDArray[np.float32]) -> Found:
    """Of all pieces of at most so many tokens, the one whose two ends are likeliest."""
    none = no_answer_place(frame, window)
    size = len(window.offsets)
    if not size:
        return Found(0, 0, NOTHING)
    own = logits[window.shift : window.shift + size]
    sums = own[:, None, 0] + own[None, :, 1]
    reach = np.arange(size)[None, :] - np.arange(size)[:, None]
    sums[(reach < 0) | (reach >= MAX_ANSWER)] = -np.inf
    first, last = np.unravel_index(int(sums.argmax()), sums.shape)
    score = float(sums[first, last] - logits[none, 0] - logits[none, 1])
    return Found(window.offsets[first][0], window.offsets[last][1], score)
