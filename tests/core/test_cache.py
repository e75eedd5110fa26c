"""Rows of a cache move as those of a matrix would."""

import pytest
import torch

from yantai.core.cache import Cache
from yantai.core.config import ModelConfig

CONFIG = ModelConfig(vocab_size=8, dim=8, layers=2, heads=2, kv_heads=2, head_dim=4, hidden=8,
                     max_positions=16)  # fmt: skip


def filled_cache(rows=4, filled=5):
    """With numbers in it, and an encoder's output in one layer."""
    cache = Cache(CONFIG, rows, 9)
    cache.store.copy_(torch.randn(cache.store.shape, generator=torch.Generator().manual_seed(0)))
    cache.filled = filled
    memory = torch.arange(rows * 6.0).view(rows, 1, 2, 3)
    cache.keep(0, lambda: (memory, -memory))
    return cache


@pytest.mark.parametrize(
    "rows", [[0, 1, 2, 3], [1, 1, 0, 2], [3, 0], [2], [0, 0, 1, 1, 2, 2], [3, 3, 3, 3]]
)
def test_rows_are_taken_as_they_are_named(rows):
    cache = filled_cache()
    before, index = cache.store[..., :5, :].clone(), torch.tensor(rows)
    keys, values = cache.keep(0, lambda: None)
    cache.take(index)
    assert cache.rows == len(rows)
    assert torch.equal(cache.store[:, :, : len(rows), :, :5], before[:, :, index])
    now = cache.keep(0, lambda: None)
    assert torch.equal(now[0], keys[index]) and torch.equal(now[1], values[index])


def test_rows_that_look_at_the_same_memory_leave_it_where_it_is():
    cache = filled_cache()
    keys, _ = cache.keep(0, lambda: None)
    cache.take(torch.tensor([1, 0, 3, 3]), same_memory=True)
    assert cache.keep(0, lambda: None)[0] is keys


def test_what_is_written_next_goes_to_the_rows_that_are_left():
    cache = filled_cache()
    cache.take(torch.tensor([2, 0]))
    new = torch.full((2, 2, 1, 4), 7.0)
    cache.open(1)
    keys, _ = cache.extend(1, new, new)
    assert keys.shape == (2, 2, 6, 4) and bool((keys[:, :, -1] == 7).all())
