import os
from pathlib import Path

import pytest
import torch

from yantai.base.device import MemoryWatch

CPU = torch.device("cpu")
begins_anew = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="no high-water mark to begin anew here"
)


@begins_anew
def test_memory_is_counted_above_the_start_and_a_new_watch_begins_anew():
    watch = MemoryWatch(CPU)
    before = watch.peak_bytes()
    held = torch.ones(60_000_000)  # 240 MB
    during = watch.peak_bytes()
    del held
    assert before < 50e6
    assert 230e6 < during < 350e6
    assert watch.peak_bytes() > 0.95 * during
    assert MemoryWatch(CPU).peak_bytes() < 50e6


def test_a_system_without_such_files_still_has_a_peak(monkeypatch):
    monkeypatch.setattr(Path, "read_text", _refuse)
    monkeypatch.setattr(Path, "write_text", _refuse)
    watch = MemoryWatch(CPU)
    assert watch.peak_bytes() >= 0
    assert watch._peak() > 10e6


def _refuse(*arguments, **options):
    raise OSError(2, "No such file or directory")
