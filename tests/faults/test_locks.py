"""F12: one trainer a folder."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from yantai.base.errors import StorageError, UsageError
from yantai.base.files import FolderLock
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Pretrain

HOLD = (
    "import sys\n"
    "from pathlib import Path\n"
    "from yantai.base.files import FolderLock\n"
    "with FolderLock(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_a_second_trainer_exits_with_2_and_names_the_first(tmp_path, holder):
    settings = Pretrain(data=(tmp_path,), out=tmp_path / "run", threads=1, device="cpu")
    with pytest.raises(UsageError) as caught:
        pretrain(settings)
    assert caught.value.exit_status == 2
    assert caught.value.code == "E204"
    assert f"in use by pid {holder.pid} on {socket.gethostname()}" in str(caught.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_the_lock_of_a_killed_trainer_is_taken_over(tmp_path, holder):
    with pytest.raises(UsageError), FolderLock(tmp_path / "run"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with FolderLock(tmp_path / "run") as lock:
        assert lock.path.read_text() == f"pid {os.getpid()} on {socket.gethostname()}\n"


def test_a_lock_that_ends_can_be_taken_again(tmp_path, holder):
    holder.stdin.close()
    holder.wait()
    for _ in range(2):
        with FolderLock(tmp_path / "run") as lock:
            assert f"pid {os.getpid()} " in lock.path.read_text()


def test_a_shorter_name_leaves_nothing_of_a_longer_one(tmp_path):
    (tmp_path / ".lock").write_text("pid 123456789 on a-host-with-a-very-long-name-indeed\n" * 3)
    with FolderLock(tmp_path) as lock:
        assert re.fullmatch(r"pid \d+ on .+\n", lock.path.read_text())


def test_a_lock_inside_one_process_is_a_lock_too(tmp_path):
    with FolderLock(tmp_path), pytest.raises(UsageError, match=f"pid {os.getpid()} "):
        FolderLock(tmp_path).__enter__()


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="EACCES"), FolderLock(tmp_path):
        pass


def test_a_file_system_without_locks_is_not_somebody_else(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StorageError, match="ENOLCK"), FolderLock(tmp_path):
        pass
