"""The kernels of a decoding step on a GPU, in Triton.

Knows: pointers, shapes, forms of weights. A vector of the stream is float32 between two kernels; it
is rounded to the type of the weights where it is multiplied, and sums are float32. Each row is
computed alike whoever stands beside it.

A layer is six of them: `product` (norm, q k v), `place` (norms of heads, angles, cache), `look`
(attention), `product` (out, residual), `product` (norm, up, gate), `product` (down, residual).
"""

# Triton reads the text of these functions: names of arguments are its own business
import triton
import triton.language as tl

PLAIN, RMS, LAYER = 0, 1, 2
"""Norms of `product` and `place`."""
ACTIVATIONS = ("gelu", "gelu_tanh", "silu", "relu", "relu_squared")
"""By their numbers; −1 is none."""


@triton.jit
def activated(x, kind: tl.constexpr):
    """The pointwise non-linearity of that number."""
    if kind == 0:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif kind == 1:  # 0.5·(1 + tanh y) is the logistic function of 2y
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif kind == 2:
        x = x * tl.sigmoid(x)
    elif kind == 3:
        x = tl.maximum(x, 0.0)
    elif kind == 4:
        x = tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    return x


@triton.jit
def moments(
    x, row, known, columns, eps, norm: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr
):
    """Mean (0 for RMS) and 1/√(variance + ε) of each row of x, float32."""
    mean = tl.zeros((ROWS,), tl.float32)
    if norm == 2:
        for start in range(0, columns, WIDE):
            column = start + tl.arange(0, WIDE)
            inside = known[:, None] & (column < columns)[None]
            part = tl.load(x + row[:, None] * columns + column[None], mask=inside, other=0.0)
            mean += tl.sum(part, 1)
        mean = mean / columns
    square = tl.zeros((ROWS,), tl.float32)
    for start in range(0, columns, WIDE):
        column = start + tl.arange(0, WIDE)
        inside = known[:, None] & (column < columns)[None]
        part = tl.load(x + row[:, None] * columns + column[None], mask=inside, other=0.0)
        part = tl.where(inside, part - mean[:, None], 0.0)
        square += tl.sum(part * part, 1)
    return mean, 1.0 / tl.sqrt(square / columns + eps)


