"""Adversarial training: a step is learned once more, with its vectors moved against the model.

Knows: an embedding, what it gives, and the gradient there. The idea is that of Miyato, Dai and
Goodfellow (arXiv 1605.07725, eq. 4), known as the fast gradient method: a text whose vectors moved
a little towards a higher loss is still that text, so its label has to stand, too. There each text
moves as far as every other one; here one that is hard moves farther than one that is easy, as
their gradients say, which judged better (LOG, 2026-11-29).
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from yantai.core.face import Embedding

Vectors = Float[Tensor, "batch position dim"]


class Nudge:
    """Moves what an embedding gives.

    First all batches of a step are `noted`, then all of them `moved`, in the same order. How far
    depends on all of the step, so neither on packing nor on how it is cut into batches.

    Args:
        embedding: of the model; each call of it in a forward is one place where vectors enter.
        size: how far vectors move, as a share of an entry's length; both are roots of means of
            squares, over the tokens of a step from which something is learned. 0: nothing moves.
    """

    def __init__(self, embedding: Embedding, size: float):
        self.embedding, self.size = embedding, size
        self._seen: list[Vectors] = []
        self._moves: Iterator[Vectors] = iter(())

    @property
    def passes(self) -> list[Callable[[], AbstractContextManager[None]]]:
        """Round the loss of a batch: of all batches the first, then of all the next."""
        return [self.noted, self.moved] if self.size else [nullcontext]

    @contextmanager
    def noted(self) -> Generator[None]:
        """While a loss is computed and differentiated: what enters is remembered."""

        def note(_: nn.Module, args: tuple[Tensor], vectors: Vectors) -> Vectors:
            if not vectors.requires_grad:  # beside adapters the embedding itself learns nothing
                vectors = vectors.detach().requires_grad_()
            vectors.retain_grad()
            self._seen.append(vectors)
            return vectors

        with self.embedding.register_forward_hook(note):
            yield

    @contextmanager
    def moved(self) -> Generator[None]:
        """While the loss of a batch is computed again: what enters is moved along its gradient."""
        if self._seen:
            self._moves, self._seen = iter(self._aimed(self._seen)), []

        def move(_: nn.Module, args: tuple[Tensor], vectors: Vectors) -> Vectors:
            return vectors + next(self._moves)

        with self.embedding.register_forward_hook(move):
            yield

    def _aimed(self, seen: list[Vectors]) -> list[Vectors]:
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in seen]
        squares = torch.cat([each.square().mean(-1).flatten() for each in gradients])
        steepness = squares.sum().div(squares.count_nonzero().clamp_min(1)).sqrt()
        length = self.embedding.tokens.weight.detach().square().mean().sqrt()
        far = self.size * length * (self.embedding.scale or 1.0) / steepness.clamp_min(TINY)
        return [each * far for each in gradients]


TINY = 1e-30
"""Gradients below it move nothing."""
