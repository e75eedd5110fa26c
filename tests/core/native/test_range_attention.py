"""The compiled attention against the formula in float64, and against torch's own error."""

import pytest
import torch
import torch.nn.functional as F

from yantai.core.kernel import attend
from yantai.core.mask import Mask, causal, same_document, window
from yantai.core.native.range_attention import RangeAttention, available

pytestmark = pytest.mark.skipif(not available(torch.float32), reason="no C++ compiler here")

CLOSE = {torch.bfloat16: 0.01, torch.float32: 2e-6}
"""The norm of an error, as a share of the norm of what is right."""


@pytest.fixture(params=CLOSE, ids=str, autouse=True)
def dtype(request):
    """Every test runs in both types."""
    return request.param


SHAPES = {  # batch, heads, kv heads, positions, width
    "one position": (1, 1, 1, 1, 32),
    "short": (2, 3, 3, 7, 32),
    "a block": (1, 2, 2, 32, 64),
    "odd": (2, 4, 2, 101, 96),
    "usual": (3, 6, 6, 256, 64),
    "grouped": (2, 8, 2, 200, 128),
    "long": (1, 2, 1, 1030, 64),
}
MASKS = ("causal", "window", "documents", "both", "all", "all of a document", "near")


def mask_of(name, batch, count):
    generator = torch.Generator().manual_seed(count)
    begins = torch.rand(batch, count, generator=generator) < 0.05
    mask = Mask() if name in ("all", "all of a document", "near") else causal()
    if name in ("window", "both", "near"):
        mask &= window(19)
    if name in ("documents", "both", "all of a document"):
        mask &= same_document(begins.int().cumsum(1))
    return mask


def inputs(dtype, shape, seed=0):
    batch, heads, kv_heads, count, width = shape
    generator = torch.Generator().manual_seed(seed)

    def some(heads):  # as attention gets them: a transposed view of "batch position head width"
        x = torch.randn(batch, count, heads, width, generator=generator).to(dtype)
        return x.transpose(1, 2)

    return some(heads), some(kv_heads), some(kv_heads), some(heads)


def gradients(attention, q, k, v, upstream):
    leaves = [part.detach().clone().requires_grad_() for part in (q, k, v)]
    out = attention(*leaves)
    out.backward(upstream)
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def reference(mask, scale):
    def attention(q, k, v):
        times = q.shape[1] // k.shape[1]
        allowed = mask.dense(q.shape[2], k.shape[2], q.device)
        return F.scaled_dot_product_attention(
            q,
            k.repeat_interleave(times, 1),
            v.repeat_interleave(times, 1),
            attn_mask=allowed,
            scale=scale,
        )

    return attention


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("name", SHAPES)
def test_output_and_gradients_are_as_exact_as_torch_has_them(name, kind, dtype):
    shape = SHAPES[name]
    q, k, v, upstream = inputs(dtype, shape)
    mask, scale = mask_of(kind, shape[0], shape[3]), 0.2
    first = mask.seen(shape[3], shape[3], q.device)
    ours = gradients(lambda *x: RangeAttention.apply(*x, first, scale), q, k, v, upstream)
    theirs = gradients(reference(mask, scale), q, k, v, upstream)
    wide = [part.double() for part in (q, k, v, upstream)]
    exact = gradients(reference(mask, scale), *wide)
    for part, (a, b, c) in zip(
        ("out", "q", "k", "v"), zip(ours, theirs, exact, strict=True), strict=True
    ):
        error, norm = float((a.double() - c).norm()), float(c.norm())
        assert error <= 1.2 * float((b.double() - c).norm()) + CLOSE[dtype] / 10 * norm + 1e-5, part
        assert error <= CLOSE[dtype] * norm + 1e-5, part


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("name", SHAPES)
def test_numbers_of_distances_are_added_and_learned(name, kind, dtype):
    shape = SHAPES[name]
    batch, heads, _, count, _ = shape
    q, k, v, upstream = inputs(dtype, shape)
    mask, scale = mask_of(kind, batch, count), 0.2
    generator = torch.Generator().manual_seed(9)
    numbers = torch.randn(heads, 2 * count - 1, generator=generator)
    seen = mask.seen(count, count, q.device)

    def wide(q, k, v, numbers):
        times = q.shape[1] // k.shape[1]
        place = torch.arange(count)
        bias = numbers[:, place[None] - place[:, None] + count - 1][None]
        allowed = mask.dense(count, count, q.device)
        added = bias if allowed is None else bias.masked_fill(~allowed, -torch.inf)
        k, v = (part.repeat_interleave(times, 1) for part in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=scale)

    def with_numbers(attention, *parts):
        leaves = [part.detach().clone().requires_grad_() for part in parts]
        out = attention(*leaves)
        out.backward(upstream.to(out.dtype))
        return [out.detach(), *(leaf.grad for leaf in leaves)]

    ours = with_numbers(
        lambda q, k, v, n: RangeAttention.apply(q, k, v, seen, scale, n), q, k, v, numbers
    )
    exact = with_numbers(wide, *(part.double() for part in (q, k, v, numbers)))
    for part, a, c in zip(("out", "q", "k", "v", "distances"), ours, exact, strict=True):
        assert (a.double() - c).norm() <= 1.5 * CLOSE[dtype] * c.norm() + 1e-5, part


