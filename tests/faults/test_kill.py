"""F01 kill -9 at random moments, F02 kill -9 at every system call of a save."""

import os

import pytest

from yantai.base.errors import UsageError
from yantai.life import selftest_saves
from yantai.life.selftest import Selftest, selftest
from yantai.life.selftest_kills import kill_runs
from yantai.life.selftest_saves import kill_saves


@pytest.mark.slow
def test_twenty_killed_runs_end_with_the_bits_of_the_unbroken_one(tmp_path):
    seed = int(os.environ.get("YANTAI_SEED", "0"))
    figures = kill_runs(tmp_path, kills=20, seed=seed, steps=24)
    assert figures["failures"] == []
    assert figures["kills"] == 20
    assert figures["runs"] >= 5


@pytest.mark.slow
def test_a_kill_at_any_system_call_of_a_save_leaves_old_or_new(memory, strace):
    figures = kill_saves(memory)
    assert figures["failures"] == []
    assert figures["killed_calls"] > 100


@pytest.mark.slow
def test_a_harness_that_sees_nothing_would_be_noticed(tmp_path, memory, strace, monkeypatch):
    """A save that removes the old before it has the new must be caught."""
    broken = (
        "import shutil, sys\n"
        "import yantai.training.store as store\n"
        "import yantai.life.selftest_saves as saves\n"
        "plain = store.Store.save\n"
        "def save(self, step, tensors, state):\n"
        "    shutil.rmtree(self.folder)\n"
        "    return plain(self, step, tensors, state)\n"
        "store.Store.save = save\n"
        "saves._main(sys.argv[1:])\n"
    )
    (tmp_path / "broken_driver.py").write_text(broken)
    monkeypatch.setattr(selftest_saves, "DRIVER", "broken_driver")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(selftest_saves, "_IDLE", {"fsync": None})
    figures = kill_saves(memory)
    assert len(figures["failures"]) > 5
    assert "signal=SIGKILL at fsync number" in figures["failures"][0]["what"]


def test_without_strace_the_part_is_skipped_and_ci_fails(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setenv("CI", "false")
    assert kill_saves(tmp_path) == {"saves_skipped": "strace is not installed", "failures": []}
    monkeypatch.setenv("CI", "true")
    with pytest.raises(UsageError, match="strace"):
        kill_saves(tmp_path)


def test_the_selftest_tells_its_seed_its_figures_and_how_to_repeat_a_failure(monkeypatch):
    failure = {"what": "run 3, 2 kills: bits", "repeat": "yantai selftest --only kills --seed 7"}

    def broken(folder, *, kills, seed, steps):
        assert (kills, seed, steps) == (2, 4, 40)
        return {"kills": 2, "failures": [failure]}

    monkeypatch.setattr("yantai.life.selftest.kill_runs", broken)
    told = []
    result = selftest(Selftest(kills=20, seed=4, quick=True, only="kills"), told.append)
    assert result == {"seed": 4, "passed": False, "failures": [failure], "kills": {"kills": 2}}
    assert told[0] == "seed 4"
    assert told[1].startswith("kills: kills 2 (")
    assert told[2] == f"FAILED: {failure['what']}; repeat it with: {failure['repeat']}"
