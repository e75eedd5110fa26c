"""`yantai.translate`, `yantai.summarize`: texts out of texts, by models that were taught to.

Knows: how a source is put before a model (`tasks/seq2seq.py`, the same in training).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

from yantai.base.config import build
from yantai.base.errors import UsageError
from yantai.core.face import Model
from yantai.infer.generate import generate_ids
from yantai.infer.inputs import given_texts
from yantai.infer.language_model import LanguageModel
from yantai.infer.settings import Generation
from yantai.tasks.frame import Frame
from yantai.tasks.seq2seq import asker_of

BEAMS = 4
TOGETHER = 32
CUT = "\N{REPLACEMENT CHARACTER}"


class Rewrite(NamedTuple):
    """What was made of a source, and the tokens that were written for it, with the last one."""

    text: str
    tokens: int


def rewritten(
    network: Model, frame: Frame, sources: Sequence[str], batch: int = TOGETHER, **settings: Any
) -> list[str]:
    """The texts of `rewrites`."""
    return [each.text for each in rewrites(network, frame, sources, batch, **settings)]


def rewrites(
    network: Model, frame: Frame, sources: Sequence[str], batch: int = TOGETHER, **settings: Any
) -> list[Rewrite]:
    """What a model makes of each source, in their order; settings are those of `Generation`.

    Args:
        network: a decoder or an encoder–decoder, prepared (`infer/generate.py`).
        frame: how it reads.
        sources: texts.
        batch: how many are written together; the result does not depend on it.
    """
    asker = asker_of(frame)
    if settings.get("max_new_tokens") is None and settings.get("max_length") is None:
        settings["max_new_tokens"] = asker.answer_length
    if not settings.keys() & {"num_beams", "temperature", "do_sample", "top_k", "top_p", "seed"}:
        settings["num_beams"] = BEAMS
    chosen = build(Generation, settings, "generate")
    prompts = asker.prompts(sources)
    found = [Rewrite("", 0)] * len(sources)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for start in range(0, len(order), batch):
        numbers = order[start : start + batch]
        own = [prompts[number] for number in numbers]
        if frame.shape == "encoder-decoder":
            assert frame.start_id is not None
            begun = [[frame.start_id]] * len(own)
            rows = generate_ids(network, begun, chosen, asker.ends, sources=own)
        else:
            begun = own
            rows = generate_ids(network, own, chosen, asker.ends)
        for number, before, row in zip(numbers, begun, rows, strict=True):
            written = row[len(before) :]
            text = frame.tokenizer.decode(written)
            # at the longest length a character may be cut between its bytes
            text = (text if row[-1] in asker.ends else text.rstrip(CUT)).strip()
            found[number] = Rewrite(text, len(written))
    return found


def answer_length(frame: Frame) -> int:
    """Tokens that are written for a text at most, where nobody says how many."""
    return asker_of(frame).answer_length


def room_of(frame: Frame, job: str) -> int | None:
    """Tokens of a text that are read at once; None where a long one is read piece by piece."""
    if job in ("translate", "summarize"):
        return asker_of(frame).room
    if job == "embed":
        return frame.length - len(frame.tokenizer.prompt(""))
    return frame.room if job == "classify" else None


@overload
def translate(model: LanguageModel, inputs: str, **settings: Any) -> str: ...
@overload
def translate(model: LanguageModel, inputs: Sequence[str], **settings: Any) -> list[str]: ...
def translate(
    model: LanguageModel, inputs: str | Sequence[str], **settings: Any
) -> str | list[str]:
    """Translate one text or several.

    Args:
        model: one that `yantai finetune --task translate` made.
        inputs: texts; a long one is cut at its end.
        settings: those of `Generation`; 4 beams by default.

    Raises:
        UsageError: the model writes nothing, or a text is empty.

    >>> translate(model, "Good morning.")  # doctest: +SKIP
    '早上好。'
    """
    if model.job or model.shape == "encoder":
        raise UsageError(
            "E201", "model", "writes no text", got=model.job or model.shape,
            do="make one with yantai finetune",
        )  # fmt: skip
    texts = given_texts(inputs)
    found = rewritten(model.network, model.frame, texts, **settings)
    return found[0] if isinstance(inputs, str) else found


@overload
def summarize(model: LanguageModel, inputs: str, **settings: Any) -> str: ...
@overload
def summarize(model: LanguageModel, inputs: Sequence[str], **settings: Any) -> list[str]: ...
def summarize(
    model: LanguageModel, inputs: str | Sequence[str], **settings: Any
) -> str | list[str]:
    """Summarise one text or several; arguments as for `translate`.

    >>> summarize(model, "Ivan lost his goose …")  # doctest: +SKIP
    'A goose is lost and found.'
    """
    return translate(model, inputs, **settings)
