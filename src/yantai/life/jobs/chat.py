"""Conversations, of which the assistant's words are learned."""

from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yantai.base.errors import DataError, UsageError
from yantai.core.face import Model
from yantai.data.conversations import Conversation, read_conversations
from yantai.data.examples import Example, ExampleRows
from yantai.evaluate.compare import paired_ratio_difference, ratio
from yantai.life.jobs.job import NOBODY, LanguageJob, Prepared, worst_rows
from yantai.tasks.causal import Causal, answer_losses
from yantai.tasks.frame import Frame
from yantai.text.chat import ChatFormat, Message, Rendered
from yantai.text.tokenizer import TURN_END
from yantai.training.recipe import Finetune


class ChatJob(LanguageJob):
    """`--task chat`: supervised tuning on conversations of any number of turns."""

    name = "chat"
    usual_family = "llama"

    def __init__(self, settings: Finetune):
        self.before: NDArray[np.float64] | None = None
        self.smoothing = settings.label_smoothing
        self.entries = 1

    def read(self, path: Path, **options: Any) -> tuple[list[Conversation], Any]:
        """Rows in any of the usual forms."""
        return read_conversations(path, **options)

    def text_of(self, row: Conversation) -> str:
        """What is said in it."""
        return "\n".join(each["content"] for each in row.messages)

    def prepare(
        self,
        frame: Frame,
        train: Sequence[Conversation],
        valid: Sequence[Conversation],
        seed: int,
    ) -> Prepared:
        """A conversation an example."""
        return Prepared(
            Causal(smoothing=self.smoothing), _rows(frame, train, seed), _rows(frame, valid, seed)
        )

    def unfit(self, frame: Frame) -> Callable[[Conversation], str]:
        """The template refuses it, or its first answer begins behind what is read."""
        chat = ChatFormat(frame.tokenizer)

        def why(row: Conversation) -> str:
            try:
                example = _example(chat, row)
            except DataError as error:
                return error.what
            if example.teaches_within(frame.length):
                return ""
            return f"nothing to learn within the first {frame.length} tokens"

        return why

    def predict(
        self, network: Model, frame: Frame, rows: Sequence[Conversation]
    ) -> NDArray[np.float64]:
        """Loss and number of the learned tokens of each."""
        self.entries = network.config.vocab_size
        return answer_losses(network, _rows(frame, rows, 0))

    def look_before(self, network: Model, frame: Frame, test: Sequence[Conversation]) -> None:
        """Its loss."""
        self.before = self.predict(network.eval(), frame, test) if test else None

    def report(
        self,
        train: Sequence[Conversation],
        test: Sequence[Conversation],
        said: NDArray[np.float64],
        seed: int,
        others: Mapping[str, NDArray[np.float64]] = NOBODY,
    ) -> dict[str, Any]:
        """The loss of the assistant's words, beside that of the model before; chance is that of
        somebody to whom all entries of the vocabulary are alike."""
        floors = dict(others)
        if self.before is not None:
            floors["the model before"] = self.before
        sizes, blind = said[:, 1].tolist(), log(self.entries)

        def loss(table: NDArray[np.float64]) -> dict[str, Any]:
            return {"loss": ratio(table[:, 0].tolist(), sizes, seed, blind).as_dict()}

        return {
            "n": len(test),
            "metrics": loss(said),
            "floors": {name: loss(table) for name, table in floors.items()},
            "against": {
                name: _named(
                    paired_ratio_difference(said[:, 0].tolist(), table[:, 0].tolist(), sizes, seed),
                    name,
                )
                for name, table in floors.items()
            },
        }

    def worst(
        self, rows: Sequence[Conversation], said: NDArray[np.float64]
    ) -> list[dict[str, str]]:
        """The conversations whose answers surprise the model most."""
        losses = said[:, 0] / np.maximum(said[:, 1], 1)
        return worst_rows(
            rows, losses.tolist(),
            lambda row, at: {
                "text": " ⏎ ".join(f"{each['role']}: {each['content']}" for each in row.messages),
                "nats a token": f"{losses[at]:.2f}",
            },
        )  # fmt: skip


def _named(difference: dict[str, Any], other: str) -> dict[str, Any]:
    """A lower loss is a better model."""
    better = {
        "the first is lower": "the model is better",
        "the second is lower": f"{other} is better",
    }
    verdict = difference["verdict"]
    return difference | {"verdict": better.get(verdict, verdict)}


def learned_row(chat: ChatFormat, messages: Sequence[Message], place: str) -> Rendered:
    """A conversation's tokens, and which of them are learned.

    Raises:
        UsageError: no learned token ends an answer, so that the model would never stop.
    """
    rendered = chat.training_row(messages, place)
    ends = {chat.tokenizer.eos_id, chat.tokenizer.control.get(TURN_END)}
    learned = {id for id, learn in zip(rendered.ids, rendered.learn, strict=True) if learn}
    if not learned & ends:
        raise UsageError(
            "E203", "model", f"an answer has no token that ends it ({place})",
            expected="a template that ends answers with a special token of the tokenizer",
            do="begin with a model that was pretrained for conversations",
        )  # fmt: skip
    return rendered


def _rows(frame: Frame, rows: Sequence[Conversation], seed: int) -> ExampleRows:
    chat = ChatFormat(frame.tokenizer)
    return frame.rows([_example(chat, row) for row in rows], seed)


def _example(chat: ChatFormat, row: Conversation) -> Example:
    rendered = learned_row(chat, row.messages, row.place)
    return Example.of_text(rendered.ids, rendered.learn, row.place)
