import gc
import mmap

import pytest
import torch

from yantai.base.pages import ALIGNMENT, SMALLEST, LargePages

needs_large_pages = pytest.mark.skipif(
    not hasattr(mmap, "MADV_HUGEPAGE"), reason="no large pages on this system"
)


@needs_large_pages
def test_tensors_lie_one_behind_another_and_keep_their_values():
    pages = LargePages(SMALLEST, 3)
    tensors = [torch.randn(7, 5), torch.arange(9).bfloat16(), torch.randn(100, 3).t()]
    placed = [pages.place(tensor) for tensor in tensors]
    for before, after in zip(tensors, placed, strict=True):
        assert torch.equal(before, after)
        assert after.is_contiguous()
        assert after.data_ptr() % ALIGNMENT == 0
    assert placed[1].data_ptr() - placed[0].data_ptr() == 192  # 140 bytes, rounded up


@needs_large_pages
def test_the_memory_outlives_the_object_that_made_it():
    pages = LargePages(SMALLEST, 1)
    placed = pages.place(torch.full((1000,), 7.0))
    del pages
    gc.collect()
    assert bool((placed == 7.0).all())


@needs_large_pages
def test_what_does_not_fit_stays_where_it_is():
    pages = LargePages(SMALLEST, 0)
    large = torch.zeros(SMALLEST + 1, dtype=torch.uint8)
    assert pages.place(large) is large
    assert pages.place(large[:-1]) is not large


def test_small_models_stay_where_they_are():
    tensor = torch.zeros(10)
    assert LargePages(SMALLEST - 1, 1).place(tensor) is tensor


def test_a_system_that_refuses_is_survived(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    tensor = torch.zeros(10)
    assert LargePages(SMALLEST, 1).place(tensor) is tensor
