"""What this machine can do at all: products at the model's shapes, memory read in one stream."""

import time

import torch

SHAPES = {
    "attention 384→384": (384, 384),
    "MLP 384→1536": (384, 1536),
    "MLP 1536→384": (1536, 384),
    "head 384→4096": (384, 4096),
}


def best(call, repeats=15):
    call()
    found = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        found = min(found, time.perf_counter() - began)
    return found


def products(rows=4096):
    """GFLOP/s of x·Wᵀ, g·W and gᵀ·x together, by shape and type."""
    lines = []
    for name, (inputs, outputs) in SHAPES.items():
        row = []
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(rows, inputs).to(dtype)
            weight, g = torch.randn(outputs, inputs).to(dtype), torch.randn(rows, outputs).to(dtype)
            seconds = (
                best(lambda x=x, w=weight: x @ w.t())
                + best(lambda g=g, w=weight: g @ w)
                + best(lambda x=x, g=g: g.t() @ x)
            )
            row.append(6 * rows * inputs * outputs / seconds / 1e9)
        lines.append(f"{name:24} float32 {row[0]:7,.0f}   bfloat16 {row[1]:7,.0f} GFLOP/s")
    return lines


def bandwidth(megabytes=512):
    """Bytes a second of summing a large array once."""
    data = torch.ones(megabytes * 1_000_000 // 4)
    return data.numel() * 4 / best(lambda: data.sum(), 5)


def memory(megabytes=512):
    """GB/s of summing a large array once, and of copying it."""
    data = torch.ones(megabytes * 1_000_000 // 4)
    other = torch.empty_like(data)
    read = bandwidth(megabytes) / 1e9
    copy = 2 * data.numel() * 4 / best(lambda: other.copy_(data), 5) / 1e9
    return [f"memory: read {read:.1f} GB/s, copy {copy:.1f} GB/s (read and write counted)"]
