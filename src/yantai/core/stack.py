"""Blocks on a residual stream, and a stack of them.

Knows: the order attention → MLP and where the norms stand. A block is a short word, `[attn, mlp]`.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import dropout

from yantai.core.attention import Attention
from yantai.core.cache import Cache
from yantai.core.config import ModelConfig
from yantai.core.layers import MLP, Point, look, make_norm
from yantai.core.mask import Mask
from yantai.core.position import Rotary

Stream = Float[Tensor, "batch position dim"]


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
        y = self.part(self.norm(x) if self.before else x, *args, **kwargs)
        y = look(self.out, y)
        if self.dropout and self.training:
            y = dropout(y, self.dropout)
        return x + y if self.before else self.norm(x + y)


class Block(nn.Module):
    """Attention, then the MLP."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attn = Sublayer(config, Attention(config))
        self.mlp = Sublayer(config, MLP(config))
        self.resid_pre, self.resid_mid, self.resid_post = Point(), Point(), Point()

    def forward(
        self, x: Stream, mask: Mask, rotary: Rotary | None, cache: Cache | None, layer: int
    ) -> Stream:
        """One step along the stream."""
        x = look(self.resid_pre, x)
        x = look(self.resid_mid, self.attn(x, mask, rotary, cache, layer))
        return look(self.resid_post, self.mlp(x))


class Stack(nn.Module):
    """All blocks, and the last norm where norms stand before the parts.

    `around` wraps the call of each block; recomputation in training is such a wrapper.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        before = config.norm_where == "before"
        self.norm = make_norm(config.norm, config.dim, config.norm_eps) if before else None
        self.around: Callable | None = None

    def forward(
        self, x: Stream, mask: Mask, rotary: Rotary | None = None, cache: Cache | None = None
    ) -> Stream:
        """From embeddings to the last hidden vectors."""
        for layer, block in enumerate(self.blocks):
            if self.around is not None:
                x = self.around(block, x, mask, rotary, cache, layer)
            else:
                x = block(x, mask, rotary, cache, layer)
        return self.norm(x) if self.norm is not None else x
