"""Files that survive a crash: atomic writes, hashes, locks, folders that appear whole.

Knows: bytes, paths, errno. Knows nothing of what the bytes mean; imports no torch, so that the
path that saves a checkpoint can be killed hundreds of times in a few seconds of test.

The order of a safe write, which the tests check against a log of system calls:

1. write to a temporary name in the same folder,
2. fsync the file,
3. rename it over the final name,
4. fsync the folder.

A folder that appears whole goes the same way: every file and folder in it is fsynced before the
rename, and a rename that could not be made durable is taken back.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO

from yantai.base.abandoned import TEMPORARY, held, lock, remove
from yantai.base.errors import StorageError, UsageError, YantaiError, error_of

OWN_SUFFIXES = {".json", ".safetensors", ".bin", ".list", ".jinja"}
OWN_MARKS = {"config.json", "tokenizer.json", "manifest.json", "adapter_config.json"}
"""Files that a folder has at least one of which Yantai, or `transformers`, wrote."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def storage_error(
    error: OSError, path: Path, needed: int | None = None, *, written: int | None = None
) -> StorageError:
    """Turn an `OSError` of a write into the line that names the mount, the need and the room.

    Args:
        error: what the system said.
        path: what was written.
        needed: bytes of all of it, where that is known.
        written: bytes that had found room, where it is not.
    """
    name = errno.errorcode.get(error.errno or 0, "unknown")
    if error.errno is None and "requested and" in str(error):  # numpy's word for a full disk
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        name = "ENOSPC"
    if error.errno in _NO_SPACE:
        mount = _mount_of(path)
        return StorageError(
            "E502", path, f"no space ({name})", expected=_need(needed, written),
            got=f"{shutil.disk_usage(mount).free:,} bytes free on {mount}",
            do="free some space or choose another --out",
        )  # fmt: skip
    return StorageError("E501", path, f"could not be written ({name}: {error.strerror})")


def _need(needed: int | None, written: int | None) -> str | None:
    if needed is not None:
        return f"{needed:,} bytes"
    return f"more than {written:,} bytes" if written else None


def _mount_of(path: Path) -> Path:
    """The mount point that a path, which may not exist yet, lies on."""
    place = path.absolute()
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return place


def os_error_in(error: BaseException) -> OSError | None:
    """The `OSError` that an exception is, or that a library in Rust hid in its message."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"os error (\d+)", str(error)) if isinstance(error, Exception) else None
    if found is None:
        return None
    number = int(found[1])
    return OSError(number, os.strerror(number))


def make_folder(folder: Path) -> None:
    """Make a folder and what is missing above it, each name durable in its parent.

    Raises:
        StorageError: the disk refused.
    """
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)
    except OSError as error:
        raise storage_error(error, folder) from error


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable (POSIX: a rename lives in its folder)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(
    path: Path, content: bytes | str | Callable[[BinaryIO], None], size: int | None = None
) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    Args:
        path: the final name; its folder must exist.
        content: bytes, text (stored as UTF-8), or a function that writes to the open file.
        size: bytes that a function writes, if that is known.

    Raises:
        StorageError: the disk refused; the old file stands and the temporary one is gone.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    content = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            lock(file.fileno())
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except BaseException as error:
        written = _size_of(temporary)
        remove(temporary)
        if isinstance(error, OSError):
            size = size if callable(content) else len(content)
            raise storage_error(error, path, size, written=written) from error
        raise


def _size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder; 0 of nothing."""
    with contextlib.suppress(OSError):
        paths = path.rglob("*") if path.is_dir() else (path,)
        return sum(each.stat().st_size for each in paths if each.is_file())
    return 0


@contextlib.contextmanager
def new_file(final: Path) -> Generator[Path]:
    """Write a file under a temporary name, look at it, and only then give it its real one.

    Raises:
        StorageError: the disk refused; what stood there stands.
    """
    folder = final.with_name(f"{TEMPORARY}{os.getpid()}-{final.name}")
    temporary = folder / final.name
    try:
        remove(folder)
        folder.mkdir()
        with held(folder):
            yield temporary
            temporary.replace(final)
            fsync_folder(final.parent)
    except OSError as error:
        raise storage_error(error, final) from error
    except StorageError as error:
        raise _named(error, temporary, final) from error
    finally:
        remove(folder)


def _named(error: StorageError, temporary: Path, final: Path) -> YantaiError:
    """The same of the name that a person knows."""
    return error_of(error.table() | {"where": error.where.replace(str(temporary), str(final))})


