"""Documents and windows as sequences end to end: the road of a GPU, followed on a CPU."""

import pytest
import torch

from yantai.core import kernel
from yantai.core.kernel import attend
from yantai.core.mask import Mask, same_document, window

COUNT = 40
ROWS = torch.tensor([[0] * 7 + [1] * 20 + [2] * 13, [3] * 40, [0] * 1 + [4] * 30 + [-1] * 9])
MASKS = {
    "documents, causal": Mask(causal=True) & same_document(ROWS),
    "documents, both ways": same_document(ROWS),
    "window, causal": Mask(causal=True) & window(5),
    "window, both ways": window(5),
    "both, causal": Mask(causal=True) & window(5) & same_document(ROWS),
    "both, both ways": window(5) & same_document(ROWS),
    "one row for all": Mask(causal=True) & same_document(ROWS[:1]),
    "documents of a token": Mask(causal=True) & same_document(torch.arange(COUNT)[None]),
}


def varlen(
    q, k, v, starts_q, starts_k, most_q, most_k, dropout, causal, debug, *, scale,
    window_size_left, window_size_right,
):  # fmt: skip
    """The meaning of torch's operation, in plain steps."""
    assert starts_q.dtype == starts_k.dtype == torch.int32 and not dropout and not debug
    assert most_q >= 2 and most_k >= 2  # a longest sequence of one is another thing there
    out = torch.zeros_like(q)
    times = q.shape[1] // k.shape[1]
    for number in range(len(starts_q) - 1):
        mine = slice(int(starts_q[number]), int(starts_q[number + 1]))
        theirs = slice(int(starts_k[number]), int(starts_k[number + 1]))
        rows, columns = mine.stop - mine.start, theirs.stop - theirs.start
        assert rows <= most_q and columns <= most_k
        if not rows or not columns:
            continue
        apart = torch.arange(columns)[None] - torch.arange(rows)[:, None] - (columns - rows)
        allowed = torch.ones(rows, columns, dtype=torch.bool)
        if causal or window_size_right is not None:
            allowed &= apart <= (0 if causal else window_size_right)
        if window_size_left is not None:
            allowed &= apart >= -window_size_left
        keys, values = (x[theirs].repeat_interleave(times, 1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[mine], keys) * scale
        pattern = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        out = out.index_add(0, torch.arange(mine.start, mine.stop),
                            torch.einsum("hqk,khd->qhd", pattern, values))  # fmt: skip
    return (out,)


@pytest.fixture
def followed(monkeypatch):
    """A machine whose fast road is the plain steps above; says how often it was taken."""
    taken = []

    def counted(*arguments, **named):
        taken.append(arguments)
        return varlen(*arguments, **named)

    monkeypatch.setattr(kernel, "_seen", lambda *_: None)
    monkeypatch.setattr(kernel, "_flash_serves", lambda q: True)
    monkeypatch.setattr(kernel, "varlen_attention", counted)
    return taken


def heads(kv_heads=2, queries=COUNT, keys=COUNT, batch=3):
    torch.manual_seed(0)
    shapes = ((4, queries), (kv_heads, keys), (kv_heads, keys))
    return [
        torch.randn(batch, count, number, 8, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for number, count in shapes
    ]


def formula(q, k, v, allowed, scale):
    times = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    scores = (q @ k.mT * scale).masked_fill(~allowed, -torch.inf)
    return scores.softmax(-1) @ v


def agree(got, expected, inputs):
    assert torch.allclose(got, expected, atol=1e-12)
    upstream = torch.randn_like(expected)
    found = [torch.autograd.grad(each, inputs, upstream) for each in (got, expected)]
    assert all(torch.allclose(*pair, atol=1e-12) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("name", MASKS)
def test_the_sequences_are_those_of_the_dense_matrix(name, followed):
    mask, inputs = MASKS[name], heads()
    dense = mask.dense(COUNT, COUNT, torch.device("cpu"))
    agree(attend(*inputs, mask, 0.3, 0.0), formula(*inputs, dense, 0.3), inputs)
    attend(*inputs, mask, 0.3, 0.0)
    assert len(followed) == 2 and followed[0][3] is followed[1][3]  # found once for all layers


def test_a_target_looks_at_its_own_source(followed):
    sources = torch.tensor([[0] * 4 + [1] * 10 + [2] * 6, [5] * 12 + [-1] * 8, [0] * 20])
    targets = torch.tensor([[0] * 9 + [1] * 5 + [2] * 6, [5] * 15 + [-1] * 5, [0] * 20])
    mask = Mask(documents=sources, query_documents=targets)
    inputs = heads(queries=20, keys=20)
    known = (targets >= 0)[:, None, :, None]
    expected = formula(*inputs, mask.dense(20, 20, torch.device("cpu")), 0.3) * known
    agree(attend(*inputs, mask, 0.3, 0.0) * known, expected, inputs)
    assert len(followed) == 1


def test_a_source_without_a_target_and_the_other_way_round(followed):
    mask = Mask(
        documents=torch.tensor([[0, 0, 1, 1, 1, 3, 3]]),
        query_documents=torch.tensor([[0, 0, 0, 2, 2, 3, 3, 3]]),
    )
    inputs = heads(queries=8, keys=7, batch=1)
    out = attend(*inputs, mask, 0.3, 0.0)
    alone = [0, 1, 2, 5, 6, 7]
    expected = formula(*inputs, mask.dense(8, 7, torch.device("cpu")), 0.3)
    assert torch.allclose(out[:, :, alone], expected[:, :, alone], atol=1e-12)
    assert not out[:, :, 3:5].any()


@pytest.mark.parametrize(
    "mask",
    [
        Mask(causal=True),
        Mask(),
        same_document(torch.tensor([[1, 1, 0, 0]])),
        same_document(torch.tensor([[0, -1, -1, 1]])),
        Mask(causal=True, documents=torch.zeros(1, 4), query_documents=torch.zeros(1, 4)),
        Mask(causal=True, window=3, query_start=2),
        Mask(window=3, valid=torch.ones(1, 4, dtype=torch.bool)),
        Mask(window=3, distances=torch.zeros(2, 7)),
    ],
)
def test_what_is_no_row_of_sequences_takes_another_road(mask):
    assert mask.sequences(1, 4, 4, torch.device("cpu")) is None


def test_the_operation_of_this_torch_takes_what_it_is_given():
    def make(number):
        return torch.empty(
            2, number, 12, 16, device="meta", dtype=torch.bfloat16, requires_grad=True
        )

    q, k, v = make(4), make(2), make(2)
    mask = Mask(causal=True) & window(3)
    sequences = mask.sequences(2, 12, 12, torch.device("meta"))
    out = kernel._flash(q, k, v, sequences, mask, 0.25, 0.1)
    assert out.shape == q.shape
    out.sum().backward()
    assert q.grad.shape == q.shape and k.grad.shape == k.shape
