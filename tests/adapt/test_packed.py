"""Codes and back: errors within what the levels allow, and the layout that the kernels read."""

import pytest
import torch

from yantai.adapt import packed
from yantai.adapt.packed import LEVELS, TRIED, Form, pack, unpack
from yantai.base.native.build import find_compiler

FORMS = [Form(8, 32), Form(8, 64), Form(4, 32), Form(4, 64)]


def matrix(rows=48, columns=192, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_packed_comes_back_nearly(form):
    weight = matrix()
    codes, scales = pack(weight, form)
    assert codes.shape == (48, 192 * form.bits // 8) and scales.shape == (48, 192 // form.group)
    back = unpack(codes, scales, form, torch.float32)
    groups, error = weight.unflatten(1, (-1, form.group)), (back - weight).abs()
    largest = groups.abs().amax(-1, keepdim=True)
    step = 1 / 127 if form.bits == 8 else 0.31  # the widest gap between two levels
    # half a step of the scale, which bfloat16 may have rounded; and what stands above the scale
    above = (1 - TRIED[0]) if form.bits == 4 else 0.004
    allowed = largest * max(step / 2 * 1.05, above + 0.005)
    assert (error.unflatten(1, (-1, form.group)) <= allowed).all()
    relative = (back - weight).norm() / weight.norm()
    assert relative < (0.008 if form.bits == 8 else 0.095)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_the_codes_stand_for_is_packed_without_a_loss(form):
    once = unpack(*pack(matrix(), form), form, torch.float32)
    if form.bits == 4:  # the largest of a group decides its scale: give each group one that does
        once.unflatten(1, (-1, form.group))[..., 0] = 0.125
    again = unpack(*pack(once, form), form, torch.float32)
    if form.bits == 8:
        assert torch.equal(again, once)
    else:
        assert (again - once).norm() < (once - matrix()).norm()


def test_levels_of_four_bits_come_back_exactly():
    weight = torch.tensor(LEVELS).repeat(3, 4) * torch.tensor([[1.0], [0.5], [4.0]])
    for form in (Form(4, 32), Form(4, 64)):
        assert torch.equal(unpack(*pack(weight, form), form, torch.float32), weight)


def test_the_first_half_of_a_block_lies_in_the_lower_bits():
    weight = torch.zeros(1, 32)
    weight[0, 0], weight[0, 16], weight[0, 17] = -1.0, 1.0, -1.0
    codes, scales = pack(weight, Form(4, 32))
    assert scales.item() == 1.0
    zero = LEVELS.index(0.0)
    assert codes[0, 0] == 0 | 15 << 4
    assert codes[0, 1] == zero | 0 << 4
    assert (codes[0, 2:] == (zero | zero << 4)).all()


def test_zeros_stay_zeros():
    for form in FORMS:
        back = unpack(*pack(torch.zeros(2, 64), form), form, torch.float32)
        assert torch.equal(back, torch.zeros(2, 64))


def test_a_scale_is_rounded_before_it_codes():
    """With the scale as it is kept, every code is the nearest one."""
    weight = matrix()
    codes, scales = pack(weight, Form(8, 32))
    nearest = (weight.unflatten(1, (-1, 32)) / scales.float()[..., None]).round()
    assert torch.equal(codes.float(), nearest.flatten(1))


def test_what_matters_is_kept_better():
    weight, importance = matrix(columns=64), torch.ones(64)
    importance[::8] = 1000.0
    form = Form(4, 32)
    plain, weighted = (
        (unpack(*pack(weight, form, cost), form, torch.float32) - weight)[:, ::8].norm()
        for cost in (None, importance)
    )
    assert weighted < 0.8 * plain


def test_rows_that_do_not_fall_into_groups_do_not_fit():
    assert not Form(8, 64).fits(96) and not Form(4, 32).fits(48) and Form(4, 32).fits(96)


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", [Form(8, 32), Form(8, 64), Form(4, 32), Form(4, 96)])
def test_the_compiled_part_unpacks_to_the_bits_of_torch(form, dtype, monkeypatch):
    codes, scales = pack(torch.randn(70, 192) * 3, form)
    scales[3, 1] = 0.0
    found = unpack(codes, scales, form, dtype)
    part = unpack(codes[5:9], scales[5:9], form, dtype)
    monkeypatch.setattr(packed, "unpacked", lambda *_: None)
    assert torch.equal(found, unpack(codes, scales, form, dtype))
    assert torch.equal(part, found[5:9])
    assert torch.equal(unpack(codes[:0], scales[:0], form, dtype), found[:0])
