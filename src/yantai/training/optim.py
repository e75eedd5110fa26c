"""Optimisers: SGD with momentum, Adam, AdamW, and Muon for matrices.

Knows: named parameters, their gradients, and the tensors that a step needs to remember. All
memory of an optimiser is one flat table of named tensors, so that a checkpoint is a plain file.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["muon", "adamw", "adam", "sgd"]

# Five steps of a quintic whose coefficients minimise the worst singular value's error
# (Polar Express, arXiv 2505.16932; a safety factor of 1.02 is folded in).
_POLAR = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "a step before a backward"
    return parameter.grad


def orthogonalise(matrices: Tensor, products: torch.dtype = torch.bfloat16) -> Tensor:
    """U·Vᵀ of each matrix U·S·Vᵀ, nearly: all singular values close to 1, in cheap products.

    Shape "count rows columns"; a stack of equal shapes costs little more than one.
    """
    x = matrices.to(products)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in _POLAR:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


def _widened(matrix: Tensor) -> Tensor:
    """The matrix or its transpose, whichever is no taller than wide."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


class Muon:
    """Momentum, orthogonalised (Jordan et al. 2024); for the matrices inside the blocks."""

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        *,
        momentum: float,
        weight_decay: float,
        products: torch.dtype = torch.bfloat16,
    ):
        self.named, self.momentum, self.weight_decay = named, momentum, weight_decay
        self.products = products
        self.memory = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
        shapes = defaultdict(list)
        for name, parameter in named.items():
            shapes[tuple(sorted(parameter.shape))].append(name)
        self._stacks = list(shapes.values())

    @torch.no_grad()
    def step(self, rate: float, step: int) -> None:
        """One step; matrices of one shape, or its transpose, are orthogonalised together."""
        parameters = [parameter.data for parameter in self.named.values()]
        gradients = [_gradient(parameter) for parameter in self.named.values()]
        memories = list(self.memory.values())
        torch._foreach_lerp_(memories, gradients, 1 - self.momentum)
        ahead = torch._foreach_lerp(gradients, memories, self.momentum)  # Nesterov's look ahead
        updates = dict(zip(self.named, ahead, strict=True))
        torch._foreach_mul_(parameters, 1 - rate * self.weight_decay)
        for names in self._stacks:
            stack = torch.stack([_widened(updates[name]) for name in names])
            wide = orthogonalise(stack, self.products)
            by_scale = defaultdict(list)
            for name, direction in zip(names, wide.to(parameters[0].dtype), strict=True):
                parameter = self.named[name]
                rows, columns = parameter.shape
                scale = rate * max(1.0, rows / columns) ** 0.5
                turned = direction.mT if rows > columns else direction
                by_scale[scale].append((parameter.data, turned))
            for scale, pairs in by_scale.items():
                torch._foreach_add_(*map(list, zip(*pairs, strict=True)), alpha=-scale)

    def tensors(self) -> dict[str, Tensor]:
        """All memory, by name."""
        return {f"muon.momentum.{name}": tensor for name, tensor in self.memory.items()}


class AdamW:
    """AdamW (arXiv 1711.05101), or Adam (1412.6980) where decay goes through the gradient."""

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        *,
        betas: tuple[float, float],
        weight_decay: float,
        decoupled: bool = True,
        eps: float = 1e-8,
    ):
        self.named, self.betas, self.eps = named, betas, eps
        self.decoupled = decoupled
        # vectors (norms, biases) are not decayed
        self.decay = {
            name: weight_decay if parameter.ndim >= 2 else 0.0 for name, parameter in named.items()
        }
        self.first = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
        self.second = {name: torch.zeros_like(parameter) for name, parameter in named.items()}

    @torch.no_grad()
    def step(self, rate: float, step: int) -> None:
        """One step; `step` counts from 0 and corrects the bias of young averages."""
        devices = {parameter.device for parameter in self.named.values()}
        count = {each: torch.full((), float(step + 1), device=each) for each in devices}
        for decay in sorted(set(self.decay.values())):
            names = [name for name in self.named if self.decay[name] == decay]
            kernel: Any = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
            kernel(
                [self.named[name].data for name in names],
                [_gradient(self.named[name]) for name in names],
                [self.first[name] for name in names],
                [self.second[name] for name in names],
                [],
                [count[self.named[name].device] for name in names],
                lr=rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=decay,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )

    def tensors(self) -> dict[str, Tensor]:
        """All memory, by name."""
        first = {f"adam.first.{name}": tensor for name, tensor in self.first.items()}
        return first | {f"adam.second.{name}": tensor for name, tensor in self.second.items()}


