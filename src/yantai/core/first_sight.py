"""First weights of models that are asked for hidden words, so that they begin by looking around.

Knows: entries, blocks and numbers of distances. From plain random weights such a model has to find
out from hidden tokens alone what "beside" means: every head begins by looking everywhere, the first
gradients towards its scores are noise, and the loss stays at word frequencies for thousands of
steps of a small batch. All of it is learned on; the idea is that of mimetic initialisation (arXiv
2305.09828).

Where positions are learned, they begin as sinusoids in dimensions that no token uses, and each
head of the first block as a look at one neighbour, whose vector it hands on in part. Where
distances have numbers, these fall with the distance, for each head on another side. And a decoder's
first look at the source is for the token that it stands at: what is missing where a mark stands, is
told by what stands around that mark.

An encoder that has read nothing and is to judge whole texts begins with a last look at all tokens
alike, so that its first judgement is of their mean and not of one place.
"""

import torch
from torch import Tensor

from yantai.core.config import ModelConfig
from yantai.core.model import Transformer
from yantai.core.position import relative_buckets, sinusoids
from yantai.core.stack import Stack

SHARPNESS = 96.0
"""The first score of a head for the very place that it looks at; far places have nearly 0."""
HANDED_ON = 0.5
"""The share of a neighbour's vector that a head adds to the stream."""
FALL = 2.0
"""How much a score falls at first: with the logarithm of a distance (as arXiv 2205.09921 has it for
good), at the place itself, and on the side that a head does not look at."""
HEARD = 4.0
"""How much longer than it is the mean of all tokens is, when it is added to the stream."""
FOUND = 8.0
"""The first score of a token of the source that is the very one; of others about ±1."""


def look_around(model: Transformer, generator: torch.Generator) -> None:
    """Rewrite the weights that decide what is looked at first, where the model has such."""
    if model.config.position == "relative":
        for stack in (model.encoder, model.decoder):
            if stack is not None:
                look_nearby(stack)
    elif model.encoder is not None:
        look_at_neighbours(model.encoder, model.embed.tokens.weight, generator)
    if model.decoder is not None and model.decoder.cross:
        look_for_the_same(model.decoder, generator)


@torch.no_grad()
def look_nearby(stack: Stack) -> None:
    """Rewrite the numbers of distances: even heads look back, odd ones ahead, where they may."""
    config = stack.config
    assert stack.relative is not None
    farthest = config.relative.distance
    ahead = torch.arange(-farthest, farthest + 1 if stack.both_ways else 1)
    buckets = relative_buckets(ahead, config, both_ways=stack.both_ways)
    for head in range(config.heads):
        fall = ahead.abs().clamp_min(1).log() + (ahead == 0)
        if stack.both_ways:
            fall += ahead * (1 if head % 2 else -1) < 0
        for bucket in buckets.unique().tolist():
            stack.relative.weight[bucket, head] = -FALL * fall[buckets == bucket].mean()


@torch.no_grad()
def look_for_the_same(stack: Stack, generator: torch.Generator) -> None:
    """Rewrite queries and keys of the first cross-attention: both are one look at a vector."""
    config = stack.config
    part = dict(stack.blocks[0].get_submodule("cross.part").named_parameters())
    q, k = part["qkv.q.weight"], part["qkv.k.weight"]
    # a vector behind a norm has dim as its squared length, and what a head sees of it head_dim
    gain = (FOUND / config.head_dim / _scale(config)) ** 0.5
    size, group = min(config.head_dim, config.dim), config.heads // config.kv_heads
    for head in range(config.kv_heads):
        drawn = torch.randn(config.dim, size, generator=generator)
        look = torch.linalg.qr(drawn)[0].mT * gain
        for matrix, heads in ((k, (head,)), (q, range(head * group, (head + 1) * group))):
            for each in heads:
                matrix[each * config.head_dim : each * config.head_dim + size] = look


def _scale(config: ModelConfig) -> float:
    """What scores are multiplied with."""
    return config.head_dim**-0.5 if "scores" in config.scaled else 1.0


