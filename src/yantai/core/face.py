"""What every network of the house is to those who train, decode and measure it.

Knows: ids go in; hidden vectors, logits or a loss come out. How they are made is the business of
`model.py` (Transformers) and `recurrent.py` (the older networks).
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yantai.core.cache import Cache, States
from yantai.core.config import ModelConfig, RecurrentConfig
from yantai.core.head import Head, cross_entropy_sum, places_of, soft_cap, token_log_probabilities
from yantai.core.layers import Table
from yantai.core.mask import Mask
from yantai.core.stack import Memory

Ids = Int[Tensor, "batch position"]
Positions = Int[Tensor, "#batch position"]
Hidden = Float[Tensor, "batch position dim"]


class Embedding(nn.Module):
    """One vector a token, shared by all stacks."""

    def __init__(self, config: ModelConfig | RecurrentConfig):
        super().__init__()
        self.tokens = Table(config.vocab_size, config.dim)
        self.scale = config.dim**0.5 if "embedding" in config.scaled else None

    def forward(self, ids: Ids) -> Hidden:
        """The vectors of the ids."""
        x = self.tokens(ids)
        return x if self.scale is None else x * self.scale


class Model(nn.Module):
    """A language model, whatever is between its embedding and its `head`.

    Built on the meta device it allocates nothing; `initialise.py` or a file gives it weights.
    `compute_dtype` is the type of the stream; None means that of the weights.
    """

    head: Head

    def __init__(self, config: ModelConfig | RecurrentConfig):
        super().__init__()
        self.config: Any = config
        self.compute_dtype: torch.dtype | None = None
        self.embed = Embedding(config)

    def tie(self) -> None:
        """Let the head be the embedding, where the config says so; call after replacing weights."""
        if self.config.shares_embedding and "weight" in self.head._parameters:
            self.head.weight = self.embed.tokens.weight

    def new_cache(
        self, batch: int, length: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> Cache | States:
        """What `hidden` keeps of positions it has read; room for `length` of them."""
        raise NotImplementedError

    def encode(
        self,
        ids: Ids,
        *,
        mask: Mask | None = None,
        positions: Positions | None = None,
        types: Positions | None = None,
    ) -> Memory:
        """What an encoder makes of ids: vectors, and the mask that says who of them is there.

        Args:
            ids: token ids.
            mask: padding, documents; every token sees every other one that they allow.
            positions: the place of each token; by default counted from 0.
            types: the kind of each token, for models that know kinds; by default 0.
        """
        raise NotImplementedError

    def hidden(
        self,
        ids: Ids,
        *,
        mask: Mask | None = None,
        positions: Positions | None = None,
        types: Positions | None = None,
        cache: Any = None,
        memory: Memory | None = None,
    ) -> Hidden:
        """The vectors that the head reads.

        Args:
            ids: token ids.
            mask: further conditions; the order of a decoder is understood.
            positions: the place of each token; by default counted from the cache's filled length.
            types: as for `encode`.
            cache: what was read before; it is extended by these ids.
            memory: what an encoder–decoder's encoder made of the source.
        """
        raise NotImplementedError

    def forward(self, ids: Ids, **kwargs: Any) -> Float[Tensor, "batch position vocab"]:
        """Logits at every position; arguments as in `hidden`."""
        return self.logits_of(self.hidden(ids, **kwargs))

    def logits_of(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """The head alone."""
        return soft_cap(self.head(hidden), self.head.cap)

    def loss_sum(
        self, ids: Ids, targets: Ids, mask: Mask | None = None, positions: Positions | None = None
    ) -> Float[Tensor, ""]:
        """The sum of −ln p(target) over targets ≥ 0; divide by their count of the whole step."""
        return self.loss_of(self.hidden(ids, mask=mask, positions=positions), targets)

    def loss_of(
        self, hidden: Hidden, targets: Ids, smoothing: float = 0.0, count: int | None = None
    ) -> Float[Tensor, ""]:
        """The same from hidden vectors; nothing is computed where there is no target.

        Args:
            hidden: of every position.
            targets: what to predict there; none where it is negative.
            smoothing: the share of each target that all entries have alike.
            count: how many targets there are, for a GPU, which is then not waited for.
        """
        head, rows, aims = self.head, hidden.flatten(0, 1), targets.flatten()
        count = count if aims.device.type != "cpu" else None
        if head.transform is not None:
            places = places_of(aims, count)
            rows, aims = rows.index_select(0, places), aims[places]
        return cross_entropy_sum(
            head.ready(rows), head.weight, aims, head.cap, head.bias, smoothing, count,
            head.of_chunk,
        )  # fmt: skip

    def log_probabilities(
        self, hidden: Float[Tensor, "row dim"], targets: Int[Tensor, "row"]
    ) -> Float[Tensor, "row"]:
        """ln p(target) of each row, float32."""
        head = self.head
        rows = head.ready(hidden)
        return token_log_probabilities(rows, head.weight, targets, head.cap, head.bias)
