"""The compiled parts against the same formulas of torch in float64."""

import pytest
import torch
import torch.nn.functional as F

from yantai.core.layers import LayerNorm as PlainLayerNorm
from yantai.core.layers import RMSNorm as PlainRMSNorm
from yantai.core.layers import activate, dropout
from yantai.core.native import elementwise
from yantai.core.native.elementwise import (
    ACTIVATIONS,
    Dropout,
    Gate,
    LayerNorm,
    RMSNorm,
    Turn,
    serves,
)

pytestmark = pytest.mark.skipif(
    not serves(torch.zeros(16, dtype=torch.bfloat16)), reason="no C++ compiler here"
)

SHAPES = [(1, 16), (3, 48), (5, 7, 64), (700, 96)]
ERRORS = {torch.bfloat16: (2.0**-8, 2e-5), torch.float32: (1e-6, 1e-6)}
"""Of a number itself, and of the largest number beside it."""


@pytest.fixture(params=ERRORS, ids=str, autouse=True)
def dtype(request):
    """Every test runs in both types."""
    return request.param


def some(dtype, *shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


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
        error, (own, beside) = (a.double() - b).abs(), ERRORS[inputs[0].dtype]
        assert (error <= own * b.abs() + beside * float(b.abs().max())).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_gates(kind, shape, dtype):
    a, b, g = (some(dtype, *shape, seed=seed, scale=2.0) for seed in range(3))
    check(lambda a, b: Gate.apply(kind, a, b), lambda a, b: activate(kind, a) * b, (a, b), g)
    check(lambda a: Gate.apply(kind, a, None), lambda a: activate(kind, a), (a,), g)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_gates_of_large_numbers_are_finite(kind, dtype):
    a = torch.tensor([-3e4, -200.0, -90.0, -0.0, 0.0, 1e-30, 90.0, 3e4] * 2).to(dtype)
    check(lambda a: Gate.apply(kind, a, None), lambda a: activate(kind, a), (a,), torch.ones(16))


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(shape, dtype):
    x, g = some(dtype, *shape), some(dtype, *shape, seed=1)
    weight = torch.randn(shape[-1], generator=torch.Generator().manual_seed(2))

    def exact(x, weight):
        return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    check(lambda x, w: RMSNorm.apply(x, w, 1e-6), exact, (x, weight), g)


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(shape, dtype):
    x, g = some(dtype, *shape) + 3, some(dtype, *shape, seed=1)
    weight, bias = torch.randn(2, shape[-1], generator=torch.Generator().manual_seed(2))

    def exact(x, weight, bias):
        return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)

    check(lambda x, w, b: LayerNorm.apply(x, w, b, 1e-5), exact, (x, weight, bias), g)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("own_places", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 32), (3, 5, 2, 64), (2, 300, 4, 96)])
def test_turned_heads(shape, own_places, normed, dtype):
    batch, count, _, width = shape
    x, g = some(dtype, *shape), some(dtype, *shape, seed=1)
    cos, sin = (
        some(dtype, batch if own_places else 1, count, 1, width, seed=seed) for seed in (2, 3)
    )
    weight = torch.randn(width, generator=torch.Generator().manual_seed(4)) if normed else None

    def exact(x, weight):
        if weight is not None:
            x = weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return x * cos.double() + x.roll(width // 2, -1) * sin.double()

    def ours(x, weight):
        return Turn.apply(x, weight, 1e-6, cos, sin)

    check(ours, exact, (x, weight), g)


def test_what_is_no_number_stays_one(dtype):
    x = torch.full((2, 16), float("nan"), dtype=dtype)
    weight = torch.ones(16)
    assert RMSNorm.apply(x, weight, 1e-6).isnan().all()
    assert LayerNorm.apply(x, weight, weight, 1e-6).isnan().all()
    for kind in ("gelu", "gelu_tanh", "silu"):
        assert Gate.apply(kind, x, None).isnan().all()


def test_the_layers_use_them(monkeypatch, dtype):
    called = []
    call = elementwise._call
    monkeypatch.setattr(
        elementwise, "_call", lambda name, *x: called.append(name) or call(name, *x)
    )
    x = some(dtype, 4, 32)
    rms, layer = PlainRMSNorm(32, 1e-6), PlainLayerNorm(32, 1e-6)
    for norm in (rms, layer):
        for parameter in norm.parameters():
            torch.nn.init.ones_(parameter)
        norm(x)
        norm(x.double())
        norm(x)
    assert called == ["rms_forward"] * 2 + ["layer_norm_forward"] * 2


def test_dropout_keeps_its_share_and_the_backward_the_same_places(dtype):
    x, g = some(dtype, 300, 128), some(dtype, 300, 128, seed=1)
    y, dx = gradients(lambda x: Dropout.apply(x, 0.3, 5), (x,), g)
    kept = y != 0
    assert abs(float(kept.double().mean()) - 0.7) < 4 * (0.21 / x.numel()) ** 0.5
    for whole, part in ((x, y), (g, dx)):
        wide = (whole.double() / 0.7)[kept]
        assert ((part.double()[kept] - wide).abs() <= ERRORS[dtype][0] * wide.abs()).all()
        assert not part[~kept].any()
    again = Dropout.apply(x, 0.3, 5)
    assert torch.equal(again, y)
    other = Dropout.apply(x, 0.3, 6) != 0
    alike = float((other == kept).double().mean())
    assert abs(alike - (0.49 + 0.09)) < 4 * (0.25 / x.numel()) ** 0.5  # as by chance


def test_dropout_has_no_order_in_rows_or_columns(dtype):
    kept = (Dropout.apply(torch.ones(512, 512, dtype=dtype), 0.5, 9) != 0).double() - 0.5
    limit = 5 * 0.25 / 512  # five deviations of a mean over 512² places
    for down, right in ((0, 1), (1, 0), (1, 1), (0, 16), (16, 0), (0, 32), (32, 32)):
        moved = kept.roll((down, right), (0, 1))
        assert abs(float((kept * moved).mean())) < limit
    for side in (0, 1):
        assert float(kept.mean(side).abs().max()) < 5 * 0.5 / 512**0.5


def test_dropout_of_a_layer_follows_torchs_seed(dtype):
    x = some(dtype, 40, 64)

    def drawn(seed, training=True):
        torch.manual_seed(seed)
        return dropout(x, 0.2, training)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert drawn(1, training=False) is x
    wide = dropout(x.double(), 0.2, True)
    assert float((wide == 0).double().mean()) == pytest.approx(0.2, abs=0.04)


def test_a_second_derivative_is_refused_and_not_wrong(dtype):
    x = some(dtype, 2, 16).requires_grad_()
    (slope,) = torch.autograd.grad((x * Gate.apply("silu", x, None)).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