def neighbour_of(head: int) -> int:
    """The place, relative to its own, that a head begins to look at.

    >>> [neighbour_of(head) for head in range(6)]
    [-1, 1, -2, 2, -3, 3]
    """
    return (head // 2 + 1) * (1 if head % 2 else -1)


@torch.no_grad()
def look_at_neighbours(stack: Stack, tokens: Tensor, generator: torch.Generator) -> None:
    """Rewrite the weights of positions, of tokens where positions stand, and of the first block.

    For the sinusoids s(p) of a place p and the turn R with s(p + n) = R·s(p), the queries of a
    head are R·s and its keys s, so that its score is highest at p + n.

    Args:
        stack: of blocks that read both ways, with learned positions and a norm behind them.
        tokens: the embedding, shape "vocab dim"; what it has in the first dimensions becomes 0.
        generator: of the directions that a head hands on.
    """
    config, entry = stack.config, stack.entry
    attention = dict(stack.blocks[0].get_submodule("attn.part").named_parameters())
    q, k, v, out = (attention[f"{name}.weight"] for name in ("qkv.q", "qkv.k", "qkv.v", "out"))
    assert entry.positions is not None
    width = min(config.head_dim, config.dim // 2) // 2 * 2  # dimensions for positions
    tokens[:, :width] = 0.0
    tokens[:, width:] *= (1 - width / config.dim) ** -0.5  # as long as before
    if entry.types is not None:
        entry.types.weight.zero_()
    rows = entry.positions.weight
    places = torch.arange(len(rows))[None]
    # twice the squared length of a token, whose vector stands in the other dimensions
    length = float(tokens.std()) * (2 * config.dim) ** 0.5
    rows.zero_()
    rows[:, :width] = sinusoids(places, width)[0] * length / (width / 2) ** 0.5
    # behind the norm a place has two thirds of the squared length, which is dim
    gain = (SHARPNESS * 1.5 / config.dim / _scale(config)) ** 0.5
    directions = torch.randn(config.heads, config.dim - width, config.head_dim, generator=generator)
    for head, drawn in enumerate(directions):
        start, stop = head * config.head_dim, (head + 1) * config.head_dim
        q[start:stop], k[start:stop] = 0.0, 0.0
        q[start : start + width, :width] = turn(neighbour_of(head), width) * gain
        k[start : start + width, :width] = torch.eye(width) * gain
        handed = torch.linalg.qr(drawn)[0].mT  # orthonormal rows
        stop = start + len(handed)
        v[start:stop], out[:, start:stop] = 0.0, 0.0
        v[start:stop, width:] = handed
        out[width:, start:stop] = handed.mT * HANDED_ON


@torch.no_grad()
def look_at_all(stack: Stack, generator: torch.Generator) -> None:
    """Rewrite the last block's attention: every place hears the mean of all, in all dimensions.

    Scores begin near zero, so each head weighs all tokens nearly alike; values are one turn of the
    stream and the output turns them back.

    Args:
        stack: of blocks that read both ways, with as many heads of keys as of queries.
        generator: of the turn.
    """
    part = dict(stack.blocks[-1].get_submodule("attn.part").named_parameters())
    for name in ("qkv.q", "qkv.k"):
        part[f"{name}.weight"].mul_(0.1)
        if f"{name}.bias" in part:
            part[f"{name}.bias"].zero_()
    values, out = part["qkv.v.weight"], part["out.weight"]
    drawn = torch.randn(max(values.shape), min(values.shape), generator=generator)
    turned = torch.linalg.qr(drawn)[0]
    values.copy_(turned if turned.shape == values.shape else turned.mT)
    out.copy_(values.mT * HEARD)


def turn(places: int, width: int) -> Tensor:
    """R with sinusoids(p + places) = R·sinusoids(p), shape "width width"."""
    angles = places * 10_000.0 ** (-torch.arange(0, width, 2) / width)
    matrix = torch.zeros(width, width)
    for pair, (cos, sin) in enumerate(zip(angles.cos(), angles.sin(), strict=True)):
        at = slice(2 * pair, 2 * pair + 2)  # a pair is (sin, cos)
        matrix[at, at] = torch.stack((torch.stack((cos, sin)), torch.stack((-sin, cos))))
    return matrix
