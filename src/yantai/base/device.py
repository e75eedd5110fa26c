"""Where the numbers are computed: device, number type, threads, seeds, and what the machine can do.

Knows: torch devices and CPU instructions. Knows nothing of models.
"""

import contextlib
import ctypes
import functools
import os
import platform
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from yantai.base.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def choose_device(name: str = "auto") -> torch.device:
    """`auto` takes a CUDA device if there is one, else the CPU.

    On CUDA, float32 is float32 in recurrent networks too, which cuDNN would round to TF32.

    Raises:
        UsageError: the named device is not there.
    """
    device = _named_device(name)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return device


def _named_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            "E201", "device", f"unknown device {name!r}", expected="cpu or cuda"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError("E201", "device", "not supported", expected="cpu or cuda", got=name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("E201", "device", "no CUDA device is visible", do="use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UsageError(
            "E201", "device", "no such CUDA device", expected=f"cuda:0 to cuda:{count - 1}",
            got=name,
        )  # fmt: skip
    return device


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets that the processor names (Linux; empty elsewhere)."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


@functools.cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32.

    A processor's instructions do not say: those of AVX512-BF16 are half as fast as float32 on some
    processors, four times as fast on others. Without AMX it is measured, once in a process.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu" and "amx_bf16" in cpu_flags():
        return True
    if device.type == "cpu" and cpu_flags() & {"avx512_bf16", "bf16"}:
        return product_speed(torch.bfloat16, device) > product_speed(torch.float32, device)
    return False


def product_speed(dtype: torch.dtype, device: torch.device, size: int = 1024) -> float:
    """FLOP/s of a square product, the best of five."""
    left = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(left, left)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def slower_together(dtype: torch.dtype, device: torch.device) -> tuple[float, float] | None:
    """FLOP/s of all threads of this process and of one alone, where one alone is the faster.

    Threads wait for each other at every operation; one whose core another program has keeps all of
    them waiting, at a tenth of the speed and less. None where nothing is lost by them.
    """
    count = torch.get_num_threads()
    if device.type != "cpu" or count == 1:
        return None
    together = _usual_speed(dtype)
    torch.set_num_threads(1)
    try:
        alone = _usual_speed(dtype)
    finally:
        torch.set_num_threads(count)
    return (together, alone) if alone > 1.2 * together else None


def _usual_speed(dtype: torch.dtype, size: int = 512, seconds: float = 0.1) -> float:
    """FLOP/s of square products one after the other, waiting included."""
    square = torch.ones(size, size, dtype=dtype)
    torch.mm(square, square)
    made, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        torch.mm(square, square)
        made += 1
    return made * 2 * size**3 / (time.perf_counter() - began)


@functools.cache
def _gnu_openmp() -> Any:
    """The library of threads that torch has brought along, if it is GNU's."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD)
            library.omp_pause_resource_all.argtypes = [ctypes.c_int]
            return library
    return None


def release_threads() -> bool:
    """End the helpers of the thread that calls; they come again when it computes something large.

    Each thread that computes has helpers of its own, and once there are more of them than cores
    GNU's OpenMP lets all of them sleep at every wait: another thread then makes small steps at half
    the speed. Whoever hands the work over to another thread calls this first.

    Returns:
        Whether there was anybody to ask.
    """
    library, soft = _gnu_openmp(), 1  # omp_pause_soft
    return library is not None and library.omp_pause_resource_all(soft) == 0


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it faster, else float32."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise UsageError("E201", "dtype", f"unknown {name!r}", expected=" or ".join(DTYPES))
    return DTYPES[name]


def physical_cores() -> int:
    """Cores this process may use (its affinity, not the machine's total)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def prepare_process(
    threads: int | None = None, *, deterministic: bool = False, keep_memory: bool = True
) -> int:
    """Get this process ready for long work.

    A fixed number of threads; freed memory is kept.

    Args:
        threads: None takes the physical cores.
        deterministic: refuse kernels of a GPU whose sums depend on who comes first.
        keep_memory: whether what is freed is kept, as a training wants it, step for step.

    Returns:
        The number of threads, on which the last bit of a CPU sum depends.
    """
    count = threads or physical_cores()
    torch.set_num_threads(count)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if keep_memory:
        _keep_freed_memory()
    return count


@contextlib.contextmanager
def tiny_is_zero() -> Generator[None]:
    """Numbers below 1e-38 (in float64 2e-308) are zero meanwhile; works as a decorator too.

    Sharp attention leaves such numbers behind, and many processors need a hundred cycles for each.
    torch's threads take this from the thread that begins them, and keep it: enter before anything
    was computed. The thread that entered has its own numbers back afterwards.
    """
    before = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@functools.cache
def _keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed instead of returning it to the system.

    A training step frees and takes the same large blocks again and again, and by default each one
    comes back as fresh pages, at one page fault per 4 KiB: a fifth to a third of a small model's
    step. Other allocators have no such switch, and need none.
    """
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # malloc.h
    settings = ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**26))
    try:
        library = ctypes.CDLL(None)
        return all(library.mallopt(name, value) == 1 for name, value in settings)
    except (AttributeError, OSError, TypeError):
        return False


def give_back_memory() -> bool:
    """Return what was freed, and is still held, to the system: glibc alone keeps some.

    Reading a model file leaves as much behind as the file is large.

    Returns:
        Whether anything was returned.
    """
    try:
        return ctypes.CDLL(None).malloc_trim(0) == 1
    except (AttributeError, OSError, TypeError):
        return False


class MemoryWatch:
    """The most memory that is taken from now on, above what is held now.

    On a CPU this is the process's high-water mark, begun anew where the system allows it; elsewhere
    what was the peak before counts too.
    """

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.init()  # before it there are no figures to begin anew
            torch.cuda.reset_peak_memory_stats(device)
            self._start = torch.cuda.memory_allocated(device)
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._start = _of_process("VmRSS") or self._peak()

    def peak_bytes(self) -> int:
        """Bytes above the start, at most so far."""
        return max(0, self._peak() - self._start)

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return _of_process("VmHWM") or (peak if platform.system() == "Darwin" else peak * 1024)


def _of_process(field: str) -> int:
    """A figure of this process as Linux tells it, bytes; 0 elsewhere."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def available_memory_bytes(device: torch.device) -> int:
    """Memory that can still be taken on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What a receipt says of the machine: processor, cores, versions."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "processor": name,
        "cores": physical_cores(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def mix_seed(*parts: int | str) -> int:
    """One 63-bit seed from several parts, so that randomness is a function of (seed, step, …).

    >>> mix_seed(1, 2) == mix_seed(1, 2) != mix_seed(2, 1)
    True
    """
    import hashlib

    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
