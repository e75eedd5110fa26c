"""What killed writers left goes, what others are writing stays."""

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from yantai.base import abandoned
from yantai.base.abandoned import TEMPORARY, remove_abandoned
from yantai.base.files import new_file, new_folder, write_atomic

DEAD = 999_999_999
"""No process has so high a number."""
WRITER = """
import sys, time
from pathlib import Path
from yantai.base.files import new_file, new_folder, write_atomic
out = Path(sys.argv[1])
def stay(file):
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    time.sleep(60)
with new_folder(out / "model") as folder, new_file(out / "m.gguf") as path:
    (folder / "a").write_text("half")
    write_atomic(path, stay)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_writer_left_goes_and_not_before(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        left = [f"{TEMPORARY}{writer.pid}-{name}" for name in ("m.gguf", "model")]
        assert names(tmp_path) == left
        remove_abandoned(tmp_path)
        assert names(tmp_path) == left
        writer.send_signal(signal.SIGKILL)
    remove_abandoned(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["old-model", f"{DEAD}", f"{DEAD}x-model", "0-model", "-1-model"])
def test_other_names_stay(tmp_path, name):
    (tmp_path / f"{TEMPORARY}{name}").mkdir()
    (tmp_path / f"{DEAD}-model").mkdir()
    remove_abandoned(tmp_path)
    assert names(tmp_path) == sorted([f"{TEMPORARY}{name}", f"{DEAD}-model"])
    remove_abandoned(tmp_path / "missing")


def test_what_somebody_holds_whose_number_is_unknown_here_stays(tmp_path):
    for write in (new_folder, new_file):
        with write(tmp_path / "model") as temporary:
            if write is new_file:
                temporary.write_text("x")
            own, other = (tmp_path / f"{TEMPORARY}{pid}-model" for pid in (os.getpid(), DEAD))
            own.rename(other)  # as one of another container
            remove_abandoned(tmp_path)
            assert names(tmp_path) == [other.name]
            other.rename(own)
        remove_abandoned(tmp_path)
        assert names(tmp_path) == ["model"]
        (tmp_path / "model").rename(tmp_path / "x" if write is new_file else tmp_path.parent / "y")

    def look(file):
        with pytest.raises(BlockingIOError), (tmp_path / names(tmp_path)[0]).open("rb") as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(b"x")

    write_atomic(tmp_path / "x", look)


def test_what_is_another_users_or_cannot_be_told_stays(tmp_path, monkeypatch):
    left = tmp_path / f"{TEMPORARY}{DEAD}-model"
    left.write_text("half")
    (tmp_path / f"{TEMPORARY}{DEAD}-link").symlink_to(tmp_path)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    remove_abandoned(tmp_path)
    assert left.exists()
    monkeypatch.undo()

    def refuse(*arguments):
        raise OSError(95, "no locks here")

    monkeypatch.setattr(abandoned.fcntl, "flock", refuse)
    remove_abandoned(tmp_path)
    assert left.exists()
    write_atomic(tmp_path / "file", "written all the same")
    monkeypatch.undo()
    remove_abandoned(tmp_path)
    assert names(tmp_path) == [f"{TEMPORARY}{DEAD}-link", "file"]
