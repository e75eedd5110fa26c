"""The model: embeddings, a stack, a head. Ids go in; hidden vectors, logits or a loss come out.

Knows: how the parts meet. Knows no family, no file, no tokenizer.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yantai.core.cache import Cache
from yantai.core.config import ModelConfig
from yantai.core.head import cross_entropy_sum, soft_cap
from yantai.core.layers import Linear, Table
from yantai.core.mask import Mask
from yantai.core.position import rotary_angles
from yantai.core.stack import Stack

Ids = Int[Tensor, "batch position"]
Positions = Int[Tensor, "#batch position"]


class Embedding(nn.Module):
    """One vector a token, and one a position where positions are learned."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = Table(config.vocab_size, config.dim)
        learned = config.position == "learned"
        self.positions = Table(config.max_positions, config.dim) if learned else None

    def forward(self, ids: Ids, positions: Positions | None) -> Float[Tensor, "batch position dim"]:
        """The stream's beginning."""
        x = self.tokens(ids)
        return x if self.positions is None else x + self.positions(positions)


class Transformer(nn.Module):
    """A decoder-only language model.

    Built on the meta device it allocates nothing; `initialise.py` or a file gives it weights.
    `compute_dtype` is the type of the stream; None means that of the weights.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embed = Embedding(config)
        self.decoder = Stack(config)
        self.head = Linear(config.dim, config.vocab_size)
        self.tie()

    def tie(self) -> None:
        """Let the head be the embedding, where the config says so; call after replacing weights."""
        if self.config.tied:
            self.head.weight = self.embed.tokens.weight

    def hidden(
        self,
        ids: Ids,
        *,
        mask: Mask | None = None,
        positions: Positions | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch position dim"]:
        """The vectors behind the last norm.

        Args:
            ids: token ids.
            mask: further conditions; causality and the config's window are always added.
            positions: the place of each token; by default counted from the cache's filled length.
            cache: what was read before; it is extended by these ids.
        """
        start = cache.filled if cache is not None else 0
        stop = start + ids.shape[1]
        rotary = None
        if positions is None and cache is not None and cache.rotary is not None:
            rotary = cache.rotary.at(start, stop)
        elif positions is None:
            positions = torch.arange(start, stop, device=ids.device)[None]
        mask = Mask(causal=True, window=self.config.window, query_start=start) & (mask or Mask())
        x = self.embed(ids, positions)
        dtype = self.compute_dtype or x.dtype
        x = x.to(dtype)
        if self.config.dropout and self.training:
            x = nn.functional.dropout(x, self.config.dropout)
        if self.config.position == "rotary" and rotary is None and positions is not None:
            rotary = rotary_angles(positions, self.config, dtype)
        if cache is not None:
            cache.open(ids.shape[1])
        x = self.decoder(x, mask, rotary, cache)
        if cache is not None:
            cache.advance(ids.shape[1])
        return x

    def forward(self, ids: Ids, **kwargs) -> Float[Tensor, "batch position vocab"]:
        """Logits of the next token at every position; arguments as in `hidden`."""
        return self.logits_of(self.hidden(ids, **kwargs))

    def logits_of(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """The head alone."""
        return soft_cap(self.head(hidden), self.config.softcap)

    def loss_sum(
        self, ids: Ids, targets: Ids, mask: Mask | None = None, positions: Positions | None = None
    ) -> Float[Tensor, ""]:
        """The sum of −ln p(target) over targets ≥ 0; divide by their count of the whole step."""
        hidden = self.hidden(ids, mask=mask, positions=positions)
        return cross_entropy_sum(
            hidden.flatten(0, 1), self.head.weight, targets.flatten(), self.config.softcap
        )
