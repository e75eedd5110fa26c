"""Teach a pretrained model to converse: conversations → examples → the same loop.

Knows: rows of messages and the one renderer. Loss is on the assistant's words alone, as the
template marks them; a row with nothing to learn is an error with its place.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from yantai.base.device import choose_device, prepare_process, tiny_is_zero
from yantai.base.files import FolderLock, sha256_text
from yantai.data.examples import Example, ExampleRows
from yantai.data.loader import Loader
from yantai.data.pack import RowSource
from yantai.families.folder import load_folder
from yantai.text.chat import ChatFormat, Message
from yantai.text.tokenizer import Tokenizer
from yantai.training.recipe import Training
from yantai.training.run_folder import begin_run
from yantai.training.setup import Setup, fill_in, run_training, validation_batches

VALIDATION_SHARE = 0.03
Conversations = Sequence[Sequence[Message]]


class ChatTuning(Training):
    """Tune a model on conversations; fields as in any training."""

    model: Path = Field(description="a pretrained model's folder")
    out: Path = Field(description="the run's folder")
    size: str = Field("tiny", description="whose context, batch and rates are the defaults")
    resume: bool = Field(False, description="continue the run in --out")


def to_examples(rows: Conversations, chat: ChatFormat) -> list[Example]:
    """Render every conversation; the row's number is its name.

    Raises:
        DataError: a row is no conversation or has nothing to learn.
    """
    examples = []
    for number, messages in enumerate(rows):
        rendered = chat.training_row(messages, f"row {number + 1}")
        examples.append(Example.of_text(rendered.ids, rendered.learn, f"row {number + 1}"))
    return examples


@tiny_is_zero()
def chat_tune(settings: ChatTuning, rows: Conversations) -> dict[str, Any]:
    """Tune `settings.model` on conversations; writes `out/model` like any run.

    Args:
        settings: the recipe.
        rows: conversations, each a list of messages; a few are held out to validate on.
    """
    prepare_process(settings.threads, deterministic=settings.deterministic)
    settings = fill_in(settings)
    with FolderLock(settings.out):
        device = choose_device(settings.device)
        begin_run(settings)
        model, family, _ = load_folder(settings.model, dtype=torch.float32, device=device)
        tokenizer = Tokenizer.load(settings.model)
        examples = to_examples(rows, ChatFormat(tokenizer))
        held = max(1, int(len(examples) * VALIDATION_SHARE))
        context = settings.context or 1
        train: RowSource = ExampleRows(examples[held:], context, seed=settings.seed)
        valid: RowSource = ExampleRows(examples[:held], context, seed=settings.seed)
        digest = sha256_text(repr([list(map(dict, messages)) for messages in rows]))
        setup = Setup(
            model=model,
            family=family,
            tokenizer=tokenizer,
            settings=settings,
            folder=settings.out,
            parent={"conversations": digest, "tokenizer": tokenizer.hash},
            identity={"data": digest},
            stage="chat",
        )
        loader = Loader(
            [train], settings.batch or 1, accumulate=settings.accumulate, seed=settings.seed
        )
        return run_training(setup, loader, validation_batches(valid, settings))
