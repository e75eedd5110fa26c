"""The kernels of a decoding step on a GPU, in Triton.

Knows: pointers, shapes, forms of weights. The stream is float32, and so are sums. A layer is six of
them for one row: `product_one` (norm, q k v), `place` (norms of heads, angles, cache), `look`
(attention), `product_one` (out, residual), again (norm, up, gate), again (down, residual). Several
rows are multiplied by the units for matrices, in the type of the weights: there `normed` stands
before the products, and each row is computed alike whoever stands beside it.
"""

import os

import triton
import triton.language as tl

ACTIVATIONS = ("gelu", "gelu_tanh", "silu", "relu", "relu_squared")
"""By their numbers; −1 is none."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BETWEEN = tl.constexpr(tl.float32 if INTERPRETED else tl.bfloat16)
"""Triton's interpreter, by which the tests try the kernels without a GPU, knows no bfloat16."""


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
def numbers_of(codes):
    """Whole numbers of eight bits as float32; by way of bfloat16, which holds them and is fast."""
    return codes.to(BETWEEN).to(tl.float32)


@triton.jit
def vector(x, gain, shift, column, columns, mean, scale, norm: tl.constexpr):
    """Some columns of one vector, and the squares of them before the norm.

    Of an RMS norm the scale is left out: it is the same for all columns.
    """
    inside = column < columns
    part = tl.load(x + column, mask=inside, other=0.0)
    square = part * part
    if norm == 1:
        part = part * tl.load(gain + column, mask=inside, other=0.0)
    elif norm == 2:
        part = (part - mean) * scale * tl.load(gain + column, mask=inside, other=0.0)
        part += tl.load(shift + column, mask=inside, other=0.0)
    return part, square


