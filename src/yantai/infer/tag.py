"""`yantai.tag`: named spans of texts, one text at a time or many.

Knows: a model whose head labels tokens. How tokens are read is the task's business, so that
training, evaluation and use cannot differ.
"""

from collections.abc import Sequence
from typing import NamedTuple, overload

from yantai.infer.inputs import given_texts
from yantai.infer.language_model import LanguageModel
from yantai.tasks.tag import tag_texts


class Entity(NamedTuple):
    """A piece of a text.

    Attributes:
        start, end: characters: the first one, and the one after the last.
        label: what it is.
        text: the piece itself.
    """

    start: int
    end: int
    label: str
    text: str


@overload
def tag(model: LanguageModel, inputs: str, *, batch: int = 8) -> list[Entity]: ...
@overload
def tag(model: LanguageModel, inputs: Sequence[str], *, batch: int = 8) -> list[list[Entity]]: ...
def tag(
    model: LanguageModel, inputs: str | Sequence[str], *, batch: int = 8
) -> list[Entity] | list[list[Entity]]:
    """Find the spans that a model was taught to find.

    Args:
        model: one that `yantai finetune --task tag` made, or a token classifier of `transformers`
            whose labels are BIO.
        inputs: texts of any length.
        batch: rows that are read together; the result does not depend on it.

    Raises:
        UsageError: the model does not tag, or a text is empty.

    >>> tag(model, "Anna went home.")  # doctest: +SKIP
    [Entity(start=0, end=4, label='person', text='Anna')]
    """
    model.must_be_for("tag")
    texts = given_texts(inputs)
    names = model.network.config.head.names
    found = [
        [Entity(start, end, label, text[start:end]) for start, end, label in spans]
        for text, spans in zip(
            texts, tag_texts(model.network, model.frame, texts, names, batch), strict=True
        )
    ]
    return found[0] if isinstance(inputs, str) else found