@triton.jit
def vectors(
    x,
    gain,
    shift,
    row,
    known,
    column,
    columns,
    mean,
    scale,
    norm: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Some columns of x, normed, in the type that is multiplied."""
    inside = column < columns
    part = tl.load(
        x + row[:, None] * columns + column[None], mask=known[:, None] & inside[None], other=0.0
    )
    if norm != 0:
        own = tl.load(gain + column, mask=inside, other=0.0)
        part = (part - mean[:, None]) * scale[:, None] * own[None]
        if norm == 2:
            part += tl.load(shift + column, mask=inside, other=0.0)[None]
    return part.to(DTYPE)


@triton.jit
def summed(
    total, x, gain, shift, weight, scales, levels, row, known, out, outs, columns, mean, scale,
    norm: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """total + x·Wᵀ for some rows of x and of W.

    In four bits a block of 32 columns is 16 bytes, whose lower halves are its first 16 columns.
    """
    groups = columns // group
    there = (out < outs)[:, None]
    for start in range(0, columns, WIDE):
        if bits == 4:
            byte = start // 2 + tl.arange(0, WIDE // 2)
            column = byte // 16 * 32 + byte % 16
            inside = there & (column < columns)[None]
            where = out[:, None].to(tl.int64) * (columns // 2) + byte[None]
            codes = tl.load(weight + where, mask=inside, other=0)
            of = out[:, None].to(tl.int64) * groups + (column // group)[None]
            size = tl.load(scales + of, mask=inside, other=0.0).to(tl.float32)
            low = (tl.load(levels + (codes & 15)) * size).to(DTYPE)
            high = (tl.load(levels + (codes >> 4)) * size).to(DTYPE)
            first = vectors(x, gain, shift, row, known, column, columns, mean, scale, norm, DTYPE)
            second = vectors(
                x, gain, shift, row, known, column + 16, columns, mean, scale, norm, DTYPE
            )
            total = tl.dot(first, tl.trans(low), total, input_precision="ieee")
            total = tl.dot(second, tl.trans(high), total, input_precision="ieee")
        else:
            column = start + tl.arange(0, WIDE)
            inside = there & (column < columns)[None]
            where = out[:, None].to(tl.int64) * columns + column[None]
            numbers = tl.load(weight + where, mask=inside, other=0)
            if bits == 8:
                of = out[:, None].to(tl.int64) * groups + (column // group)[None]
                size = tl.load(scales + of, mask=inside, other=0.0).to(tl.float32)
                numbers = numbers.to(tl.float32) * size
            part = vectors(x, gain, shift, row, known, column, columns, mean, scale, norm, DTYPE)
            total = tl.dot(part, tl.trans(numbers.to(DTYPE)), total, input_precision="ieee")
    return total


@triton.jit
def product(
    x, gain, shift, weight, scales, levels, bias, stream, y, rows, outs, columns, eps, cap,
    norm: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, kind: tl.constexpr,
    gated: tl.constexpr, has_bias: tl.constexpr, adds: tl.constexpr, capped: tl.constexpr,
    DTYPE: tl.constexpr, ROWS: tl.constexpr, OUTS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y = [stream +] act(norm(x)·Wᵀ + b), gated with the lower half of W; or capped.

    Shapes: x "row column"; W "out column", or "2·out column" where it is gated; y "row out".
    """
    out = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    known, there = row < rows, out < outs
    mean = tl.zeros((ROWS,), tl.float32)
    scale = mean
    if norm != 0:
        mean, scale = moments(x, row, known, columns, eps, norm, ROWS, WIDE)
    total = tl.zeros((ROWS, OUTS), tl.float32)
    total = summed(
        total, x, gain, shift, weight, scales, levels, row, known, out, outs, columns, mean, scale,
        norm, bits, group, DTYPE, WIDE,
    )  # fmt: skip
    if has_bias:
        total += tl.load(bias + out, mask=there, other=0.0)[None]
    total = activated(total, kind)
    if gated:
        value = tl.zeros((ROWS, OUTS), tl.float32)
        value = summed(
            value, x, gain, shift, weight, scales, levels, row, known, outs + out, 2 * outs,
            columns, mean, scale, norm, bits, group, DTYPE, WIDE,
        )  # fmt: skip
        if has_bias:
            value += tl.load(bias + outs + out, mask=there, other=0.0)[None]
        total = total * value
    if capped:  # tanh y is 2·logistic(2y) − 1
        total = cap * (2.0 * tl.sigmoid(2.0 * total / cap) - 1.0)
    where = row[:, None].to(tl.int64) * outs + out[None]
    inside = known[:, None] & there[None]
    if adds:
        total += tl.load(stream + where, mask=inside, other=0.0)
    tl.store(y + where, total, mask=inside)


@triton.jit
def place(
    qkv, of_query, shift_query, of_key, shift_key, cos, sin, given, keys, values, turned,
    heads, kv_heads, width, length, between, room, eps,
    norm: tl.constexpr, turns: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One head of one row: normed and turned; a query stands apart, key and value in the cache.

    Shapes: qkv "row (head + 2·kv_head)·width"; cos, sin "length width"; keys, values
    "row kv_head length width"; turned "row head width".

    Args:
        given: ids, unseen places and the place that is written, as `step.py` lays them.
        between: of two rows in `keys` and `values`.
        room: rows in `given`.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    here = tl.load(given + 2 * room)
    unseen = tl.load(given + room + row)
    column = tl.arange(0, D)
    inside = column < width
    half = width // 2
    other = tl.where(column < half, column + half, column - half)
    at = qkv + (row * (heads + 2 * kv_heads) + head) * width
    x = tl.load(at + column, mask=inside, other=0.0)
    is_query, is_value = head < heads, head >= heads + kv_heads
    if is_value == 0:
        z = tl.load(at + other, mask=inside, other=0.0)
        if norm != 0:
            gain = of_query if is_query else of_key
            mean = 0.0
            if norm == 2:
                mean = tl.sum(x, 0) / width
            apart = tl.where(inside, x - mean, 0.0)
            scale = 1.0 / tl.sqrt(tl.sum(apart * apart, 0) / width + eps)
            x = apart * scale * tl.load(gain + column, mask=inside, other=0.0)
            z = (z - mean) * scale * tl.load(gain + other, mask=inside, other=0.0)
            if norm == 2:
                shift = shift_query if is_query else shift_key
                x += tl.load(shift + column, mask=inside, other=0.0)
                z += tl.load(shift + other, mask=inside, other=0.0)
        if turns:
            angle = tl.maximum(here - unseen, 0) * width
            x = x * tl.load(cos + angle + column, mask=inside, other=0.0) + z * tl.load(
                sin + angle + column, mask=inside, other=0.0
            )
    if is_query:
        tl.store(turned + (row * heads + head) * width + column, x, mask=inside)
    else:
        number = head - heads
        into = keys
        if is_value:
            number = number - kv_heads
            into = values
        spot = row * between + (number * length + here) * width + column
        tl.store(into + spot, x.to(keys.dtype.element_ty), mask=inside)


@triton.jit
def look(
    turned, keys, values, given, y, heads, kv_heads, width, length, between, room, window, scale,
    shared: tl.constexpr, QUERIES: tl.constexpr, D: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """softmax(q·kᵀ·scale)·v for the queries of one key-value head of one row.

    Shapes: turned, y "row head width"; keys, values "row kv_head length width".

    Args:
        window: how many of the latest keys are seen; 0 for all.
        shared: queries that look at the same key-value head.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    here = tl.load(given + 2 * room)
    first = tl.load(given + room + row)
    if window > 0:
        first = tl.maximum(first, here + 1 - window)
    query, column = tl.arange(0, QUERIES), tl.arange(0, D)
    inside = column < width
    at = (row * heads + head * shared + query)[:, None] * width + column[None]
    known = (query < shared)[:, None] & inside[None]
    kind = keys.dtype.element_ty
    q = tl.load(turned + at, mask=known, other=0.0).to(kind)
    largest = tl.full((QUERIES,), -float("inf"), tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    total = tl.zeros((QUERIES, D), tl.float32)
    begin = row * between + head * length * width
    for start in range(first, here + 1, KEYS):
        key = start + tl.arange(0, KEYS)
        seen = key <= here
        spot = begin + key[:, None] * width + column[None]
        k = tl.load(keys + spot, mask=seen[:, None] & inside[None], other=0.0)
        v = tl.load(values + spot, mask=seen[:, None] & inside[None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(seen[None], scores, -float("inf"))
        higher = tl.maximum(largest, tl.max(scores, 1))
        shrink = tl.exp(largest - higher)
        pattern = tl.exp(scores - higher[:, None])
        weight = weight * shrink + tl.sum(pattern, 1)
        total = total * shrink[:, None]
        total = tl.dot(pattern.to(kind), v, total, input_precision="ieee")
        largest = higher
    tl.store(y + at, total / weight[:, None], mask=known)