@triton.jit
def added_one(
    total, first, second, weight, scales, levels, out, there, block, columns,
    bits: tl.constexpr, group: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    """total + W·x for some columns, not yet summed over them; "out block column"."""
    inside = there[:, None, None] & (block * 32 < columns)[None, :, None]
    row = out.to(tl.int64)
    number = block[None, :, None] * DEEP + tl.arange(0, DEEP)[None, None]
    if bits == 16:
        where = row[:, None, None] * columns + number
        part = tl.load(weight + where, mask=inside & (number < columns), other=0.0)
        total += part.to(tl.float32) * first[None]
    else:
        of = row[:, None] * (columns // group) + (block * 32 // group)[None]
        near = there[:, None] & (block * 32 < columns)[None]
        size = tl.load(scales + of, mask=near, other=0.0).to(tl.float32)[:, :, None]
        where = row[:, None, None] * (columns * bits // 8) + number
        codes = tl.load(weight + where, mask=inside, other=0)
        if bits == 8:
            total += numbers_of(codes) * first[None] * size
        else:
            low, high = tl.load(levels + (codes & 15)), tl.load(levels + (codes >> 4))
            total += (low * first[None] + high * second[None]) * size
    return total


@triton.jit
def product_one(
    x, gain, shift, weight, scales, levels, bias, stream, y, outs, columns, eps, cap,
    norm: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, kind: tl.constexpr,
    gated: tl.constexpr, has_bias: tl.constexpr, adds: tl.constexpr, capped: tl.constexpr,
    OUTS: tl.constexpr, BLOCKS: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    """y = [stream +] act(W·norm(x) + b) of one vector, gated with the lower half of W; or capped.

    Shapes: x "column"; W "out column", or "2·out column" where it is gated; y "out".

    Args:
        BLOCKS: of 32 columns, that are read at a time.
        DEEP: bytes or numbers of a block: 16 in four bits, else 32.
    """
    out = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    there = out < outs
    mean, scale = 0.0, 1.0
    if norm == 2:
        mean, scale = moments(x, columns, eps, BLOCKS * 32)
    total = tl.zeros((OUTS, BLOCKS, DEEP), tl.float32)
    value = total
    squares = tl.zeros((BLOCKS, DEEP), tl.float32)
    for start in range(0, columns, BLOCKS * 32):
        block = start // 32 + tl.arange(0, BLOCKS)
        column = block[:, None] * 32 + tl.arange(0, DEEP)[None]
        first, square = vector(x, gain, shift, column, columns, mean, scale, norm)
        squares += square
        second = first
        if bits == 4:
            second, square = vector(x, gain, shift, column + 16, columns, mean, scale, norm)
            squares += square
        total = added_one(
            total, first, second, weight, scales, levels, out, there, block, columns,
            bits, group, DEEP,
        )  # fmt: skip
        if gated:
            value = added_one(
                value, first, second, weight, scales, levels, outs + out, there, block, columns,
                bits, group, DEEP,
            )  # fmt: skip
    one, other = tl.sum(tl.sum(total, 2), 1), tl.sum(tl.sum(value, 2), 1)
    if norm == 1:
        scale = 1.0 / tl.sqrt(tl.sum(tl.sum(squares, 1), 0) / columns + eps)
        one, other = one * scale, other * scale
    one = finished(one, other, bias, out, there, outs, cap, kind, gated, has_bias, capped)
    if adds:
        one += tl.load(stream + out, mask=there, other=0.0)
    tl.store(y + out, one, mask=there)


@triton.jit
def finished(
    total, value, bias, out, there, outs, cap,
    kind: tl.constexpr, gated: tl.constexpr, has_bias: tl.constexpr, capped: tl.constexpr,
):  # fmt: skip
    """What follows the sums: bias, non-linearity, gate, cap; the last dimension is that of outs."""
    if has_bias:
        total += tl.load(bias + out, mask=there, other=0.0)
    total = activated(total, kind)
    if gated:
        if has_bias:
            value += tl.load(bias + outs + out, mask=there, other=0.0)
        total = total * value
    if capped:  # tanh y is 2·logistic(2y) − 1
        total = cap * (2.0 * tl.sigmoid(2.0 * total / cap) - 1.0)
    return total


@triton.jit
def moments(x, columns, eps, WIDE: tl.constexpr):
    """Mean and 1/√(variance + ε) of a vector, float32."""
    mean = 0.0
    for start in range(0, columns, WIDE):
        column = start + tl.arange(0, WIDE)
        mean += tl.sum(tl.load(x + column, mask=column < columns, other=0.0), 0)
    mean = mean / columns
    square = 0.0
    for start in range(0, columns, WIDE):
        column = start + tl.arange(0, WIDE)
        inside = column < columns
        part = tl.where(inside, tl.load(x + column, mask=inside, other=0.0) - mean, 0.0)
        square += tl.sum(part * part, 0)
    return mean, 1.0 / tl.sqrt(square / columns + eps)


@triton.jit
def normed(x, gain, shift, y, columns, eps, norm: tl.constexpr, WIDE: tl.constexpr):
    """The norm of each row, in the type that is multiplied; "row column"."""
    x += tl.program_id(0) * columns
    y += tl.program_id(0) * columns
    mean, scale = 0.0, 1.0
    if norm == 2:
        mean, scale = moments(x, columns, eps, WIDE)
    else:
        square = 0.0
        for start in range(0, columns, WIDE):
            column = start + tl.arange(0, WIDE)
            part = tl.load(x + column, mask=column < columns, other=0.0)
            square += tl.sum(part * part, 0)
        scale = 1.0 / tl.sqrt(square / columns + eps)
    for start in range(0, columns, WIDE):
        column = start + tl.arange(0, WIDE)
        inside = column < columns
        part = (tl.load(x + column, mask=inside, other=0.0) - mean) * scale
        part = part * tl.load(gain + column, mask=inside, other=0.0)
        if norm == 2:
            part += tl.load(shift + column, mask=inside, other=0.0)
        tl.store(y + column, part.to(y.dtype.element_ty), mask=inside)


@triton.jit
def rows_of(x, row, known, column, columns):
    """Some columns of some rows; "row column"."""
    inside = known[:, None] & (column < columns)[None]
    return tl.load(x + row[:, None] * columns + column[None], mask=inside, other=0.0)


@triton.jit
def added_many(
    total, x, weight, scales, levels, row, known, out, there, start, columns,
    bits: tl.constexpr, group: tl.constexpr, OUTS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """total + x·Wᵀ for some columns; "row out"."""
    kind = x.dtype.element_ty
    line = out.to(tl.int64)
    column = start + tl.arange(0, BLOCKS * 32)
    if bits == 16:
        inside = there[:, None] & (column < columns)[None]
        part = tl.load(weight + line[:, None] * columns + column[None], mask=inside, other=0.0)
        own = rows_of(x, row, known, column, columns)
        total = tl.dot(own, tl.trans(part), total, input_precision="ieee")
    else:
        block = start // 32 + tl.arange(0, BLOCKS)
        near = there[:, None] & (block * 32 < columns)[None]
        of = line[:, None] * (columns // group) + (block * 32 // group)[None]
        size = tl.load(scales + of, mask=near, other=0.0).to(tl.float32)[:, :, None]
        byte = block[None, :, None] * (4 * bits) + tl.arange(0, 4 * bits)[None, None]
        where = line[:, None, None] * (columns * bits // 8) + byte
        codes = tl.load(weight + where, mask=near[:, :, None], other=0)
        if bits == 8:
            part = tl.reshape((numbers_of(codes) * size).to(kind), (OUTS, BLOCKS * 32))
            own = rows_of(x, row, known, column, columns)
            total = tl.dot(own, tl.trans(part), total, input_precision="ieee")
        else:
            low = (tl.load(levels + (codes & 15)) * size).to(kind)
            high = (tl.load(levels + (codes >> 4)) * size).to(kind)
            low, high = tl.reshape(low, (OUTS, BLOCKS * 16)), tl.reshape(high, (OUTS, BLOCKS * 16))
            half = tl.arange(0, BLOCKS * 16)
            near_column = start + half // 16 * 32 + half % 16
            own = rows_of(x, row, known, near_column, columns)
            total = tl.dot(own, tl.trans(low), total, input_precision="ieee")
            own = rows_of(x, row, known, near_column + 16, columns)
            total = tl.dot(own, tl.trans(high), total, input_precision="ieee")
    return total


@triton.jit
def product_many(
    x, weight, scales, levels, bias, stream, y, rows, outs, columns, cap,
    bits: tl.constexpr, group: tl.constexpr, kind: tl.constexpr,
    gated: tl.constexpr, has_bias: tl.constexpr, adds: tl.constexpr, capped: tl.constexpr,
    ROWS: tl.constexpr, OUTS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """y = [stream +] act(x·Wᵀ + b) of several rows, gated with the lower half of W; or capped.

    Shapes: x "row column", in the type that is multiplied; y "row out".
    """
    out = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    known, there = row < rows, out < outs
    total = tl.zeros((ROWS, OUTS), tl.float32)
    value = total
    for start in range(0, columns, BLOCKS * 32):
        total = added_many(
            total, x, weight, scales, levels, row, known, out, there, start, columns,
            bits, group, OUTS, BLOCKS,
        )  # fmt: skip
        if gated:
            value = added_many(
                value, x, weight, scales, levels, row, known, outs + out, there, start, columns,
                bits, group, OUTS, BLOCKS,
            )  # fmt: skip
    total = finished(
        total, value, bias, out[None], there[None], outs, cap, kind, gated, has_bias, capped
    )
    where = row[:, None].to(tl.int64) * outs + out[None]
    inside = known[:, None] & there[None]
    if adds:
        total += tl.load(stream + where, mask=inside, other=0.0)
    tl.store(y + where, total.to(y.dtype.element_ty), mask=inside)


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
        given: of each row, as `step.py` lays them: its id, the unseen places before it, its own
            place (below 0 for a row that is none) and its row of the cache.
        between: of two rows in `keys` and `values`.
        room: rows in `given`.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    unseen = tl.load(given + room + row)
    here = tl.load(given + 2 * room + row)
    slot = tl.load(given + 3 * room + row)
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
        spot = slot * between + (number * length + here) * width + column
        tl.store(into + spot, x.to(keys.dtype.element_ty), mask=inside & (here >= 0))


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
    first = tl.load(given + room + row)
    here = tl.load(given + 2 * room + row)
    slot = tl.load(given + 3 * room + row)
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
    begin = slot * between + head * length * width
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
    weight = tl.where(weight == 0.0, 1.0, weight)  # a row that is none sees nothing
    tl.store(y + at, (total / weight[:, None]).to(y.dtype.element_ty), mask=known)