def refuse_itself(out: Path, source: Path) -> None:
    """What is made of a model does not take its place.

    Raises:
        UsageError: it would.
    """
    if out.resolve() == source.resolve():
        raise UsageError("E204", out, "is the model itself", do="choose another name")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, as `json_text` gives it."""
    write_atomic(path, json_text(value))


def json_text(value: Any) -> str:
    """JSON as Yantai writes it: sorted keys, two spaces a level, one final newline."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file that Yantai wrote.

    Raises:
        StorageError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StorageError("E503", path, "the file is missing") from error
    except (OSError, ValueError) as error:
        raise StorageError("E503", path, f"could not be read ({error})") from error


def check_replaceable(final: Path) -> None:
    """Refuse to put a new folder in the place of what Yantai has not written.

    Raises:
        UsageError: E204, there is a file of that name, or a folder with other files.
    """
    if not final.exists():
        return
    if not final.is_dir():
        raise UsageError("E204", final, "is a file", do="choose another name")
    held = [path for path in final.iterdir() if not path.name.startswith(TEMPORARY)]
    odd = [path.name for path in held if path.is_dir() or path.suffix not in OWN_SUFFIXES]
    if odd or (held and not any(path.name in OWN_MARKS for path in held)):
        raise UsageError(
            "E204", final, "holds other things", expected="no folder, or one that may be replaced",
            got=sorted(odd or [path.name for path in held])[0], do="choose another name",
        )  # fmt: skip


@contextlib.contextmanager
def new_folder(final: Path) -> Generator[Path]:
    """Fill a folder under a temporary name; it gets its real name only when complete.

    An existing folder of that name is replaced in one exchange (where a user named it,
    `check_replaceable` is asked first). After a crash at any point either
    the old folder or the new one stands, or `recover_folder` puts the old one back.

    Raises:
        StorageError: the disk refused; nothing under the final name has changed.
    """
    temporary = final.with_name(f"{TEMPORARY}{os.getpid()}-{final.name}")
    old = _old_name(final)
    placed = False
    try:
        remove(temporary)
        make_folder(final.parent)
        temporary.mkdir()
        with held(temporary):
            yield temporary
            _fsync_all(temporary)
            if final.exists():
                shutil.rmtree(old, ignore_errors=True)
                final.rename(old)
            temporary.rename(final)
        placed = True
        fsync_folder(final.parent)
        placed = False
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        if placed:  # a name that may be gone after a power cut was never given
            with contextlib.suppress(OSError):
                final.rename(temporary)
        written = _size_of(temporary)
        remove(temporary)
        with contextlib.suppress(OSError):
            recover_folder(final)
        refusal = os_error_in(error)
        if refusal is not None and not isinstance(error, YantaiError):
            raise storage_error(refusal, final, written=written) from error
        if isinstance(error, StorageError):
            raise _named(error, temporary, final) from error
        raise


def _fsync_all(folder: Path) -> None:
    """Every file and folder below, then the folder: no writer has to remember it."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            fsync_folder(path)
        else:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    fsync_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder: its name goes at once, so that no half of it is ever found.

    A disk that refuses is left as it is; `remove_temporaries` mends what a crash interrupts.
    """
    gone = folder.with_name(f"{TEMPORARY}{os.getpid()}-gone-{folder.name}")
    with contextlib.suppress(OSError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _old_name(final: Path) -> Path:
    return final.with_name(f"{TEMPORARY}old-{final.name}")


def recover_folder(final: Path) -> None:
    """Put back the previous folder if a crash fell between the two renames of an exchange."""
    old = _old_name(final)
    if not old.exists():
        return
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.rename(final)


def remove_temporaries(folder: Path) -> None:
    """Remove what crashed writers left behind; call it only while holding the folder's lock.

    Raises:
        StorageError: the disk refused.
    """
    if not folder.is_dir():
        return
    try:
        for path in sorted(folder.glob(f"{TEMPORARY}*")):
            if path.name.startswith(f"{TEMPORARY}old-"):
                recover_folder(path.with_name(path.name.removeprefix(f"{TEMPORARY}old-")))
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, folder) from error


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """The SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class FolderLock:
    """One writer a folder. The kernel drops the lock with the process, so none is ever stale.

    Raises:
        UsageError: another process holds it; the message names its pid and host.
        StorageError: the folder cannot be written to.
    """

    def __init__(self, folder: Path):
        self.path = folder / ".lock"
        self._descriptor: int | None = None

    def __enter__(self) -> "FolderLock":
        make_folder(self.path.parent)
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            self._take(self._descriptor)
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError):
                raise storage_error(error, self.path) from error
            raise
        return self

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 400, 0).decode(errors="replace").split("\n")[0]
            raise UsageError(
                "E204",
                self.path.parent,
                f"the folder is in use by {holder or 'another process'}",
                do="wait for it, stop it, or choose another --out",
            ) from error
        name = f"pid {os.getpid()} on {socket.gethostname()}\n".encode()
        os.pwrite(descriptor, name, 0)
        os.ftruncate(descriptor, len(name))

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
