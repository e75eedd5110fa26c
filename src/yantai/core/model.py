"""The model: embeddings, stacks, a head. Ids go in; hidden vectors, logits or a loss come out.

Knows: how the parts meet. Decoder-only, encoder-only and encoder–decoder differ in which stacks
exist. Knows no family, no file, no tokenizer.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yantai.core.cache import Cache
from yantai.core.config import ModelConfig
from yantai.core.head import Head, cross_entropy_sum, soft_cap, token_log_probabilities
from yantai.core.layers import Table
from yantai.core.mask import Mask
from yantai.core.position import rotary_angles
from yantai.core.stack import Memory, Sight, Stack

Ids = Int[Tensor, "batch position"]
Positions = Int[Tensor, "#batch position"]
Hidden = Float[Tensor, "batch position dim"]


class Embedding(nn.Module):
    """One vector a token, shared by all stacks."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = Table(config.vocab_size, config.dim)
        self.scale = config.dim**0.5 if "embedding" in config.scaled else None

    def forward(self, ids: Ids) -> Hidden:
        """The vectors of the ids."""
        x = self.tokens(ids)
        return x if self.scale is None else x * self.scale


class Transformer(nn.Module):
    """A language model of one of three shapes.

    Built on the meta device it allocates nothing; `initialise.py` or a file gives it weights.
    `compute_dtype` is the type of the stream; None means that of the weights.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embed = Embedding(config)
        self.encoder = self.decoder = None
        if config.shape != "decoder":
            layers = config.encoder_layers or config.layers
            self.encoder = Stack(config, layers, both_ways=True)
        if config.shape != "encoder":
            cross = config.shape == "encoder-decoder"
            self.decoder = Stack(config, config.layers, both_ways=False, cross=cross)
        self.head = Head(config)
        self.tie()

    def tie(self) -> None:
        """Let the head be the embedding, where the config says so; call after replacing weights."""
        if self.config.tied:
            self.head.weight = self.embed.tokens.weight

    @property
    def stacks(self) -> list[Stack]:
        """Those that there are, the encoder first."""
        return [stack for stack in (self.encoder, self.decoder) if stack is not None]

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
        assert self.encoder is not None, "this model has no encoder"
        mask = Mask(window=self.config.window) & (mask or Mask())
        hidden = self._through(self.encoder, ids, mask, positions, types, None, None)
        return Memory(hidden, Mask(valid=mask.valid))

    def hidden(
        self,
        ids: Ids,
        *,
        mask: Mask | None = None,
        positions: Positions | None = None,
        types: Positions | None = None,
        cache: Cache | None = None,
        memory: Memory | None = None,
    ) -> Hidden:
        """The vectors behind the last norm.

        Args:
            ids: token ids.
            mask: further conditions; a decoder's causality and the config's window are added.
            positions: the place of each token; by default counted from the cache's filled length.
            types: as for `encode`.
            cache: what was read before; it is extended by these ids.
            memory: what an encoder–decoder's encoder made of the source.
        """
        if self.decoder is None:
            return self.encode(ids, mask=mask, positions=positions, types=types).hidden
        start = cache.filled if cache is not None else 0
        mask = Mask(causal=True, window=self.config.window, query_start=start) & (mask or Mask())
        return self._through(self.decoder, ids, mask, positions, types, cache, memory)

    def _through(
        self,
        stack: Stack,
        ids: Ids,
        mask: Mask,
        positions: Positions | None,
        types: Positions | None,
        cache: Cache | None,
        memory: Memory | None,
    ) -> Hidden:
        start, count = mask.query_start, ids.shape[1]
        rotary = None
        if positions is None and cache is not None and cache.rotary is not None:
            rotary = cache.rotary.at(start, start + count)
        elif positions is None:
            positions = torch.arange(start, start + count, device=ids.device)[None]
        x = stack.entry(self.embed(ids), positions, types)
        dtype = self.compute_dtype or x.dtype
        if self.config.position == "rotary" and rotary is None and positions is not None:
            rotary = rotary_angles(positions, self.config, dtype)
        if cache is not None:
            cache.open(count)
        x = stack(x.to(dtype), Sight(mask, rotary, memory), cache)
        if cache is not None:
            cache.advance(count)
        return x

    def forward(self, ids: Ids, **kwargs: Any) -> Float[Tensor, "batch position vocab"]:
        """Logits at every position; arguments as in `hidden`."""
        return self.logits_of(self.hidden(ids, **kwargs))

    def logits_of(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """The head alone."""
        return soft_cap(self.head(hidden), self.config.softcap)

    def loss_sum(
        self, ids: Ids, targets: Ids, mask: Mask | None = None, positions: Positions | None = None
    ) -> Float[Tensor, ""]:
        """The sum of −ln p(target) over targets ≥ 0; divide by their count of the whole step."""
        return self.loss_of(self.hidden(ids, mask=mask, positions=positions), targets)

    def loss_of(self, hidden: Hidden, targets: Ids) -> Float[Tensor, ""]:
        """The same from hidden vectors; nothing is computed where there is no target."""
        rows, aims = hidden.flatten(0, 1), targets.flatten()
        if self.head.transform is not None:
            rows, aims = rows[aims >= 0], aims[aims >= 0]
        head = self.head
        return cross_entropy_sum(
            head.ready(rows), head.weight, aims, self.config.softcap, head.bias
        )

    def log_probabilities(
        self, hidden: Float[Tensor, "row dim"], targets: Int[Tensor, "row"]
    ) -> Float[Tensor, "row"]:
        """ln p(target) of each row, float32."""
        head = self.head
        rows = head.ready(hidden)
        return token_log_probabilities(rows, head.weight, targets, self.config.softcap, head.bias)
