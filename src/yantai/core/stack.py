"""Blocks on a residual stream, and a stack of them.

Knows: the order attention → cross-attention → MLP and where the norms stand. A block is a short
word: `[attn, mlp]`, or `[attn, cross, mlp]` where the stack looks at another one's output.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yantai.core.attention import Attention
from yantai.core.cache import Cache
from yantai.core.config import ModelConfig
from yantai.core.layers import MLP, Point, Table, dropout, look, make_norm
from yantai.core.mask import Mask
from yantai.core.position import Rotary, relative_buckets, sinusoids

Stream = Float[Tensor, "batch position dim"]
Index = Int[Tensor, "#batch position"]


class Memory(NamedTuple):
    """An encoder's output and who of it may be seen."""

    hidden: Float[Tensor, "batch key dim"]
    mask: Mask


class Sight(NamedTuple):
    """What all blocks of a forward share: who sees whom, and from where."""

    mask: Mask
    rotary: Rotary | None = None
    memory: Memory | None = None


class Sublayer(nn.Module):
    """A norm and a residual round any part: x + f(norm(x)), or norm(x + f(x))."""

    def __init__(self, config: ModelConfig, part: nn.Module):
        super().__init__()
        self.norm = make_norm(config.norm, config.dim, config.norm_eps)
        self.part = part
        self.before = config.norm_where == "before"
        self.dropout = config.dropout
        self.out = Point()

    def forward(self, x: Stream, *args, **kwargs) -> Stream:
        """The stream with this part's contribution."""
        return self.leave(x, self.part(self.enter(x), *args, **kwargs))

    def enter(self, x: Stream) -> Stream:
        """What the part reads."""
        return self.norm(x) if self.before else x

    def leave(self, x: Stream, y: Stream) -> Stream:
        """The stream with what the part said."""
        y = look(self.out, y)
        y = dropout(y, self.dropout, self.training)
        return x + y if self.before else self.norm(x + y)


class Block(nn.Module):
    """Attention, then cross-attention where there is something to look at, then the MLP."""

    def __init__(self, config: ModelConfig, *, cross: bool = False):
        super().__init__()
        self.attn = Sublayer(config, Attention(config))
        self.cross = Sublayer(config, Attention(config)) if cross else None
        self.mlp = Sublayer(config, MLP(config))
        self.resid_pre, self.resid_mid, self.resid_post = Point(), Point(), Point()

    def forward(self, x: Stream, sight: Sight, cache: Cache | None, layer: int) -> Stream:
        """One step along the stream."""
        x = look(self.resid_pre, x)
        x = self.attn(x, None, sight.mask, sight.rotary, cache, layer)
        if self.cross is not None:
            assert sight.memory is not None, "a block with cross-attention needs a memory"
            x = self.cross(x, *sight.memory, None, cache, layer)
        x = look(self.resid_mid, x)
        return look(self.resid_post, self.mlp(x))


class Entry(nn.Module):
    """What comes to a token's vector before the first block: its place, its type, a norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        rows, self.offset = config.max_positions + config.position_offset, config.position_offset
        self.positions = Table(rows, config.dim) if config.position == "learned" else None
        self.sinusoidal = config.position == "sinusoidal"
        self.types = Table(config.token_types, config.dim) if config.token_types else None
        after = config.norm_embedding
        self.norm = make_norm(config.norm, config.dim, config.norm_eps) if after else None
        self.dropout = config.dropout

    def forward(self, x: Stream, positions: Index | None, types: Index | None) -> Stream:
        """The stream's beginning."""
        if self.types is not None:
            one = types is None or len(self.types.weight) == 1  # as RoBERTa has it
            kinds = x.new_zeros(x.shape[:2], dtype=torch.long) if one else types
            x = x + self.types(kinds)
        if self.positions is not None:
            assert positions is not None
            x = x + self.positions(positions + self.offset)
        if self.sinusoidal:
            assert positions is not None
            x = x + sinusoids(positions, x.shape[-1]).to(x.dtype)
        if self.norm is not None:
            x = self.norm(x)
        return dropout(x, self.dropout, self.training)


class Stack(nn.Module):
    """An entry, all blocks, and the last norm where norms stand before the parts.

    `around` wraps the call of each block; recomputation and compilation are such wrappers.
    """

    def __init__(self, config: ModelConfig, layers: int, *, both_ways: bool, cross: bool = False):
        super().__init__()
        self.config, self.both_ways, self.cross = config, both_ways, cross
        self.entry = Entry(config)
        buckets = config.relative.buckets
        relative = config.position == "relative"
        self.relative = Table(buckets, config.heads) if relative else None
        self.blocks = nn.ModuleList(Block(config, cross=cross) for _ in range(layers))
        before = config.norm_where == "before"
        self.norm = make_norm(config.norm, config.dim, config.norm_eps) if before else None
        self.around: Callable | None = None

    def forward(self, x: Stream, sight: Sight, cache: Cache | None = None) -> Stream:
        """From what the entry gave to the last hidden vectors."""
        if self.relative is not None:
            sight = sight._replace(mask=self._with_distances(sight.mask, x))
        for layer, block in enumerate(self.blocks):
            if self.around is not None:
                x = self.around(block, x, sight, cache, layer)
            else:
                x = block(x, sight, cache, layer)
        return self.norm(x) if self.norm is not None else x

    def _with_distances(self, mask: Mask, x: Stream) -> Mask:
        """The mask with a number for each distance, the same in all blocks."""
        assert self.relative is not None
        keys = mask.query_start + x.shape[1]
        ahead = torch.arange(1 - keys, keys, device=x.device)
        buckets = relative_buckets(ahead, self.config, both_ways=self.both_ways)
        return replace(mask, distances=self.relative(buckets).t())
