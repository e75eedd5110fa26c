"""Kill or refuse a save at every one of its system calls, and look at what is left.

Knows: strace, forks, the save path; imports no torch. strace can strike a process at its n-th call
of a kind, counted for each process from its birth. So one strace watches one driver, the driver
forks a child for each n, and the child makes as many calls that fail (`_IDLE`) as bring the strike
to the n-th call of the save. Hundreds of strikes cost seconds.

Run as a program it is the driver: `KIND PAD COUNT STRIDE FOLDER`, with strace around it.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from yantai.base.errors import StorageError, UsageError
from yantai.base.files import TEMPORARY, write_atomic
from yantai.training.store import TENSORS, Store

DRIVER = "yantai.life.selftest_saves"
_MISSING = Path("/no-such-folder/x")


def _fails(call: Callable[[], Any]) -> Callable[[], None]:
    def idle() -> None:
        with contextlib.suppress(OSError):
            call()

    return idle


# system calls of the save path, and a way to make each that changes nothing
_IDLE: dict[str, Callable[[], None]] = {
    "openat": _fails(lambda: os.open(_MISSING, os.O_RDONLY)),
    "write": _fails(lambda: os.write(9999, b"")),
    "fsync": _fails(lambda: os.fsync(9999)),
    "close": _fails(lambda: os.close(9999)),
    "rename": _fails(lambda: _MISSING.rename(_MISSING)),
    "renameat": _fails(lambda: _MISSING.rename(_MISSING)),
    "renameat2": _fails(lambda: _MISSING.rename(_MISSING)),
    "mkdir": _fails(lambda: _MISSING.mkdir()),
    "mkdirat": _fails(lambda: _MISSING.mkdir()),
    "unlink": _fails(lambda: _MISSING.unlink()),
    "unlinkat": _fails(lambda: os.unlink("x", dir_fd=9999)),
    "rmdir": _fails(lambda: _MISSING.rmdir()),
    "ftruncate": _fails(lambda: os.ftruncate(9999, 0)),
}
_TRACE = "trace=" + ",".join(f"?{name}" for name in _IDLE)

REFUSALS = (
    ("write", "ENOSPC"),
    ("write", "EDQUOT"),
    ("write", "EIO"),
    ("fsync", "EIO"),
    ("fsync", "ENOSPC"),
    ("openat", "EACCES"),
    ("openat", "ENOSPC"),
    ("mkdir", "EROFS"),
    ("mkdir", "EACCES"),
    ("rename", "EROFS"),
    ("rename", "EIO"),
    ("unlink", "EIO"),
    ("unlinkat", "EIO"),
    ("rmdir", "EIO"),
)


def has_strace() -> bool:
    """Whether strace can watch a process here.

    Raises:
        UsageError: E207, in CI, where a missing tool must not pass for a passed test.
    """
    path = shutil.which("strace")
    works = path is not None and (
        subprocess.run([path, "-o", os.devnull, "true"], capture_output=True).returncode == 0
    )
    if not works and os.environ.get("CI") == "true":
        raise UsageError("E207", "strace", "is not installed or may not trace", do="install strace")
    return works


# ---------------------------------------------------------------- what is struck


def _arrays(value: int) -> dict[str, np.ndarray]:
    return {"weight.a": np.full((40, 50), value, np.float32), "adam.b": np.full(7, value, np.int64)}


def prepare(folder: Path) -> None:
    """The checkpoint of step 10, and a file, both of the value 1."""
    Store(folder / "checkpoints", "struck", keep=1, say=_quiet).save(10, _arrays(1), {"value": 1})
    write_atomic(folder / "file", "1" * 1000)
    (folder / "done").write_text("1")


def save_all(folder: Path, done: int) -> None:
    """Step 20 in place of step 10 with the value 2, step 20 again with 3, and the file with 3.

    Each is noted in the file `done` once the save has said that it is saved, by a system call that
    is never struck.
    """
    store = Store(folder / "checkpoints", "struck", keep=1, say=_quiet)
    for place, value in enumerate((2, 3), 1):
        store.save(20, _arrays(value), {"value": value})
        os.pwrite(done, str(value).encode(), place)
    write_atomic(folder / "file", "3" * 1000)
    os.pwrite(done, b"f", 3)


def _quiet(line: str) -> None:
    del line


def problem_after(folder: Path) -> str | None:
    """What is not as promised: the last value that was reported saved, or the one after it, whole.

    A save that comes after must succeed and leave nothing but itself.
    """
    done = (folder / "done").read_text()
    reported = max(int(value) for value in done.replace("f", ""))
    store = Store(folder / "checkpoints", "struck", keep=1, say=_quiet)
    newest = store.newest()
    if newest is None:
        return f"no checkpoint is left, {reported} was saved"
    value = newest.state()["value"]
    if value not in (reported, reported + 1):
        return f"the checkpoint has the value {value}, {reported} was saved last"
    raw = (newest.folder / TENSORS).read_bytes()
    if not raw.endswith(np.full(2000, value, np.float32).tobytes()):
        return f"a mixture: the tensors are not those of the value {value}"
    content = (folder / "file").read_text()
    if content not in ("1" * 1000, "3" * 1000) or ("f" in done and content[0] != "3"):
        return "the file is neither the old one nor the new one"
    store.save(30, _arrays(4), {"value": 4})
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    if left != ["step-000030"]:
        return f"the next save leaves {left}"
    return None


# ---------------------------------------------------------------- the driver


def _struck_child(folder: Path, done: int, kind: str, idle: int) -> None:
    """Idle calls, then the save; the exit status says how it ended."""
    for _ in range(idle):
        _IDLE[kind]()
    try:
        save_all(folder, done)
    except StorageError as error:
        os._exit(5 if os.environ.get("YANTAI_ERRNO", "") in str(error) else 6)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _strike(kind: str, idle: int, template: Path, place: Path, killing: bool) -> str | None:
    """Fork a child that is struck, wait for it, and return what is wrong behind it."""
    shutil.copytree(template, place)
    done = os.open(place / "done", os.O_WRONLY)
    child = os.fork()
    if child == 0:
        _struck_child(place, done, kind, idle)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(done)
    if status != -9 if killing else status not in (0, 5):
        meaning = {1: "another exception than StorageError", 6: "the errno is not named"}
        return meaning.get(status, f"exit status {status}")
    left = [path.name for path in place.rglob(f"{TEMPORARY}*")]
    if status == 5 and left and kind in ("write", "fsync", "openat", "mkdir"):
        return f"left behind: {left}"
    problem = problem_after(place)
    shutil.rmtree(place)
    return problem


def _drive(kind: str, pad: int, count: int, stride: int, folder: Path) -> None:
    """One process for each strike, so that no count but that of the struck child grows."""
    killing = "YANTAI_ERRNO" not in os.environ
    template = folder / "template"
    report = os.open(folder / "report", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(1, count + 1, stride):
        middle = os.fork()
        if middle == 0:
            try:
                place = folder / f"{kind}-{number}"
                problem = _strike(kind, pad - number, template, place, killing)
            except BaseException as error:
                problem = f"{type(error).__name__}: {error}"
            os.write(report, (json.dumps([number, problem]) + "\n").encode())
            os._exit(0)
        os.waitpid(middle, 0)


# ---------------------------------------------------------------- strace around it


def _strace(options: list[str], arguments: list[str], **environment: str) -> None:
    command = ["strace", "-f", *options, sys.executable, "-m", DRIVER, *arguments]
    kept = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def trace_of_a_save(folder: Path) -> list[str]:
    """The system calls of one `save_all`, in order, descriptors with their paths (strace -y)."""
    prepare(folder / "traced")
    prefix = folder / "strace"
    _strace(["-ff", "-y", "-e", _TRACE, "-o", str(prefix)], ["once", str(folder / "traced")])
    logs = sorted(folder.glob("strace.*"), key=lambda path: int(path.suffix[1:]))
    return logs[-1].read_text().splitlines()


def count_calls(lines: list[str]) -> Counter:
    """How often each system call occurs."""
    names = (re.match(r"(\w+)\(", line) for line in lines)
    return Counter(match[1] for match in names if match)


def _all_strikes(
    folder: Path, kind: str, count: int, stride: int, inject: str, errno: str | None
) -> list[tuple[int, str | None]]:
    """Strike at the first to the last call of a kind; (number, problem) of each."""
    folder.mkdir()
    prepare(folder / "template")
    # above what the driver and the judge of each strike do themselves
    pad = 1500 if kind in ("openat", "close") else 300
    rule = f"inject={kind}:{inject}:when={pad}"
    environment = {} if errno is None else {"YANTAI_ERRNO": errno}
    arguments = [kind, str(pad), str(count), str(stride), str(folder)]
    options = ["-e", f"trace={kind}", "-e", rule, "-o", os.devnull]
    if errno is not None:
        options.append("--seccomp-bpf")  # quicker, but no signal is sent with it
    _strace(options, arguments, **environment)
    return [tuple(json.loads(line)) for line in (folder / "report").read_text().splitlines()]


def kill_saves(folder: Path, *, stride: int = 1) -> dict[str, Any]:
    """F02: SIGKILL at every system call of two saves and an atomic write.

    Returns:
        Figures, and `failures`.
    """
    return _strike_all(folder, stride, [(name, None) for name in _IDLE], "saves")


def refuse_saves(folder: Path, *, stride: int = 1) -> dict[str, Any]:
    """F06, F07: an error of the disk at every system call, each call and error of `REFUSALS`.

    Returns:
        Figures, and `failures`.
    """
    return _strike_all(folder, stride, list(REFUSALS), "storage")


def _strike_all(
    folder: Path, stride: int, kinds: list[tuple[str, str | None]], part: str
) -> dict[str, Any]:
    if not has_strace():
        return {f"{part}_skipped": "strace is not installed", "failures": []}
    calls = count_calls(trace_of_a_save(folder))
    failures, strikes = [], 0
    for kind, errno in kinds:
        if not calls[kind]:
            continue
        how = "signal=SIGKILL" if errno is None else f"error={errno}"
        place = folder / f"{kind}-{errno}"
        found = _all_strikes(place, kind, calls[kind], stride, how, errno)
        expected = len(range(1, calls[kind] + 1, stride))
        assert len(found) == expected, f"{len(found)} strikes of {expected} were reported"
        strikes += len(found)
        for number, problem in found:
            if problem is not None:
                what = f"{how} at {kind} number {number}: {problem}"
                repeat = f"yantai selftest --only {part}"
                failures.append({"what": what, "repeat": repeat})
    name = "killed_calls" if part == "saves" else "refused_calls"
    return {name: strikes, "failures": failures}


def _main(arguments: list[str]) -> None:
    if arguments[0] == "once":
        folder = Path(arguments[1])
        done = os.open(folder / "done", os.O_WRONLY)
        if os.fork() == 0:
            save_all(folder, done)
            os._exit(0)
        os.wait()
        return
    kind, pad, count, stride, folder = arguments
    _drive(kind, int(pad), int(count), int(stride), Path(folder))


if __name__ == "__main__":
    _main(sys.argv[1:])
