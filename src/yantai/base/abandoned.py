"""What writers left beside their files and folders when they were killed.

Knows: the names of temporary files, `.tmp-PID-NAME`. A writer holds a lock on what it writes. The
kernel drops that with the process, so that a process of another container, whose number means
nothing here, is seen to live, too.
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Generator
from pathlib import Path

TEMPORARY = ".tmp-"
_NAME = re.compile(rf"{re.escape(TEMPORARY)}([1-9]\d{{0,8}})-.+", re.DOTALL)


@contextlib.contextmanager
def held(path: Path) -> Generator[None]:
    """Lock a folder as long as it is filled, if its file system has locks.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> None:
    """Lock an open file until it is closed, if its file system has locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and folders in a folder whose writers are gone.

    Those of living processes, of other users, and those of which nothing can be told stay. No lock
    of the folder is needed; a disk that refuses is left as it is.
    """
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob(f"{TEMPORARY}*")):
            found = _NAME.fullmatch(path.name)
            if found and not _lives(int(found[1])) and _is_free(path):
                remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with what is in it, as far as the disk lets it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _is_free(path: Path) -> bool:
    """Whether it is this user's, and nobody holds it."""
    try:
        state = path.lstat()
        is_folder = stat.S_ISDIR(state.st_mode)
        if state.st_uid != os.geteuid() or not (is_folder or stat.S_ISREG(state.st_mode)):
            return False
        # a network's file system locks only what is open for writing
        descriptor = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True
