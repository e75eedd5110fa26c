"""First weights of an encoder with learned positions whose first block looks at neighbours.

Knows: an entry and one block. From plain random weights such an encoder has to find out from
hidden tokens alone what "beside" means: every head begins by looking everywhere, the first
gradients towards its scores are noise, and the loss stays at word frequencies for thousands of
steps of a small batch. Here positions begin as sinusoids in dimensions that no token uses, and
each head of the first block as a look at one neighbour, whose vector it hands on in part. All of
it is learned on; the idea is that of mimetic initialisation (arXiv 2305.09828).
"""

import torch
from torch import Tensor

from yantai.core.position import sinusoids
from yantai.core.stack import Stack

SHARPNESS = 96.0
"""The first score of a head for the very place that it looks at; far places have nearly 0."""
HANDED_ON = 0.5
"""The share of a neighbour's vector that a head adds to the stream."""


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
    scale = config.head_dim**-0.5 if "scores" in config.scaled else 1.0
    gain = (SHARPNESS * 1.5 / config.dim / scale) ** 0.5
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


def turn(places: int, width: int) -> Tensor:
    """R with sinusoids(p + places) = R·sinusoids(p), shape "width width"."""
    angles = places * 10_000.0 ** (-torch.arange(0, width, 2) / width)
    matrix = torch.zeros(width, width)
    for pair, (cos, sin) in enumerate(zip(angles.cos(), angles.sin(), strict=True)):
        at = slice(2 * pair, 2 * pair + 2)  # a pair is (sin, cos)
        matrix[at, at] = torch.stack((torch.stack((cos, sin)), torch.stack((-sin, cos))))
    return matrix
