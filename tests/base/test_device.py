import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yantai.base import device
from yantai.base.device import MemoryWatch, choose_device, choose_dtype
from yantai.base.errors import UsageError

CPU = torch.device("cpu")
begins_anew = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="no high-water mark to begin anew here"
)


PEAKS = """
import json
import torch
from yantai.base.device import MemoryWatch

cpu = torch.device("cpu")
watch = MemoryWatch(cpu)
peaks = [watch.peak_bytes()]
held = torch.ones(60_000_000)  # 240 MB
peaks.append(watch.peak_bytes())
del held
peaks += [watch.peak_bytes(), MemoryWatch(cpu).peak_bytes()]
print(json.dumps(peaks))
"""


@begins_anew
def test_memory_is_counted_above_the_start_and_a_new_watch_begins_anew():
    """In a process of its own: one that keeps freed memory takes no more from the system."""
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    before, during, freed, anew = json.loads(done.stdout)
    assert before < 50e6
    assert 230e6 < during < 350e6
    assert freed > 0.95 * during
    assert anew < 50e6


def test_a_system_without_such_files_still_has_a_peak(monkeypatch):
    monkeypatch.setattr(Path, "read_text", _refuse)
    monkeypatch.setattr(Path, "write_text", _refuse)
    watch = MemoryWatch(CPU)
    assert watch.peak_bytes() >= 0
    assert watch._peak() > 10e6


def _refuse(*arguments, **options):
    raise OSError(2, "No such file or directory")


@pytest.mark.parametrize(
    ("flags", "narrow", "wide", "chosen"),
    [
        ({"avx512_bf16", "amx_bf16"}, 1, 2, torch.bfloat16),  # AMX is not asked
        ({"avx512_bf16"}, 1, 2, torch.float32),
        ({"avx512_bf16"}, 2, 1, torch.bfloat16),
        ({"bf16"}, 2, 1, torch.bfloat16),  # ARM
        ({"avx2"}, 2, 1, torch.float32),
    ],
)
def test_bfloat16_is_taken_where_its_products_are_the_faster_ones(
    monkeypatch, flags, narrow, wide, chosen
):
    speeds = {torch.bfloat16: narrow, torch.float32: wide}
    device.has_fast_bfloat16.cache_clear()
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(device, "product_speed", lambda dtype, _: speeds[dtype])
    assert choose_dtype("auto", CPU) is chosen
    device.has_fast_bfloat16.cache_clear()


def test_asking_for_the_speed_takes_nothing_from_torchs_generator():
    before = torch.get_rng_state()
    assert device.product_speed(torch.float32, CPU, size=32) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_too_small_to_matter_are_zero_in_every_thread():
    """Processors need a hundred cycles for each of them, and trained attention is full of them."""
    code = (
        "import torch; from yantai.base.device import prepare_process, tiny_is_zero\n"
        "prepare_process(2)\n"
        "with tiny_is_zero():\n"
        "    small = torch.tensor([2**20], dtype=torch.int32).repeat(2**22).view(torch.float32)\n"
        "    left = (small * 1.0).view(torch.int32).count_nonzero()\n"
        "print(int(left), torch.set_flush_denormal(True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    if done[1] == "False":
        pytest.skip("this processor has no such switch")
    assert done[0] == "0"


def test_whoever_calls_a_run_has_small_numbers_again_afterwards():
    @device.tiny_is_zero()
    def run():
        with device.tiny_is_zero():
            pass
        return sys.float_info.min / 2

    try:
        switched = torch.set_flush_denormal(True)
        inside = sys.float_info.min / 2
    finally:
        torch.set_flush_denormal(False)
    if not switched:
        pytest.skip("this processor has no such switch")
    assert inside == 0.0
    assert run() == 0.0, "an inner one does not end an outer one"
    assert sys.float_info.min / 2 > 0.0
    with pytest.raises(KeyError), device.tiny_is_zero():
        raise KeyError
    assert sys.float_info.min / 2 > 0.0


@pytest.mark.parametrize(("speeds", "found"), [((100.0, 500.0), True), ((900.0, 500.0), False)])
def test_threads_that_wait_for_a_taken_core_are_noticed(speeds, found, monkeypatch):
    def speed(dtype):
        return speeds[torch.get_num_threads() == 1]

    before = torch.get_num_threads()
    monkeypatch.setattr(device, "_usual_speed", speed)
    torch.set_num_threads(2)
    try:
        assert device.slower_together(torch.float32, CPU) == (speeds if found else None)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert device.slower_together(torch.float32, CPU) is None
    finally:
        torch.set_num_threads(before)


HELPERS = """
import os
import torch
from yantai.base.device import _gnu_openmp, release_threads

def tasks():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(4)
square = torch.ones(600, 600)
torch.mm(square, square)
torch.ones(10_000_000).add_(1)
busy = tasks()
told = release_threads()
after = tasks()
again = float(torch.ones(10_000_000).add_(1).sum())
print(_gnu_openmp() is not None, busy, told, after, again)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc to count threads in")
def test_helpers_end_when_the_work_is_handed_over():
    """In a process of its own, whose threads are counted."""
    done = subprocess.run(
        [sys.executable, "-c", HELPERS], capture_output=True, text=True, check=True
    )
    there, busy, told, after, again = done.stdout.split()
    if there != "True":
        pytest.skip("torch's threads are not those of GNU's OpenMP here")
    assert told == "True" and int(after) <= int(busy) - 3 and float(again) == 2e7


@pytest.mark.parametrize("name", ["meta", "mps", "no device", "cuda"])
def test_a_device_that_is_not_there_is_refused(name):
    """Ordinary tests see no GPU, whatever machine they run on."""
    with pytest.raises(UsageError, match="device"):
        choose_device(name)
    assert choose_device("auto") == choose_device("cpu") == CPU


def test_a_gpu_that_is_not_there_is_refused_and_on_one_float32_is_not_rounded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with pytest.raises(UsageError, match="no such CUDA device; expected cuda:0 to cuda:1"):
        choose_device("cuda:2")
    assert choose_device("auto").type == choose_device("cuda:1").type == "cuda"
    assert not torch.backends.cudnn.allow_tf32