class SGD:
    """Stochastic gradient descent with (heavy-ball) momentum."""

    def __init__(self, named: dict[str, nn.Parameter], *, momentum: float, weight_decay: float):
        self.named, self.momentum, self.weight_decay = named, momentum, weight_decay
        self.memory = {name: torch.zeros_like(parameter) for name, parameter in named.items()}

    @torch.no_grad()
    def step(self, rate: float, step: int) -> None:
        """One step."""
        parameters = [parameter.data for parameter in self.named.values()]
        gradients = [_gradient(parameter) for parameter in self.named.values()]
        memories = list(self.memory.values())
        gradients = torch._foreach_add(gradients, parameters, alpha=self.weight_decay)
        torch._foreach_mul_(memories, self.momentum)
        torch._foreach_add_(memories, gradients)
        torch._foreach_add_(parameters, memories, alpha=-rate)

    def tensors(self) -> dict[str, Tensor]:
        """All memory, by name."""
        return {f"sgd.momentum.{name}": tensor for name, tensor in self.memory.items()}


class Optimizer:
    """The optimisers of a run, each with its peak rate; the schedule scales them together.

    Args:
        model: its parameters are divided: with `muon`, matrices inside blocks go to Muon and the
            rest (embeddings, head, vectors) to AdamW.
        name: which algorithm.
        rate: the peak rate of AdamW, Adam or SGD.
        matrix_rate: the peak rate of Muon.
        weight_decay: decoupled decay of matrices; Muon's is scaled so that both shrink alike.
        products: the type of Muon's products, whichever is fast; bfloat16 is exact enough.
    """

    def __init__(
        self,
        model: nn.Module,
        name: OptimizerName,
        *,
        rate: float,
        matrix_rate: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: float = 0.95,
        products: torch.dtype = torch.bfloat16,
    ):
        named = {name: item for name, item in model.named_parameters() if item.requires_grad}
        self.parameters = named
        self.parts: list[tuple[Muon | AdamW | SGD, float]] = []
        if name == "muon":
            inside = {
                key: item for key, item in named.items() if item.ndim == 2 and ".blocks." in key
            }
            muon = Muon(inside, momentum=momentum, weight_decay=weight_decay, products=products)
            self.parts.append((muon, matrix_rate))
            named = {key: item for key, item in named.items() if key not in inside}
        if name == "sgd":
            sgd = SGD(named, momentum=momentum, weight_decay=weight_decay)
            self.parts.append((sgd, rate))
        else:
            adam = AdamW(named, betas=betas, weight_decay=weight_decay, decoupled=name != "adam")
            self.parts.append((adam, rate))

    def step(self, factor: float, step: int) -> None:
        """One step at a share of the peak rates."""
        for part, rate in self.parts:
            part.step(rate * factor, step)

    def zero_gradients(self) -> None:
        """Forget all gradients and their memory."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Everything to remember, by name; the very tensors, so that loading copies into them."""
        return {key: tensor for part, _ in self.parts for key, tensor in part.tensors().items()}


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `limit`; returns the norm before."""
    gradients = [item.grad for item in parameters if item.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit > 0:
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        # a norm that is not finite would smear NaN over every gradient, and hide where it began
        scale = torch.where(torch.isfinite(norm), scale, torch.ones_like(scale))
        # times 1 changes nothing, but on a CPU it reads and writes every gradient
        if norm.device.type != "cpu" or float(scale) != 1.0:
            torch._foreach_mul_(gradients, scale)
    return norm


class Average:
    """An exponential moving average of the weights (arXiv 1710.10345 gives the idea's use).

    The decay grows from 0 with the step, min(decay, (1+step)/(10+step)), so that the first
    weights do not linger.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.weights = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After an optimiser's step."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = list(self.weights.values())
        torch._foreach_lerp_(averages, [p.detach() for p in self.model.parameters()], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and their average; call twice to be back."""
        for name, parameter in self.model.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        """The averages, by name."""
        return {f"average.{name}": tensor for name, tensor in self.weights.items()}
