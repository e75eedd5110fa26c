"""F04 signals, F05 a stopped process, and screens that are gone."""

import io
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

import yantai.base.log as log
from yantai.base.errors import Interrupted, StorageError
from yantai.life.selftest_runs import recipe
from yantai.training.signals import SIGNALS

from .tiny import hashes, tiny_run


def raise_at(run, step, *numbers):
    batches = run.loader.batches

    def raising(asked):
        if asked == step:
            for number in numbers:
                signal.raise_signal(number)
        return batches(asked)

    run.loader.batches = raising
    return run


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, number):
    before = [signal.getsignal(each) for each in SIGNALS]
    whole = tiny_run(tmp_path / "whole")
    whole.train()
    run = raise_at(tiny_run(tmp_path / "run"), 5, number)
    with pytest.raises(Interrupted) as caught:
        run.train()
    assert caught.value.exit_status == 7
    assert number.name in str(caught.value)
    assert "--resume" in str(caught.value)
    assert run.store.newest().step == run.progress.step == 6
    assert [signal.getsignal(each) for each in SIGNALS] == before
    again = tiny_run(tmp_path / "run")
    again.resume(())
    again.train()
    assert hashes(again) == hashes(whole)


def test_a_closed_terminal_sends_sighup_twice_and_the_state_is_saved(tmp_path):
    run = raise_at(tiny_run(tmp_path), 5, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGHUP"):
        run.train()
    assert run.store.newest().step == 6


def test_a_second_ctrl_c_ends_at_once_inside_the_step(tmp_path):
    run = raise_at(tiny_run(tmp_path), 5, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert run.progress.step == 5
    assert run.store.newest().step == 4


def test_a_second_ctrl_c_inside_the_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    run = raise_at(tiny_run(tmp_path), 5, signal.SIGINT)
    write, fsync = run.store.save, os.fsync

    def impatient(step, tensors, state):
        if step != 6:
            return write(step, tensors, state)
        calls = []

        def ctrl_c(descriptor):
            calls.append(descriptor)
            if len(calls) == 3:
                signal.raise_signal(signal.SIGINT)
            return fsync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", ctrl_c)
            return write(step, tensors, state)

    run.store.save = impatient
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert run.store.newest().step == 4
    assert sorted(path.name for path in run.store.folder.iterdir()) == ["step-000004"]


def test_what_nohup_ignores_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = raise_at(tiny_run(tmp_path), 5, signal.SIGHUP)
        assert run.train().steps == 12
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_on_a_full_disk_is_a_storage_error(tmp_path):
    run = raise_at(tiny_run(tmp_path, save_every=100), 5, signal.SIGTERM)

    def full(*arguments):
        raise StorageError("E502", "here", "no space (ENOSPC)")

    run.store.save = full
    with pytest.raises(StorageError, match="ENOSPC"):
        run.train()


def test_a_signal_inside_a_write_to_the_screen_does_not_raise(monkeypatch, capfd):
    """Python refuses a second write to a buffered stream while it is inside the first."""

    class Interrupting(io.RawIOBase):
        def writable(self):
            return True

        def write(self, content):
            if not self.raised:
                self.raised = True
                signal.raise_signal(signal.SIGUSR1)
            return len(content)

    raw = Interrupting()
    raw.raised = False
    screen = io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True)
    monkeypatch.setattr(sys, "stderr", screen)
    before = signal.signal(signal.SIGUSR1, lambda *_: log.say("from the handler"))
    try:
        log.say("first")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert raw.raised
    assert "from the handler" in capfd.readouterr().err


def test_a_screen_that_is_gone_silences_the_lines_and_keeps_the_exit_status():
    """After SIGHUP the terminal refuses every write; the run must still save and exit with 7."""
    program = (
        "import os, sys\n"
        "from yantai.base.log import ProgressLine, say\n"
        "line = ProgressLine(0.0)\n"
        "sys.stdin.readline()\n"
        "for n in range(3):\n"
        "    say('a line')\n"
        "    line.show('another')\n"
        "os.write(1, b'saved')\n"
        "sys.exit(7)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        process.stderr.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stdout.read() == b"saved"
    assert process.returncode == 7


@pytest.mark.slow
def test_a_stopped_process_goes_on_and_a_terminated_one_exits_with_7(forks, documents, tmp_path):
    settings = recipe(documents, tmp_path / "run", steps=100_000, valid_every=1000)
    signals = [[0.3, signal.SIGSTOP], [1.3, signal.SIGCONT], [1.7, signal.SIGTERM]]
    began = time.monotonic()
    answer = forks.run(settings, tmp_path / "log", signals=signals, from_first_step=True)
    text = (tmp_path / "log").read_text()
    assert answer["status"] == 7, text
    assert time.monotonic() - began < 30
    assert "SIGTERM: finishing the step and saving" in text
    rows = log.MetricsFile(tmp_path / "run" / "metrics.jsonl").rows()
    steps = [row["step"] for row in rows]
    assert steps == list(range(1, len(steps) + 1))
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert max(b - a for a, b in itertools.pairwise(seconds)) > 0.8
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert saved[-1].name == f"step-{steps[-1]:06d}"
