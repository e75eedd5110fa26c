"""How well a model guesses hidden tokens or restores damaged text.

Knows: the objectives that are not running text, on documents nobody trained on. What is hidden is
a function of the seed, so that two models are asked the same.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yantai.base.errors import DataError, UsageError
from yantai.data.batch import Array, Batch, Row, collate
from yantai.data.pack import first_fit, pad
from yantai.evaluate.compare import proportion, ratio
from yantai.infer.language_model import LanguageModel
from yantai.tasks.table import make_task
from yantai.tasks.task import Task
from yantai.text.document import Document

BATCH_TOKENS = 8192
TARGETS = 1024


@dataclass(frozen=True)
class TaskLoss:
    """Sums of one evaluation, by rows of text.

    Attributes:
        task: the objective.
        losses: Σ −ln p of the targets of each row, nats.
        targets: how many each row has.
        hits: how many of all were the likeliest token.
        common: how often each target stood there.
        documents: how many there were.
        unasked: pieces of them for whose targets a row had no room, or that were too short to hide
            anything of.
    """

    task: str
    losses: list[float]
    targets: list[int]
    hits: int
    common: Counter[int]
    documents: int
    unasked: int = 0

    def report(self, seed: int = 0) -> dict[str, Any]:
        """What `yantai evaluate --json` prints.

        The guess is that of somebody who knows how often each token occurs among the targets, and
        nothing else: always the commonest one, or these shares as chances.
        """
        count = sum(self.targets)
        mean = sum(self.losses) / count
        shares = [number / count for number in self.common.values()]
        guess = {"accuracy": max(shares), "loss": -sum(share * log(share) for share in shares)}
        nats = ratio(self.losses, self.targets, seed, guess["loss"])
        accuracy = proportion(self.hits, count, chance=guess["accuracy"])
        return {
            "task": self.task,
            "loss": mean,
            "perplexity": exp(min(mean, 700.0)),
            "accuracy": accuracy.value,
            "guess": guess,
            "targets": count,
            "documents": self.documents,
            "pieces_without_a_target": self.unasked,
            "intervals": {
                "loss": nats.as_dict(),
                "perplexity": nats.raised().as_dict(),
                "accuracy": accuracy.as_dict(),
            },
        }


class _Pieces:
    """Documents cut to a length, several short ones a row."""

    def __init__(self, documents: Iterable[Document], model: LanguageModel, length: int):
        tokenizer = model.tokenizer
        begin = [tokenizer.bos_id] if tokenizer.bos_id is not None else []
        end = [tokenizer.eos_id] if tokenizer.eos_id is not None else []
        pieces, self.documents = [], 0
        for document in documents:
            ids = np.array(begin + tokenizer.encode(document.text) + end, np.int64)
            pieces += [ids[start : start + length] for start in range(0, len(ids), length)]
            self.documents += 1
        order = list(range(len(pieces)))
        packed = first_fit(order, lambda number: len(pieces[number]), length)
        self._rows = [
            _row([pieces[number] for number in members], length, f"row {number}")
            for number, members in enumerate(packed)
        ]

    def rows_in_epoch(self, epoch: int) -> int:
        """All of them."""
        return len(self._rows)

    def row(self, epoch: int, index: int) -> Row:
        """One of them."""
        return self._rows[index]


def _row(pieces: list[Array], length: int, name: str) -> Row:
    ids = np.concatenate(pieces)
    documents = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    positions = np.concatenate([np.arange(len(piece)) for piece in pieces])
    return pad(Row(ids, ids, documents, positions, name), length)


@torch.inference_mode()
def task_loss(
    model: LanguageModel,
    documents: Iterable[Document],
    *,
    context: int | None = None,
    seed: int = 0,
) -> TaskLoss:
    """Ask an encoder for hidden tokens, an encoder–decoder for what was taken out.

    What marks the places (T5's sentinels) is read, and not asked for.

    Args:
        model: with a tokenizer that has the tokens for it.
        documents: texts.
        context: tokens a row; the model's context by default.
        seed: decides what is hidden.

    Raises:
        UsageError: the model is a decoder, the context longer than its own, or a token is missing.
        DataError: there is no text.
    """
    if model.shape == "decoder":
        raise UsageError("E201", "model", "a decoder is scored on running text", got="a decoder")
    limit = model.network.config.max_positions
    length = context or limit
    if length > limit:
        raise UsageError("E201", "context", "longer than the model's", expected=limit, got=length)
    name = "masked" if model.shape == "encoder" else "denoise"
    if name == "denoise" and not model.tokenizer.span_ids:
        name = "infill"
    task = make_task(name, model.tokenizer, seed, model.start_id)
    pieces = _Pieces(documents, model, length)
    losses, targets, hits, common, unasked = [], [], 0, Counter(), 0
    for batch in _batches(task, pieces, max(1, BATCH_TOKENS // length)):
        found = _scored(model, task, batch)
        losses += found.losses
        targets += found.targets
        hits += found.hits
        common += found.common
        unasked += found.unasked
    if not sum(targets):
        raise DataError("E305", "data", "there is no text to score")
    return TaskLoss(name, losses, targets, hits, common, pieces.documents, unasked)


def _batches(task: Task, pieces: _Pieces, size: int) -> Iterator[Batch]:
    source = task.rows(pieces)
    count = source.rows_in_epoch(0)
    for start in range(0, count, size):
        yield collate([source.row(0, index) for index in range(start, min(start + size, count))])


def _scored(model: LanguageModel, task: Task, batch: Batch) -> TaskLoss:
    """One batch."""
    network = model.network
    moved = batch.to(next(network.parameters()).device)
    hidden = task.hidden(network, moved)
    there = _asked(model, task.name, moved.targets)
    aims, rows = moved.targets[there], hidden[there]
    losses, hits = torch.zeros_like(aims, dtype=torch.float64), 0
    for start in range(0, len(aims), TARGETS):
        part = slice(start, start + TARGETS)
        logs = network.logits_of(rows[part]).float().log_softmax(-1)
        losses[part] = -logs.gather(1, aims[part, None])[:, 0].double()
        hits += int((logs.argmax(-1) == aims[part]).sum())
    sums = torch.zeros(moved.targets.shape, dtype=torch.float64, device=losses.device)
    sums[there] = losses
    return TaskLoss(
        task.name,
        sums.sum(1).tolist(),
        there.sum(1).tolist(),
        hits,
        Counter(aims.tolist()),
        0,
        _without_target(batch, there.cpu()),
    )


def _asked(model: LanguageModel, task: str, targets: Tensor) -> Tensor:
    """Where text is to be said: sentinels and the end come in a known order, and are no text."""
    there = targets >= 0
    if task != "denoise":
        return there
    marks = [*model.tokenizer.span_ids, *model.eos_ids]
    return there & ~torch.isin(targets, torch.tensor(marks, device=targets.device))


def _without_target(batch: Batch, asked_at: Tensor) -> int:
    """Documents of rows that nothing is asked about."""
    there = batch.source_documents if batch.source_documents is not None else batch.documents
    count = 0
    for row, documents in enumerate(there):
        asked = batch.documents[row][asked_at[row]]
        count += len(set(documents[documents >= 0].tolist()) - set(asked.tolist()))
    return count
