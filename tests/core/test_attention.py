"""Every road of the attention kernel gives what the formula gives."""

import pytest
import torch

from yantai.core.kernel import attend, attend_openly
from yantai.core.layers import Point
from yantai.core.mask import ALIGNED, Mask, causal, same_document, valid_keys, window


def formula(q, k, v, allowed, scale):
    """softmax(q·kᵀ·scale)·v, written without any of the package's parts, in float64."""
    times = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    scores = torch.einsum("bhqd,bhkd->bhqk", q.double(), k.double()) * scale
    scores = scores.masked_fill(~allowed, float("-inf"))
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v.double())


def make(batch=2, heads=4, kv_heads=2, count=300, dim=16, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return tuple(
        torch.randn(batch, h, count, dim).to(dtype).requires_grad_()
        for h in (heads, kv_heads, kv_heads)
    )


def allowed_pairs(count, documents=None, limit=None):
    place = torch.arange(count)
    allowed = (place[:, None] >= place[None, :])[None, None]
    if limit is not None:
        allowed = allowed & (place[:, None] - place[None, :] < limit)
    if documents is not None:
        allowed = allowed & (documents[:, None, :, None] == documents[:, None, None, :])
    return allowed


DOCUMENTS = torch.repeat_interleave(torch.arange(6), 50).expand(2, 300)
CASES = {
    "causal": (causal(), {}),
    "documents": (causal() & same_document(DOCUMENTS), {"documents": DOCUMENTS}),
    "window": (causal() & window(37), {"limit": 37}),
    "both": (
        causal() & window(37) & same_document(DOCUMENTS),
        {"documents": DOCUMENTS, "limit": 37},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_mask_and_type_is_the_formula(case, dtype):
    mask, how = CASES[case]
    q, k, v = make(dtype=dtype)
    out = attend(q, k, v, mask, 0.25, 0.0)
    expected = formula(q, k, v, allowed_pairs(300, **how), 0.25)
    tolerance = 2e-6 if dtype == torch.float32 else 3e-2
    assert (out.double() - expected).abs().max() < tolerance


@pytest.mark.parametrize("case", CASES)
def test_the_block_kernel_has_the_gradients_of_the_formula(case):
    mask, how = CASES[case]
    q, k, v = make(dtype=torch.bfloat16, count=300)
    upstream = torch.randn(2, 4, 300, 16)
    out = attend(q, k, v, mask, 0.25, 0.0)
    assert "Blocks" in type(out.grad_fn).__name__
    out.backward(upstream.bfloat16())
    wide = [part.detach().double().requires_grad_() for part in (q, k, v)]
    formula(*wide, allowed_pairs(300, **how), 0.25).backward(upstream.double())
    for ours, theirs in zip((q, k, v), wide, strict=True):
        error = (ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 2e-2


def test_the_open_road_shows_scores_and_pattern_and_changes_nothing():
    q, k, v = make(count=20)
    seen = {}
    scores, pattern = Point(), Point()
    scores.register_forward_hook(lambda module, inputs, out: seen.update(scores=out))
    pattern.register_forward_hook(lambda module, inputs, out: seen.update(pattern=out))
    out = attend_openly(q, k, v, causal(), 0.25, 0.0, scores, pattern)
    assert torch.allclose(out, attend(q, k, v, causal(), 0.25, 0.0), atol=1e-5)
    assert torch.allclose(seen["pattern"].sum(-1), torch.ones(2, 4, 20))
    assert bool((seen["pattern"].triu(1) == 0).all())


def test_padding_on_either_side_is_never_seen():
    q, k, v = make(batch=1, count=12)
    valid = torch.tensor([[False] * 4 + [True] * 8])
    padded = attend(q, k, v, causal() & valid_keys(valid), 0.25, 0.0)
    cut = attend(q[:, :, 4:], k[:, :, 4:], v[:, :, 4:], causal(), 0.25, 0.0)
    assert torch.allclose(padded[:, :, 4:], cut, atol=1e-6)


def test_masks_join_and_refuse_to_contradict():
    both = causal() & window(9) & window(5)
    assert both == Mask(causal=True, window=5)
    with pytest.raises(AssertionError, match="documents"):
        same_document(DOCUMENTS) & same_document(DOCUMENTS)
    assert Mask().dense(3, 3, torch.device("cpu")) is None


def test_blocks_begin_at_multiples_so_that_a_kernel_a_shape_means_few_kernels():
    shapes = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        documents = (torch.rand(2, 512, generator=generator) < 0.02).cumsum(1)
        blocks = (causal() & same_document(documents)).blocks(
            512, 128, torch.device("cpu"), torch.bfloat16
        )
        for block in blocks:
            needed = [int((row == row[block.rows.start]).int().argmax()) for row in documents]
            assert min(needed) - ALIGNED < block.keys.start <= min(needed)
            shapes.add((block.rows.stop - block.rows.start, block.keys.stop - block.keys.start))
    assert len(shapes) <= 512 // ALIGNED