@pytest.mark.parametrize(("queries", "keys"), [(5, 70), (70, 5), (33, 64)])
def test_a_memory_may_be_longer_or_shorter_and_in_documents_of_its_own(queries, keys, dtype):
    q, _, _, upstream = inputs(dtype, (2, 4, 4, queries, 64))
    _, k, v, _ = inputs(dtype, (2, 4, 2, keys, 64), seed=1)
    of_keys = torch.arange(keys)[None].expand(2, keys) * 3 // keys
    of_queries = torch.arange(queries)[None].expand(2, queries) * 3 // queries
    for mask in (Mask(), Mask(documents=of_keys, query_documents=of_queries)):
        seen = mask.seen(queries, keys, q.device)
        ours = gradients(lambda *x, s=seen: RangeAttention.apply(*x, s, 0.2), q, k, v, upstream)
        exact = gradients(reference(mask, 0.2), *(part.double() for part in (q, k, v, upstream)))
        for a, c in zip(ours, exact, strict=True):
            assert (a.double() - c).norm() <= CLOSE[dtype] * c.norm() + 1e-6


@pytest.mark.parametrize("kind", ["causal", "both", "all"])
@pytest.mark.parametrize("shape", [(2, 4, 2, 32, 32), (2, 4, 2, 101, 128)])
def test_dropout_takes_the_same_out_of_the_pattern_and_of_its_gradient(shape, kind, dtype):
    batch, heads, kv_heads, count, width = shape
    q, k, _, upstream = inputs(dtype, shape)
    mask, scale, rate = mask_of(kind, batch, count), 0.2, 0.25
    seen = mask.seen(count, count, q.device)

    def ours(q, k, v):
        return RangeAttention.apply(q, k, v, seen, scale, None, rate, 77)

    one_hot = torch.eye(count, width, dtype=dtype).expand(batch, kv_heads, count, width)
    allowed = mask.dense(count, count, q.device)
    allowed = torch.ones(count, count, dtype=torch.bool) if allowed is None else allowed
    allowed = allowed.expand(batch, heads, count, count)
    pattern = ours(q, k, one_hot)[..., :count]  # the pattern itself, seen through one-hot values
    kept = pattern != 0
    assert not kept[~allowed].any()
    places = int(allowed.sum())
    assert abs(int(kept.sum()) / places - 0.75) < 5 * (0.1875 / places) ** 0.5
    assert not torch.equal(kept[:, 0], kept[:, 1]) and not torch.equal(kept[0], kept[1])

    def exact(q, k, v):
        k, v = (part.repeat_interleave(heads // kv_heads, 1) for part in (k, v))
        scores = (q @ k.transpose(2, 3) * scale).masked_fill(~allowed, -torch.inf)
        return (scores.softmax(-1) * kept / (1 - rate)) @ v

    v = inputs(dtype, shape, seed=3)[1]
    found = gradients(ours, q, k, v, upstream)
    wanted = gradients(exact, *(part.double() for part in (q, k, v, upstream)))
    for part, a, c in zip(("out", "q", "k", "v"), found, wanted, strict=True):
        assert (a.double() - c).norm() <= CLOSE[dtype] * c.norm() + 1e-6, part


def test_padding_behind_the_documents_is_a_document_of_its_own(dtype):
    documents = torch.tensor([[0, 0, 1, 1, 1, -1, -1]])
    first, last = same_document(documents).seen(7, 7, documents.device)
    assert first.tolist() == [[0, 0, 2, 2, 2, 5, 5]]
    assert last.tolist() == [[1, 1, 4, 4, 4, 6, 6]]
    first, last = (causal() & same_document(documents)).seen(7, 7, documents.device)
    assert last.tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    assert same_document(documents.flip(1)).seen(7, 7, documents.device) is None


def test_the_result_does_not_depend_on_the_threads(dtype):
    q, k, v, upstream = inputs(dtype, SHAPES["odd"])
    before, results = torch.get_num_threads(), []
    first = causal().seen(101, 101, q.device)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            attention = lambda *x: RangeAttention.apply(*x, first, 0.1)  # noqa: E731
            results.append(gradients(attention, q, k, v, upstream))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_is_no_number_stays_one_and_stays_in_its_document(dtype):
    q, k, v, _ = inputs(dtype, (1, 1, 1, 64, 32))
    q[0, 0, 40] = float("nan")
    first = same_document(torch.arange(64)[None] // 32) & causal()
    out = RangeAttention.apply(q, k, v, first.seen(64, 64, q.device), 0.2)
    bad = out.isnan().any(-1)[0, 0]
    assert bad.nonzero().flatten().tolist() == [40]


def test_attention_takes_it_only_where_it_can(monkeypatch, dtype):
    taken = []
    apply = RangeAttention.apply
    monkeypatch.setattr(RangeAttention, "apply", lambda *x: taken.append(1) or apply(*x))
    q, k, v, _ = inputs(dtype, (2, 4, 2, 40, 32))

    def roads(q, k, v, mask, dropout=0.0):
        taken.clear()
        attend(q, k, v, mask, 0.2, dropout)
        return len(taken)

    assert roads(q, k, v, causal()) == 1
    assert roads(q, k, v, causal() & window(3)) == 1
    assert roads(q.double(), k.double(), v.double(), causal()) == 0
    assert roads(q, k, v, causal(), dropout=0.1) == 1
    assert roads(q, k, v, Mask(causal=True, valid=torch.ones(2, 40, dtype=torch.bool))) == 0
    assert roads(q, k, v, Mask()) == 1
    assert roads(q, k, v, Mask(distances=torch.zeros(4, 79))) == 1
    assert roads(q[..., :16], k[..., :16], v[..., :16], causal()) == 0
    shuffled = torch.tensor([[0] * 20 + [1] * 10 + [0] * 10] * 2)
    assert roads(q, k, v, causal() & same_document(shuffled)) == 0
