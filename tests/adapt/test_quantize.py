"""Packed from outside: what the modules compute is what their codes stand for, by every road."""

import pytest
import torch

from yantai.adapt.packed import Form
from yantai.adapt.quantize import (
    PackedHead,
    PackedLinear,
    PackedTable,
    input_squares,
    packed_modules,
    quantize,
    unpacked_error,
)
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.core.layers import Linear
from yantai.infer.generate import prepare

FORMS = [Form(8, 32), Form(8, 64), Form(4, 32), Form(4, 64)]
IDS = torch.arange(2, 42)[None]


def model(dtype=torch.float32, **changes):
    config = ModelConfig(**{
        "vocab_size": 96, "dim": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16,
        "hidden": 128, "max_positions": 128,
    } | changes)  # fmt: skip
    made = build(config, seed=1, table="gpt2", dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(dtype) * 0.1)
    return made.eval()


def dequantised(packed, **changes):
    """A plain model with the weights that the codes stand for."""
    plain = model(**changes)
    known = dict(packed_modules(packed))
    with torch.no_grad():
        for name, module in plain.named_modules():
            if name in known:
                module.weight.copy_(known[name].weight)
    return plain


@pytest.mark.parametrize(
    "changes", [{}, {"tied": False}, {"biases": ("qkv", "out", "mlp")}], ids=str
)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_packed_model_computes_what_its_codes_stand_for(form, changes):
    packed = model(**changes)
    packing = quantize(packed, form)
    assert not packing.left
    assert isinstance(packed.head, PackedHead) and isinstance(packed.embed.tokens, PackedTable)
    matrices = [name for name, each in packed.named_modules() if type(each) is Linear]
    assert matrices == []
    expected = dequantised(packed, **changes)(IDS)
    assert torch.allclose(packed(IDS), expected, atol=1e-5)
    assert (packed(IDS) - model(**changes)(IDS)).norm() > 0
    with torch.no_grad():  # by bands
        assert torch.allclose(packed(IDS), expected, atol=1e-5)


def test_what_was_laid_out_before_is_forgotten():
    laid_out = prepare(model())
    quantize(laid_out, Form(4, 32))
    plain = model()
    quantize(plain, Form(4, 32))
    assert torch.equal(laid_out(IDS), plain(IDS))


def test_a_tied_head_shares_the_codes_of_the_embedding():
    packed = model()
    packing = quantize(packed, Form(4, 32))
    assert packed.head.codes is packed.embed.tokens.codes
    assert (packing.packed["head"], packing.packed["embed.tokens"]) == (Form(8, 32), Form(8, 32))
    inside = sum(
        each.codes.numel() * 2 for name, each in packed_modules(packed) if ".blocks." in name
    )
    assert packing.weights == inside + 96 * 64
    expected = (inside * 4.5 + 96 * 64 * 8.5) / packing.weights
    assert packing.bits_a_weight == pytest.approx(expected)


def test_rows_that_fall_into_smaller_groups_get_these():
    packed = model(hidden=96)
    packing = quantize(packed, Form(8, 64))
    assert not packing.left
    forms = {name: form for name, form in packing.packed.items() if ".down" in name}
    assert set(forms.values()) == {Form(8, 32)} and packing.packed["head"] == Form(8, 64)


def test_rows_that_do_not_fall_into_groups_stay_as_they_are():
    packed = model(hidden=112)
    packing = quantize(packed, Form(8, 32))
    assert packing.left == tuple(f"decoder.blocks.{n}.mlp.part.down" for n in range(2))
    plain = model(hidden=112)
    for name in packing.left:
        assert type(packed.get_submodule(name)) is Linear
        assert torch.equal(packed.get_submodule(name).weight, plain.get_submodule(name).weight)


def test_eight_bits_are_nearer_than_four():
    errors = {}
    for bits in (8, 4):
        packed = model()
        quantize(packed, Form(bits, 32))
        weights = dict(model().named_modules())
        errors[bits] = max(
            unpacked_error(weights[name].weight, each)
            for name, each in packed_modules(packed)
            if ".blocks." in name
        )
    assert errors[8] < 0.01 < errors[4] < 0.12


def test_a_planted_outlier_spoils_its_group_and_is_seen():
    spoiled = model()
    part = spoiled.get_submodule("decoder.blocks.0.attn.part.out")
    with torch.no_grad():
        part.weight[:, 5] *= 1000.0
    before = part.weight.detach().clone()
    quantize(spoiled, Form(4, 32))
    packed = spoiled.get_submodule("decoder.blocks.0.attn.part.out")
    others = torch.ones(64, dtype=torch.bool)
    others[5] = False
    lost = (packed.weight - before)[:, others][:, :31]
    assert lost.norm() / before[:, others][:, :31].norm() > 0.5


def test_calibration_watches_what_matrices_are_multiplied_with():
    plain = model()
    with input_squares(plain) as seen, torch.inference_mode():
        plain(IDS)
        plain(IDS)
    name = "decoder.blocks.0.mlp.part.down"
    assert set(seen) >= {name, "head", "decoder.blocks.1.attn.part.qkv.q"}
    assert seen[name].shape == (128,) and (seen[name] > 0).any()
    kept = []
    hook = plain.get_submodule(name).register_forward_pre_hook(lambda _, x: kept.append(x[0]))
    plain(IDS)
    hook.remove()
    assert torch.allclose(seen[name], kept[0].flatten(0, -2).double().square().mean(0), rtol=1e-5)
    quantize(plain, Form(4, 32), importance=seen)
    assert all(isinstance(each, PackedLinear | PackedTable) for _, each in packed_modules(plain))


def test_a_cast_leaves_scales_in_their_type():
    packed = model()
    quantize(packed, Form(4, 32))
    packed = packed.to(torch.bfloat16)
    for _, each in packed_modules(packed):
        assert each.scales.dtype == torch.bfloat16
    back = packed.float()
    again = model()
    quantize(again, Form(4, 32))
    for (_, one), (_, other) in zip(packed_modules(back), packed_modules(again), strict=True):
        assert torch.equal(one.codes, other.codes) and torch.equal(one.scales, other.scales)
