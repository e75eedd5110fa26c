"""A vector for a text: the mean of what the model makes of its tokens.

Knows: encoders, and the encoders of encoder–decoders; a decoder gives its hidden vectors.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from yantai.base.errors import UsageError
from yantai.core.mask import valid_keys
from yantai.infer.language_model import LanguageModel

BATCH_TOKENS = 8192


@torch.inference_mode()
def embed(model: LanguageModel, inputs: str | Sequence[str]) -> Float[Tensor, "text dim"]:
    """Vectors of length 1, so that a product of two is the cosine between them; float32.

    Args:
        model: with a tokenizer.
        inputs: texts; one that is longer than the model's context is cut at its end.

    Raises:
        UsageError: a text is empty.
    """
    texts = [inputs] if isinstance(inputs, str) else list(inputs)
    limit = model.network.config.max_positions
    rows = [model.tokenizer.prompt(text)[:limit] for text in texts]
    if not all(rows):
        raise UsageError("E201", f"inputs[{rows.index([])}]", "an empty text has no vector")
    found = torch.empty(len(rows), model.network.config.dim)
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))  # little padding
    while order:
        longest = len(rows[order[-1]])
        size = max(1, BATCH_TOKENS // longest)
        order, chosen = order[:-size], order[-size:]
        found[chosen] = _means(model, [rows[number] for number in chosen])
    return torch.nn.functional.normalize(found, dim=-1)


def _means(model: LanguageModel, rows: list[list[int]]) -> Float[Tensor, "text dim"]:
    network = model.network
    device = next(network.parameters()).device
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    valid = torch.arange(longest, device=device) < lengths[:, None]
    if model.shape == "decoder":
        hidden = network.hidden(ids)  # padding stands behind, where order hides it
    else:
        mask = None if bool(valid.all()) else valid_keys(valid)
        hidden = network.encode(ids, mask=mask).hidden
    kept = hidden.float() * valid[:, :, None]
    return (kept.sum(1) / lengths[:, None]).cpu()
