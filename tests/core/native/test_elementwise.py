"""The compiled parts against the same formulas of torch in float64."""

import pytest
import torch
import torch.nn.functional as F

from yantai.core.layers import LayerNorm as PlainLayerNorm
from yantai.core.layers import RMSNorm as PlainRMSNorm
from yantai.core.layers import activate
from yantai.core.native import elementwise
from yantai.core.native.elementwise import ACTIVATIONS, Gate, LayerNorm, RMSNorm, Turn, serves

pytestmark = pytest.mark.skipif(
    not serves(torch.zeros(16, dtype=torch.bfloat16)), reason="no C++ compiler here"
)

SHAPES = [(1, 16), (3, 48), (5, 7, 64), (700, 96)]
ONE_ROUNDING = 2.0**-8


def some(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale).bfloat16()


def gradients(function, inputs, upstream):
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    y.backward(upstream.to(y.dtype))
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


def check(ours, exact_function, inputs, upstream):
    """Output and gradients are the exact ones, rounded about once."""
    got = gradients(ours, inputs, upstream)
    wide = [None if x is None else x.double() for x in inputs]
    for a, b in zip(got, gradients(exact_function, wide, upstream), strict=True):
        assert a.shape == b.shape
        error = (a.double() - b).abs()
        assert (error <= ONE_ROUNDING * b.abs() + 2e-5 * float(b.abs().max())).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_gates(kind, shape):
    a, b, g = (some(*shape, seed=seed, scale=2.0) for seed in range(3))
    check(lambda a, b: Gate.apply(kind, a, b), lambda a, b: activate(kind, a) * b, (a, b), g)
    check(lambda a: Gate.apply(kind, a, None), lambda a: activate(kind, a), (a,), g)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_gates_of_large_numbers_are_finite(kind):
    a = torch.tensor([-3e4, -200.0, -90.0, -0.0, 0.0, 1e-30, 90.0, 3e4] * 2).bfloat16()
    check(lambda a: Gate.apply(kind, a, None), lambda a: activate(kind, a), (a,), torch.ones(16))


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(shape):
    x, g = some(*shape), some(*shape, seed=1)
    weight = torch.randn(shape[-1], generator=torch.Generator().manual_seed(2))

    def exact(x, weight):
        return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    check(lambda x, w: RMSNorm.apply(x, w, 1e-6), exact, (x, weight), g)


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(shape):
    x, g = some(*shape) + 3, some(*shape, seed=1)
    weight, bias = torch.randn(2, shape[-1], generator=torch.Generator().manual_seed(2))

    def exact(x, weight, bias):
        return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)

    check(lambda x, w, b: LayerNorm.apply(x, w, b, 1e-5), exact, (x, weight, bias), g)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("own_places", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 32), (3, 5, 2, 64), (2, 300, 4, 96)])
def test_turned_heads(shape, own_places, normed):
    batch, count, _, width = shape
    x, g = some(*shape), some(*shape, seed=1)
    cos, sin = (some(batch if own_places else 1, count, 1, width, seed=seed) for seed in (2, 3))
    weight = torch.randn(width, generator=torch.Generator().manual_seed(4)) if normed else None

    def exact(x, weight):
        if weight is not None:
            x = weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return x * cos.double() + x.roll(width // 2, -1) * sin.double()

    def ours(x, weight):
        return Turn.apply(x, weight, 1e-6, cos, sin)

    check(ours, exact, (x, weight), g)


def test_what_is_no_number_stays_one():
    x = torch.full((2, 16), float("nan")).bfloat16()
    weight = torch.ones(16)
    assert RMSNorm.apply(x, weight, 1e-6).isnan().all()
    assert LayerNorm.apply(x, weight, weight, 1e-6).isnan().all()
    for kind in ("gelu", "gelu_tanh", "silu"):
        assert Gate.apply(kind, x, None).isnan().all()


def test_the_layers_use_them(monkeypatch):
    called = []
    call = elementwise._call
    monkeypatch.setattr(
        elementwise, "_call", lambda name, *x: called.append(name) or call(name, *x)
    )
    x = some(4, 32)
    rms, layer = PlainRMSNorm(32, 1e-6), PlainLayerNorm(32, 1e-6)
    for norm in (rms, layer):
        for parameter in norm.parameters():
            torch.nn.init.ones_(parameter)
        norm(x)
        norm(x.float())
        norm(x[:, :30].contiguous() if norm is None else x)
    assert called == ["rms_forward"] * 2 + ["layer_norm_forward"] * 2
