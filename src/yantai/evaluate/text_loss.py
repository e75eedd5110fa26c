"""Loss, perplexity and bits per byte of a model on documents.

Knows: windows that slide over a document, so that every token is scored once with at least half a
window before it (except near the beginning). Bits are counted over the raw UTF-8 bytes of the
documents, so models with different tokenizers compare; the end-of-text token is not part of a
document and is not scored.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
import torch

from yantai.base.errors import DataError, UsageError
from yantai.core.face import Model
from yantai.evaluate.compare import ratio
from yantai.infer.language_model import LanguageModel
from yantai.text.document import Document

BATCH_TOKENS = 8192
PIECE_TOKENS = 2048


@dataclass(frozen=True)
class TextLoss:
    """Sums of one evaluation, by pieces of text.

    Attributes:
        losses: Σ −ln p of each piece, nats.
        tokens, bytes: of each piece.
        document_losses, document_bytes: the same of each document, whatever its tokens.
        entries: of the vocabulary; who knows nothing gives each of them the same chance.
    """

    losses: list[float]
    tokens: list[int]
    bytes: list[float]
    document_losses: list[float]
    document_bytes: list[int]
    entries: int

    @property
    def documents(self) -> int:
        """How many there were."""
        return len(self.document_bytes)

    def report(self, seed: int = 0) -> dict[str, Any]:
        """What `yantai evaluate --json` prints."""
        loss, tokens, size = sum(self.losses), sum(self.tokens), sum(self.bytes)
        bits = [value / log(2) for value in self.losses]
        mean, blind = loss / tokens, log(self.entries)
        nats = ratio(self.losses, self.tokens, seed, blind)
        return {
            "loss": mean,
            "perplexity": exp(min(mean, 700.0)),
            "bits_per_byte": loss / log(2) / size,
            "tokens": tokens,
            "bytes": round(size),
            "documents": self.documents,
            "intervals": {
                "loss": nats.as_dict(),
                "perplexity": nats.raised().as_dict(),
                "bits_per_byte": ratio(
                    bits, self.bytes, seed, blind * tokens / log(2) / size
                ).as_dict(),
            },
        }


@dataclass(frozen=True)
class _Window:
    document: int
    ids: list[int]
    first: int  # the first target of the window that has not been scored yet


def _windows(document: int, ids: list[int], length: int, stride: int) -> Iterator[_Window]:
    """Windows over BOS + text; each target belongs to exactly one of them."""
    start, scored = 0, 0
    while scored < len(ids) - 1:
        part = ids[start : start + length + 1]
        yield _Window(document, part, scored - start)
        scored = start + len(part) - 1
        start = max(start + stride, 0)


@torch.inference_mode()
def text_loss(
    model: LanguageModel,
    documents: Iterable[Document],
    *,
    context: int | None = None,
    stride: int | None = None,
) -> TextLoss:
    """Score documents.

    Args:
        model: with a tokenizer.
        documents: texts.
        context: tokens a window; the model's context by default.
        stride: how far windows slide; half a window by default.

    Raises:
        UsageError: the context is longer than the model's, or the model is no decoder.
        DataError: there is no text.
    """
    if model.shape != "decoder":
        raise UsageError(
            "E201", "model", "running text is scored by a decoder alone", got=f"an {model.shape}"
        )
    tokenizer, network = model.tokenizer, model.network
    limit = network.config.max_positions
    length = context or limit
    if length > limit:
        raise UsageError("E201", "context", "longer than the model's", expected=limit, got=length)
    step = min(stride or max(1, length // 2), length)
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    sizes: list[int] = []
    logs: list[list[float]] = []
    waiting: list[_Window] = []

    def flush() -> None:
        for window, values in zip(waiting, _score(network, waiting), strict=True):
            logs[window.document].extend(values)
        waiting.clear()

    for number, document in enumerate(documents):
        ids = ([start] if start is not None else []) + tokenizer.encode(document.text)
        sizes.append(len(document.text.encode()))
        logs.append([])
        for window in _windows(number, ids, length, step):
            waiting.append(window)
            if len(waiting) * length >= BATCH_TOKENS:
                flush()
    if waiting:
        flush()
    if not any(logs):
        raise DataError("E305", "data", "there is no text to score")
    return _pieces(logs, sizes, network.config.vocab_size)


def _score(model: Model, windows: list[_Window]) -> list[list[float]]:
    """−ln p of the new targets of each window, one batch."""
    device = next(model.parameters()).device
    width = max(len(window.ids) for window in windows)
    ids = torch.zeros((len(windows), width), dtype=torch.int64)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = torch.tensor(window.ids)
    ids = ids.to(device)
    hidden = model.hidden(ids[:, :-1])  # padding stands behind, where causality hides it
    rows, places = [], []
    for row, window in enumerate(windows):
        fresh = range(window.first, len(window.ids) - 1)
        rows += [row] * len(fresh)
        places += fresh
    chosen = hidden[rows, places]
    targets = ids[:, 1:][rows, places]
    values = -model.log_probabilities(chosen, targets)
    found, start = [], 0
    for window in windows:
        count = len(window.ids) - 1 - window.first
        found.append(values[start : start + count].double().tolist())
        start += count
    return found


def _pieces(logs: list[list[float]], sizes: list[int], entries: int) -> TextLoss:
    """The pieces of the bootstrap: documents, long ones cut, their bytes shared by tokens."""
    losses: list[float] = []
    tokens: list[int] = []
    share: list[float] = []
    for values, size in zip(logs, sizes, strict=True):
        if not values:
            continue
        for start in range(0, len(values), PIECE_TOKENS):
            part = values[start : start + PIECE_TOKENS]
            losses.append(float(np.sum(part)))
            tokens.append(len(part))
            share.append(size * len(part) / len(values))
    sums = [float(np.sum(values)) for values in logs]
    return TextLoss(losses, tokens, share, sums, sizes, entries)
