"""One line on the screen a step, and the same facts as one row of a file.

Knows: rows of numbers, a terminal. Knows nothing of training. The screen goes to standard error,
so that standard output carries results alone. A screen that is gone (a closed terminal, a broken
pipe) silences the lines and stops nothing.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from yantai.base.errors import plain
from yantai.base.files import storage_error, write_atomic

CLOCK_COLUMNS = ("seconds", "tokens_per_second", "share_of_peak", "eta_seconds", "memory_mb")


def say(message: str) -> None:
    """Print a line for a person, on standard error; safe inside a signal handler.

    What would steer a terminal, as in a name from a file, is spelled out.
    """
    _show(sys.stderr, plain(message) + "\n")


def _show(stream: Any, text: str) -> None:
    """Write to a stream that may be gone, or in the middle of another write."""
    try:
        stream.write(text)
        stream.flush()
    except RuntimeError:  # a signal came while the stream was writing: go around its buffer
        with contextlib.suppress(OSError):
            os.write(2, text.encode(errors="replace"))
    except (OSError, ValueError):  # the terminal or the pipe is gone
        if stream is sys.stderr:
            # what stays in the old one's buffer would turn the exit status into 120
            sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115


class MetricsFile:
    """`metrics.jsonl`: one row a step, appended, cut back to the saved step on resume.

    Columns that a clock decides (`CLOCK_COLUMNS`) stay outside the run's hash. Rows that a full
    disk refused are kept in memory and written with a later one.
    """

    def __init__(self, path: Path):
        self.path = path
        self._waiting: list[bytes] = []

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; a kill in the middle of the write is mended by `cut_after`.

        Raises:
            StorageError: the disk refused; the file is as before and the row waits.
        """
        self._waiting.append(_line(row))
        self._write_waiting(durable=False)

    def sync(self) -> None:
        """Make the rows so far durable; before a checkpoint, so that it is never ahead of them.

        Raises:
            StorageError: the disk refused; the file is as before and new rows wait.
        """
        self._write_waiting(durable=True)

    def _write_waiting(self, *, durable: bool) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(self._waiting))
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)
            raise storage_error(error, self.path, sum(map(len, self._waiting))) from error
        self._waiting.clear()

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows, in order."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_bytes().split(b"\n"):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                break
            rows.append(row)
        return rows

    def cut_after(self, step: int) -> None:
        """Drop every row later than `step`: they will be written again, the same.

        Raises:
            StorageError: the disk refused; the file is as before.
        """
        self._waiting = [line for line in self._waiting if json.loads(line)["step"] <= step]
        kept = [row for row in self.rows() if row["step"] <= step]
        write_atomic(self.path, b"".join(_line(row) for row in kept))


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


class ProgressLine:
    """A line that rewrites itself on a terminal, and a plain line now and then elsewhere."""

    def __init__(self, every_seconds: float = 10.0, stream: Any = None, clock=time.monotonic):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.every_seconds = 0.1 if self.live else every_seconds
        self.clock = clock
        self.last = -1e9

    def show(self, text: str, *, final: bool = False) -> None:
        """Show `text` unless the last one is too recent; `final` always shows and ends the line."""
        now = self.clock()
        if not final and now - self.last < self.every_seconds:
            return
        self.last = now
        if self.live:
            _show(self.stream, "\r\x1b[2K" + text + ("\n" if final else ""))
        else:
            _show(self.stream, text + "\n")


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "document"), counted(2000, "row")
    ('1 document', '2,000 rows')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(5), duration(125), duration(7300)
    ('5 s', '2 min 05 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
