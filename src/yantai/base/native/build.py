"""Parts written in C++: compiled once for this machine, kept in the user's cache, loaded by ctypes.

Knows: where a compiler may be, and that there may be none. Whoever asks gets the library or None,
never an error: whatever a compiled part does, torch does too, more slowly.
"""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from yantai.base.device import cpu_flags
from yantai.base.files import sha256_text
from yantai.base.log import say

SWITCH = "YANTAI_NATIVE"
SHARED = Path(__file__).parent
"""Where headers are that every part may include, beside those next to itself."""
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-w")
SECONDS = 120
NUMBERS = {torch.bfloat16: "uint16_t", torch.float32: "float"}
"""What a number type is called in C++: a bfloat16 is the upper half of a float."""


@functools.cache
def library(source: Path, number: str = "uint16_t") -> ctypes.CDLL | None:
    """A compiled part, or None: switched off (`YANTAI_NATIVE=0`), or it cannot be made here.

    Args:
        source: the C++ text.
        number: what it calls NUMBER, one of `NUMBERS`.
    """
    if os.environ.get(SWITCH, "1") == "0" or platform.system() == "Windows":
        return None
    compiler = find_compiler()
    if compiler is None:
        return None
    try:
        return ctypes.CDLL(str(compiled(source, compiler, cache_folder(), number)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home
        told = str(getattr(error, "stderr", "") or error).strip().splitlines()
        say(f"note: {source.name} could not be compiled, torch does its work: {told[:1]}")
        return None


def find_compiler() -> str | None:
    """The path of `$CXX`, g++ or clang++, the first there is."""
    names = [os.environ.get("CXX"), "g++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def cache_folder() -> Path:
    """Where compiled libraries are kept; made for this user alone.

    Raises:
        OSError: it cannot be made, or somebody else could write into it.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "yantai" / "native"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise OSError(f"{folder} is not this user's alone; chmod 700 it or set {SWITCH}=0")
    return folder


def compiled(source: Path, compiler: str, folder: Path, number: str = "uint16_t") -> Path:
    """The library for this source, number, compiler and processor; made if it is not there yet.

    Raises:
        OSError, subprocess.SubprocessError: the compiler is missing or does not like it.
    """
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True, timeout=SECONDS
    ).stdout
    headers = [*sorted(source.parent.glob("*.h")), *sorted(SHARED.glob("*.h"))]
    texts = [path.read_text(encoding="utf-8") for path in (source, *headers)]
    flags = (*FLAGS, f"-DNUMBER={number}")
    known = "\n".join((*texts, version, *flags, platform.machine(), *sorted(cpu_flags())))
    path = folder / f"{source.stem}-{sha256_text(known)[:16]}.so"
    if path.is_file():
        return path
    say(f"compiling {source.name} for this processor, once")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / path.name
        for threads in (["-fopenmp"], []):  # some compilers come without OpenMP
            command = [compiler, *flags, *threads, f"-I{SHARED}", str(source)]
            done = subprocess.run(
                [*command, "-o", str(made)], capture_output=True, text=True, timeout=SECONDS
            )
            if done.returncode == 0:
                made.replace(path)
                return path
    told = done.stderr or "no message"
    raise subprocess.CalledProcessError(done.returncode, command, stderr=told)
