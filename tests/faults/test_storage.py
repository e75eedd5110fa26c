"""F06 a full disk, F07 other refusals, F08 the order of a save, F20 a file that is still mapped."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from yantai.base.errors import StorageError
from yantai.base.files import TEMPORARY, new_folder, write_atomic
from yantai.base.log import MetricsFile
from yantai.life.selftest_kills import starve_run
from yantai.life.selftest_saves import refuse_saves, trace_of_a_save
from yantai.training.store import Store

from .tiny import Killed, hashes, kill_at, tiny_run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def path_of(descriptor):
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def refusing(run, steps, number=errno.ENOSPC):
    """Let the saves of some steps be refused at the first write."""
    save = run.store.save

    def refused(step, tensors, state):
        if step in steps:
            raise StorageError("E502", run.store.folder, f"no space ({errno.errorcode[number]})")
        return save(step, tensors, state)

    run.store.save = refused
    return run


@pytest.mark.slow
def test_every_refused_system_call_is_told_and_leaves_the_old_state(memory, strace):
    figures = refuse_saves(memory)
    assert figures["failures"] == []
    assert figures["refused_calls"] > 120


@pytest.mark.slow
def test_a_run_whose_large_files_are_refused_goes_on_and_can_be_resumed(tmp_path):
    assert starve_run(tmp_path, steps=16) == {"starved_runs": 1, "failures": []}


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (errno.ENOSPC, "E502", r"no space \(ENOSPC\); expected 4,000 bytes, got [\d,]+ bytes free"),
        (errno.EDQUOT, "E502", r"no space \(EDQUOT\); expected 4,000 bytes"),
        (errno.EFBIG, "E502", r"no space \(EFBIG\); expected 4,000 bytes"),
        (errno.EIO, "E501", r"could not be written \(EIO: Input/output error\)"),
        (errno.EROFS, "E501", r"\(EROFS: Read-only file system\)"),
        (errno.EACCES, "E501", r"\(EACCES: Permission denied\)"),
    ],
)
def test_a_refusal_names_the_errno_the_need_and_the_room(tmp_path, monkeypatch, number, code, text):
    store = Store(tmp_path, "mine", say=lambda line: None)
    store.save(1, {"a": np.ones(3, np.float32)}, {})

    def refuse(file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("yantai.training.store._Summing.write", lambda self, content: refuse(self))
    with pytest.raises(StorageError, match=text) as caught:
        store.save(2, {"a": np.ones(1000, np.float32)}, {})
    assert caught.value.code == code
    assert "step-000002" in caught.value.where
    assert store.newest().step == 1
    assert names(tmp_path) == ["step-000001"]
    if code == "E502":
        mount = re.search(r"free on (\S+);", str(caught.value))[1]
        assert os.path.ismount(mount)


def test_training_goes_on_and_tries_again(tmp_path, capsys):
    whole = tiny_run(tmp_path / "whole")
    whole.train()
    run = refusing(tiny_run(tmp_path / "run"), {4, 8})
    assert run.train().steps == 12
    said = capsys.readouterr().err
    assert said.count("error[E502]") == 2
    assert said.count("training goes on, the older state stands") == 2
    assert [item.step for item in run.store.found()] == [12]
    assert hashes(run) == hashes(whole)


def test_a_kill_after_a_refusal_finds_the_older_state(tmp_path):
    whole = tiny_run(tmp_path / "whole")
    whole.train()
    with pytest.raises(Killed):
        kill_at(refusing(tiny_run(tmp_path / "run"), {8}), 9).train()
    again = tiny_run(tmp_path / "run")
    again.resume(())
    assert again.progress.step == 4
    again.train()
    assert hashes(again) == hashes(whole)


def test_a_run_that_could_not_save_its_end_exits_with_5(tmp_path):
    run = refusing(tiny_run(tmp_path), {12})
    with pytest.raises(StorageError, match="ENOSPC") as caught:
        run.train()
    assert caught.value.exit_status == 5
    assert run.store.newest().step == 8


def test_a_best_model_that_was_refused_is_not_believed_to_be_there(tmp_path):
    """Otherwise RUN/model would be missing or old, and the run would end with 0."""
    run = tiny_run(tmp_path, valid_every=6)
    export = run.export
    calls = []

    def refused(name):
        calls.append((name, run.progress.step))
        if len(calls) == 1:
            raise StorageError("E502", tmp_path, "no space (ENOSPC)")
        export(name)

    run.export = refused
    run.validate()
    assert run.progress.best_step is None
    run.progress.best_loss = None
    run.train()
    assert run.progress.best_step is not None
    assert (tmp_path / "model" / "weights.json").is_file()


def test_a_run_without_any_export_leaves_its_last_weights_as_the_model(tmp_path):
    run = tiny_run(tmp_path, valid_every=12)
    export = run.export
    refusals = iter([True])

    def refused(name):
        if next(refusals, False):
            raise StorageError("E502", tmp_path, "no space (ENOSPC)")
        export(name)

    run.export = refused
    run.train()
    assert (tmp_path / "model" / "weights.json").is_file()


def test_a_library_that_hides_the_errno_is_understood(tmp_path, monkeypatch):
    """safetensors raises its own exception, with the number in the text."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # Python's own choice
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with (
            pytest.raises(StorageError, match="EFBIG"),
            new_folder(tmp_path / "model") as folder,
        ):
            save_file({"a": torch.zeros(1000)}, folder / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_rows_of_the_log_wait_for_room(tmp_path, monkeypatch):
    """A torn row would cut off all that come after it when the run is resumed."""
    import resource

    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(1, 4):
        metrics.append({"step": step, "loss": 1.5})
    size = metrics.path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        for step in (4, 5):
            with pytest.raises(StorageError, match="EFBIG"):
                metrics.append({"step": step, "loss": 1.5})
            assert metrics.path.stat().st_size == size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    metrics.append({"step": 6, "loss": 1.5})
    assert [row["step"] for row in metrics.rows()] == [1, 2, 3, 4, 5, 6]


def test_a_log_that_cannot_be_written_stops_no_training(tmp_path):
    whole = tiny_run(tmp_path / "whole")
    whole.train()
    run = tiny_run(tmp_path / "run")
    write = run.metrics._write_waiting

    def refused(*, durable):
        if 3 <= run.progress.step <= 6:
            raise StorageError("E502", run.metrics.path, "no space (ENOSPC)")
        write(durable=durable)

    run.metrics._write_waiting = refused
    run.train()
    assert hashes(run) == hashes(whole)
    assert [item.step for item in run.store.found()] == [12, 8]  # no checkpoint without its rows


TMPFS = """
import subprocess, sys
from pathlib import Path
import numpy as np
from yantai.base.errors import StorageError
from yantai.training.store import Store
place = Path(sys.argv[1])
for kilobytes in range(48, 160, 8):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", place], check=True)
    store = Store(place / "c", "mine", say=lambda line: None)
    store.save(10, {"a": np.ones(4000, np.float32)}, {"value": 10})
    try:
        store.save(20, {"a": np.ones(20000, np.float32)}, {"value": 20})
        said = "saved"
    except StorageError as error:
        assert "no space (ENOSPC)" in str(error), error
        assert f"free on {place}" in str(error), error
        said = "refused"
    left = sorted(path.name for path in (place / "c").iterdir())
    print(kilobytes, said, store.newest().step, *left)
    subprocess.run(["umount", place], check=True)
"""


def test_a_disk_that_is_really_full_keeps_the_old_checkpoint(tmp_path):
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here, so no small disk can be mounted")
    place = tmp_path / "disk"
    place.mkdir()
    command = ["unshare", "-Urm", sys.executable, "-c", TMPFS, str(place)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 14
    assert {line[1] for line in lines} == {"refused", "saved"}
    for _, said, step, *left in lines:
        if said == "refused":
            assert (step, left) == ("10", ["step-000010"])
        else:
            assert (step, left) == ("20", ["step-000010", "step-000020"])


def parse(lines):
    """(call, the paths it names or whose descriptor it is given) of each line of strace -y."""
    for line in lines:
        match = re.match(r"(\w+)\((.*)\) += (\d+)", line)
        if match:
            call, given, _ = match.groups()
            shown = re.findall(r'"(/[^"]*)"', given) if call in ("rename", "mkdir") else []
            shown += re.findall(r"^\d+<([^>]*)>", given)
            yield call, shown


def test_a_rename_comes_after_every_fsync_and_before_that_of_its_folder(memory, strace):
    """Power may fail anywhere: what is renamed must be on the disk, and the rename soon after."""
    dirty, renamed, placed = set(), set(), 0
    for call, paths in parse(trace_of_a_save(memory)):
        if call == "write":
            dirty.add(paths[0])
        elif call == "mkdir":
            renamed.add(str(Path(paths[0]).parent))
        elif call == "fsync":
            dirty.discard(paths[0])
            renamed.discard(paths[0])
        elif call == "rename":
            source, target = paths
            if not re.search(rf"{re.escape(TEMPORARY)}(old-|\d+-gone-)", target):
                inside = [path for path in dirty if path.startswith(source)]
                assert not inside, f"{inside} are renamed before they are on the disk"
                late = [folder for folder in renamed if folder.startswith(source)]
                assert not late, f"names in {late} are not on the disk"
                renamed.add(str(Path(target).parent))
            placed += re.search(r"checkpoints/step-\d+$", target) is not None
        elif call in ("unlinkat", "rmdir"):
            assert not [folder for folder in renamed if folder.endswith("checkpoints")], (
                "the old checkpoint goes before the new one's name is on the disk"
            )
    assert placed == 2
    assert not dirty
    assert not renamed


def test_the_log_is_durable_before_the_checkpoint_that_counts_on_it(tmp_path, monkeypatch):
    order = []
    run = tiny_run(tmp_path)
    sync, save = run.metrics.sync, run.store.save
    run.metrics.sync = lambda: (order.append("log"), sync())
    run.store.save = lambda *given: (order.append("checkpoint"), save(*given))
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(path_of(fd)), fsync(fd)))
    run.metrics.append({"step": 0, "loss": 1.0})
    run.save()
    assert order == ["log", "checkpoint"]
    assert synced[0] == str(run.metrics.path)


