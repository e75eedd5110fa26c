"""Attention(Q, K, V) = softmax(QKᵀ/√d)V, for any x that looks at any memory.

Knows: heads, and the description of who may look at whom. Owns neither positions nor masks nor
caches: all three are passed in. The arithmetic is in `kernel.py`.
"""

from jaxtyping import Float
from torch import Tensor, nn

from yantai.core.cache import Cache
from yantai.core.config import ModelConfig
from yantai.core.kernel import attend, attend_openly
from yantai.core.layers import Joint, Linear, Point, make_norm
from yantai.core.mask import Mask
from yantai.core.position import Rotary, rotate

Stream = Float[Tensor, "batch query dim"]


class Attention(nn.Module):
    """Several heads, concatenated and projected (arXiv 1706.03762, section 3.2)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.scale = config.head_dim**-0.5 if "scores" in config.scaled else 1.0
        self.dropout = config.dropout
        inner, kv_inner = config.heads * self.head_dim, config.kv_heads * self.head_dim
        widths = {"q": inner, "k": kv_inner, "v": kv_inner}
        self.qkv = Joint(config.dim, widths, bias="qkv" in config.biases)
        self.out = Linear(inner, config.dim, bias="out" in config.biases)
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            self.q_norm = make_norm(config.norm, self.head_dim, config.norm_eps)
            self.k_norm = make_norm(config.norm, self.head_dim, config.norm_eps)
        self.scores, self.pattern = Point(), Point()

    def forward(
        self,
        x: Stream,
        memory: Float[Tensor, "batch key dim"] | None,
        mask: Mask,
        rotary: Rotary | None = None,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> Stream:
        """Each query gathers values of the keys it may see: of its own stream, or of a memory."""
        return self.write(self.mix(*self.read(x, memory, rotary, cache, layer), mask))

    def read(
        self,
        x: Stream,
        memory: Float[Tensor, "batch key dim"] | None,
        rotary: Rotary | None = None,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each "batch head position head_dim"."""
        if memory is None:
            q, k, v = (part.transpose(1, 2) for part in self._of_stream(x, rotary))
            if cache is not None:
                k, v = cache.extend(layer, k, v)
        else:
            q = self._heads(self.qkv.part("q")(x))

            def read() -> tuple[Tensor, Tensor]:
                k, v = (self._heads(self.qkv.part(name)(memory)) for name in "kv")
                return k, v

            k, v = cache.keep(layer, read) if cache is not None else read()
        return q, k, v

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """What each query gathers, "batch head query head_dim"."""
        dropout = self.dropout if self.training else 0.0
        if self.scores._forward_hooks or self.pattern._forward_hooks:
            return attend_openly(q, k, v, mask, self.scale, dropout, self.scores, self.pattern)
        return attend(q, k, v, mask, self.scale, dropout)

    def write(self, mixed: Tensor) -> Stream:
        """Heads end to end, and projected."""
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Float[Tensor, "batch head position head_dim"]:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _of_stream(self, x: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each "batch position head head_dim"."""
        plainly_turned = rotary is not None and self.q_norm is None
        whole = self.qkv.together(x) if plainly_turned else None
        if whole is not None:  # side by side in memory: turned as one
            heads = whole.unflatten(-1, (-1, self.head_dim))
            qk, v = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
            q, k = rotate(qk, rotary).split((self.heads, self.kv_heads), dim=2)
            return q, k, v
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in self.qkv(x))
        return rotate(q, rotary, self.q_norm), rotate(k, rotary, self.k_norm), v
