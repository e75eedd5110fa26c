"""`yantai.embed`: a vector for a text, the mean of what the model makes of its tokens.

Knows: encoders, and the encoders of encoder–decoders; a decoder gives its hidden vectors. How they
are made is the task's business, so that training, evaluation and use cannot differ.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from yantai.infer.inputs import given_texts
from yantai.infer.language_model import LanguageModel
from yantai.tasks.frame import Frame
from yantai.tasks.similar import text_vectors


def embed(model: LanguageModel, inputs: str | Sequence[str]) -> Float[Tensor, "text dim"]:
    """Vectors of length 1, so that a product of two is the cosine between them; float32.

    Args:
        model: with a tokenizer.
        inputs: texts; one that is longer than the model's context is cut at its end.

    Raises:
        UsageError: a text is empty.
    """
    return vectors(model, given_texts(inputs))


def vectors(model: LanguageModel, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
    """The same of texts that somebody has looked at."""
    frame = Frame(model.tokenizer, model.shape, model.length)
    return text_vectors(model.network, frame, texts)