def test_a_model_that_is_mapped_keeps_its_numbers_when_it_is_replaced(tmp_path):
    final = tmp_path / "model"

    def export(value):
        with new_folder(final) as folder:
            save_file({"a": torch.full((5000,), value)}, folder / "model.safetensors")
            write_atomic(folder / "config.json", str(value))

    export(1.0)
    mapped = np.memmap(final / "model.safetensors", mode="r")
    before = bytes(mapped)
    with safe_open(final / "model.safetensors", framework="pt") as served:
        for value in (2.0, 3.0):
            export(value)
            assert torch.equal(served.get_tensor("a"), torch.full((5000,), 1.0))
        assert bytes(mapped) == before
    with safe_open(final / "model.safetensors", framework="pt") as fresh:
        assert torch.equal(fresh.get_tensor("a"), torch.full((5000,), 3.0))
    assert names(tmp_path) == ["model"]
    write_atomic(final / "config.json", "4")
    with (final / "config.json").open() as reader:
        write_atomic(final / "config.json", "5")
        assert reader.read() == "4"


def test_a_rename_that_cannot_be_made_durable_is_taken_back(tmp_path, monkeypatch):
    """A name that may be gone after a power cut must not be reported, nor replace the old."""
    final = tmp_path / "model"
    with new_folder(final) as folder:
        (folder / "a").write_text("old")
    fsync = os.fsync

    def refuse(descriptor):
        if path_of(descriptor) == str(tmp_path):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="EIO"), new_folder(final) as folder:
        (folder / "a").write_text("new")
    assert (final / "a").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_tidying_that_is_refused_does_not_unsay_a_save(tmp_path, monkeypatch):
    said = []
    store = Store(tmp_path, "mine", keep=1, say=said.append)
    store.save(1, {"a": np.ones(3)}, {})

    def refuse():
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store, "found", refuse)
    store.save(2, {"a": np.ones(3)}, {})
    assert said == ["older checkpoints could not be tidied away (Permission denied)"]
    monkeypatch.undo()
    assert store.newest().step == 2


def test_leftovers_of_a_killed_save_are_cleared_away(tmp_path):
    store = Store(tmp_path, "mine", say=lambda line: None)
    store.save(1, {"a": np.ones(3)}, {})
    shutil.copytree(tmp_path / "step-000001", tmp_path / f"{TEMPORARY}77-step-000002")
    shutil.copytree(tmp_path / "step-000001", tmp_path / f"{TEMPORARY}77-gone-step-000000")
    (tmp_path / f"{TEMPORARY}77-x.json").write_text("{")
    (tmp_path / "step-000001").rename(tmp_path / f"{TEMPORARY}old-step-000001")
    assert store.newest().step == 1
    assert names(tmp_path) == ["step-000001"]
