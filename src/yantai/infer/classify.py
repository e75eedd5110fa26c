"""`yantai.classify`: labels for texts, one at a time or many.

Knows: a model whose head judges. How a text is judged is the task's business, so that training,
evaluation and use cannot differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from yantai.infer.inputs import given_texts
from yantai.infer.language_model import LanguageModel
from yantai.tasks.classify import judgements


@dataclass(frozen=True)
class Judgement:
    """What a model says of a text.

    Attributes:
        labels: the likeliest one; where several may hold, all that are likelier than not.
        probabilities: of each label; they sum up to 1, unless several may hold.
    """

    labels: tuple[str, ...]
    probabilities: dict[str, float]

    @property
    def label(self) -> str:
        """The likeliest label."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def probability(self) -> float:
        """Of that label."""
        return self.probabilities[self.label]


@overload
def classify(model: LanguageModel, inputs: str, *, batch: int = 8) -> Judgement: ...
@overload
def classify(model: LanguageModel, inputs: Sequence[str], *, batch: int = 8) -> list[Judgement]: ...
def classify(
    model: LanguageModel, inputs: str | Sequence[str], *, batch: int = 8
) -> Judgement | list[Judgement]:
    """Judge one text or several.

    Args:
        model: one that `yantai finetune --task classify` made, or a classifier of `transformers`.
        inputs: texts; one that is longer than the model's context is cut at its end.
        batch: rows that are read together; the result does not depend on it.

    Raises:
        UsageError: the model does not classify, or a text is empty.

    >>> classify(model, "A lovely day.").label  # doctest: +SKIP
    'positive'
    """
    model.must_be_for("classify")
    texts = given_texts(inputs)
    head = model.network.config.head
    logits = judgements(model.network, model.frame, texts, batch)
    names, several = head.names, head.several
    chances = logits.sigmoid() if several else logits.softmax(-1)
    found = []
    for row in chances.tolist():
        table = dict(zip(names, row, strict=True))
        likeliest = max(table, key=table.__getitem__)
        kept = tuple(name for name in names if table[name] > 0.5) if several else (likeliest,)
        found.append(Judgement(kept, table))
    return found[0] if isinstance(inputs, str) else found
