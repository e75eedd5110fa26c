"""The arithmetic of attention: the same function by several roads, chosen by shape and type.

Knows: q, k, v and a mask. Five roads:

- `RangeAttention`, compiled, on a CPU.
- `_Blocks`, the same without a compiler: plain matrix products over causal blocks of rows, which
  skip the masked half. Torch's CPU flash kernel spends there three times as long.
- `_flash`, on a GPU, for documents and windows: sequences of any lengths end to end.
- `scaled_dot_product_attention`, for everything else.
- `attend_openly`, when somebody looks at scores or pattern.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from yantai.core.layers import Point, draw_seed, look
from yantai.core.mask import Mask, Sequences
from yantai.core.native.range_attention import COLUMNS, RangeAttention, available

BLOCK_ROWS = 128
BLOCK_LONGEST = 1024
FLASH_WIDEST = 256
varlen_attention = torch.ops.aten._flash_attention_forward

Heads = Float[Tensor, "batch head query head_dim"]
KeyValues = Float[Tensor, "batch kv_head key head_dim"]


def attend(q: Heads, k: KeyValues, v: KeyValues, mask: Mask, scale: float, dropout: float) -> Heads:
    """softmax(q·kᵀ·scale + mask)·v; grouped key-value heads are shared by their queries."""
    queries, keys = q.shape[2], k.shape[2]
    seen = _seen(q, keys, mask)
    if seen is not None:
        seed = draw_seed() if dropout else 0
        return RangeAttention.apply(q, k, v, seen, scale, mask.distances, dropout, seed)
    if _blocks_pay(q, keys, mask, dropout):
        return _Blocks.apply(q, *_repeat(q, k, v), mask, scale)
    grouped = q.shape[1] != k.shape[1]
    if queries == 1 and mask.is_open and mask.window is None:
        if grouped:
            return _attend_one(q, k, v, scale)
        return F.scaled_dot_product_attention(q, k, v, scale=scale, dropout_p=dropout)
    fast = _flash_serves(q)
    if grouped and q.device.type == "cuda" and not fast:  # whose other kernels know no groups
        k, v = _repeat(q, k, v)
        grouped = False
    if mask.is_plain_causal and queries == keys:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=grouped
        )
    sequences = mask.sequences(len(q), queries, keys, q.device) if fast else None
    if sequences is not None:
        return _flash(q, k, v, sequences, mask, scale, dropout)
    added = mask.added(queries, keys, q.device, q.dtype)
    if fast and added is not None and mask.valid is not None and queries > 1:
        added = _never_blind(added)
    if grouped and fast and added is not None:  # nor does it know masks
        k, v = _repeat(q, k, v)
        grouped = False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=added, scale=scale, dropout_p=dropout, enable_gqa=grouped
    )


def _never_blind(added: Tensor) -> Tensor:
    """Queries that see nothing, as padding does, see all: some kernels would give them no number.

    What they gather is looked at by nobody, but no number at all would spoil the others' sums.
    """
    if added.dtype == torch.bool:
        return added | ~added.any(-1, keepdim=True)
    return added.masked_fill((added == -torch.inf).all(-1, keepdim=True), 0.0)


def _attend_one(q: Heads, k: KeyValues, v: KeyValues, scale: float) -> Heads:
    """One query a sequence: the queries of a group become the rows of one product."""
    batch, heads, _, head_dim = q.shape
    groups = q.view(batch, k.shape[1], heads // k.shape[1], head_dim)
    return F.scaled_dot_product_attention(groups, k, v, scale=scale).view(q.shape)


def attend_openly(
    q: Heads,
    k: KeyValues,
    v: KeyValues,
    mask: Mask,
    scale: float,
    dropout: float,
    scores_point: Point,
    pattern_point: Point,
) -> Heads:
    """The formula as it is written, with its scores and its pattern on show."""
    k, v = _repeat(q, k, v)
    scores = q @ k.transpose(-2, -1) * scale  # batch head query key
    allowed = mask.dense(q.shape[2], k.shape[2], q.device)
    bias = mask.bias(q.shape[2], k.shape[2], q.dtype)
    if bias is not None:
        scores = scores + bias
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    pattern = look(pattern_point, look(scores_point, scores).softmax(dim=-1))
    return F.dropout(pattern, dropout, training=dropout > 0) @ v


def _repeat(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    times = q.shape[1] // k.shape[1]
    if times == 1:
        return k, v
    return k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)


def _seen(q: Tensor, keys: int, mask: Mask) -> Tensor | None:
    """What the compiled road needs to know, where it can be taken."""
    if q.device.type != "cpu" or q.shape[-1] % COLUMNS or q.shape[2] == 1:
        return None
    if not available(q.dtype):
        return None
    return mask.seen(q.shape[2], keys, q.device)


def _flash_serves(q: Tensor) -> bool:
    """Whether this device has the kernel for such heads (arXiv 2307.08691)."""
    return (
        q.device.type == "cuda"
        and q.dtype in (torch.bfloat16, torch.float16)
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= FLASH_WIDEST
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(q.device) >= (8, 0)
    )


def _flash(
    q: Heads,
    k: KeyValues,
    v: KeyValues,
    sequences: Sequences,
    mask: Mask,
    scale: float,
    dropout: float,
) -> Heads:
    """Each sequence for itself; nothing is computed for pairs of two sequences."""
    batch, _, count, _ = q.shape
    flat = (part.transpose(1, 2).flatten(0, 1) for part in (q, k, v))
    left = mask.window - 1 if mask.window is not None else None
    right = 0 if mask.causal else left
    out = varlen_attention(
        *flat,
        sequences.queries,
        sequences.keys,
        max(2, sequences.most_queries),  # of 1 it takes another road, for decoding
        max(2, sequences.most_keys),
        dropout,
        mask.causal,
        False,
        scale=scale,
        window_size_left=left,
        window_size_right=right,
    )[0]
    return out.unflatten(0, (batch, count)).transpose(1, 2)


def _blocks_pay(q: Tensor, keys: int, mask: Mask, dropout: float) -> bool:
    return (
        q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and torch.is_grad_enabled()
        and q.requires_grad
        and dropout == 0.0
        and mask.causal
        and mask.distances is None
        and mask.query_start == 0
        and q.shape[2] == keys <= BLOCK_LONGEST
    )


class _Blocks(torch.autograd.Function):
    """Causal attention by blocks of query rows; the pattern is kept for the backward.

    For rows R that see keys K: S = q[R]·k[K]ᵀ·scale, P = softmax(S), out[R] = P·v[K].
    Backward: dv[K] += Pᵀ·do, dP = do·v[K]ᵀ, dS = P⊙(dP − rowsum(dP⊙P)), dq[R] = dS·k·scale,
    dk[K] += dSᵀ·q·scale (arXiv 2205.14135, appendix B).
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
        """Block after block."""
        batch, heads, count, head_dim = q.shape
        q, k, v = (part.reshape(batch * heads, count, head_dim) for part in (q, k, v))
        q = q * scale
        out = torch.empty_like(q)
        blocks = mask.blocks(count, BLOCK_ROWS, q.device, q.dtype)
        patterns = []
        for block in blocks:
            scores = q[:, block.rows] @ k[:, block.keys].transpose(1, 2)
            by_head = scores.view(batch, heads, *scores.shape[1:])
            by_head[..., -block.added.shape[-1] :].add_(block.added)
            pattern = scores.softmax(dim=-1)
            torch.bmm(pattern, v[:, block.keys], out=out[:, block.rows])
            patterns.append(pattern)
        ctx.save_for_backward(q, k, v, *patterns)
        ctx.scale, ctx.shape, ctx.blocks = scale, (batch, heads, count, head_dim), blocks
        return out.view(ctx.shape)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        """To q, k and v."""
        q, k, v, *patterns = ctx.saved_tensors
        batch, heads, count, head_dim = ctx.shape
        gradient = gradients[0].reshape(batch * heads, count, head_dim)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block, pattern in zip(ctx.blocks, patterns, strict=True):
            upstream = gradient[:, block.rows]
            dv[:, block.keys].baddbmm_(pattern.transpose(1, 2), upstream)
            d_pattern = upstream @ v[:, block.keys].transpose(1, 2)
            d_scores = torch._softmax_backward_data(d_pattern, pattern, -1, q.dtype)
            torch.bmm(d_scores, k[:, block.keys], out=dq[:, block.rows])
            dk[:, block.keys].baddbmm_(d_scores.transpose(1, 2), q[:, block.rows])
        dq *= ctx.scale
        return dq.view(ctx.shape), dk.view(ctx.shape), dv.view(ctx.shape), None, None
