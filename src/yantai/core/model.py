"""The Transformer: embeddings, stacks, a head.

Knows: how the parts meet. Decoder-only, encoder-only and encoder–decoder differ in which stacks
exist. Knows no family, no file, no tokenizer.
"""

import torch

from yantai.core.cache import Cache
from yantai.core.config import ModelConfig
from yantai.core.face import Hidden, Ids, Model, Positions
from yantai.core.head import Head
from yantai.core.mask import Mask
from yantai.core.position import rotary_angles
from yantai.core.stack import Memory, Sight, Stack


class Transformer(Model):
    """A language model of one of three shapes."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.encoder = self.decoder = None
        if config.shape != "decoder":
            layers = config.encoder_layers or config.layers
            self.encoder = Stack(config, layers, both_ways=True)
        if config.shape != "encoder":
            cross = config.shape == "encoder-decoder"
            self.decoder = Stack(config, config.layers, both_ways=False, cross=cross)
        self.head = Head(config)
        self.tie()

    @property
    def stacks(self) -> list[Stack]:
        """Those that there are, the encoder first."""
        return [stack for stack in (self.encoder, self.decoder) if stack is not None]

    def new_cache(
        self, batch: int, length: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> Cache:
        """Room for the keys and values of so many positions."""
        return Cache(self.config, batch, length, dtype=dtype, device=device)

    def encode(
        self,
        ids: Ids,
        *,
        mask: Mask | None = None,
        positions: Positions | None = None,
        types: Positions | None = None,
    ) -> Memory:
        """As the face says; every token sees every other one that the mask allows."""
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
        """The vectors behind the last norm; a decoder's order and the window are added."""
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
