"""F09 what is kept and what is deleted, F10 damaged checkpoints."""

import json
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from yantai.base.errors import ModelFileError
from yantai.base.files import write_json
from yantai.life.selftest_damage import damage_checkpoints
from yantai.training.store import MANIFEST, STATE, TENSORS, Store

from .conftest import MEMORY


def arrays(value):
    return {"a": np.full((3, 4), value, np.float32)}


def quiet(line):
    del line


def test_every_flipped_bit_and_every_truncation_is_noticed_and_named(memory):
    figures = damage_checkpoints(memory, flips=100, truncations=40, seed=random.randrange(10**6))
    assert figures["failures"] == []
    assert figures["flipped_bits"] > 300
    assert figures["truncations"] == 40


def test_a_manifest_that_lost_its_last_byte_is_noticed(tmp_path):
    """Its last byte is an end of line: what is left is JSON and says the same."""
    said = []
    store = Store(tmp_path / "c", "mine", say=said.append)
    for step in (10, 20):
        folder = store.save(step, arrays(step), {"step": step})
    path = folder / MANIFEST
    path.write_bytes(path.read_bytes()[:-1])
    assert store.newest().step == 10
    assert any(str(path) in line for line in said)


@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
@pytest.mark.parametrize("how", ["missing", "empty", "a folder", "another run's"])
def test_a_broken_only_checkpoint_stops_with_e408_and_is_not_step_0(tmp_path, name, how):
    """A run that has checkpoints must never begin anew in silence."""
    store = Store(tmp_path / "c", "mine", say=quiet)
    folder = store.save(10, arrays(1.0), {"step": 10})
    path = folder / name
    path.unlink()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "a folder":
        path.mkdir()
    elif how == "another run's":
        other = Store(tmp_path / "d", "other", say=quiet).save(99, arrays(2.0), {"step": 99})
        shutil.copy(other / name, path)
        if name == MANIFEST:  # a whole manifest of another run: its files are not these
            assert store.newest() is None
            return
    with pytest.raises(ModelFileError) as caught:
        store.newest()
    assert caught.value.code == "E408"
    assert str(path) in str(caught.value)


def test_a_manifest_that_was_edited_does_not_hold(tmp_path):
    store = Store(tmp_path, "mine", say=quiet)
    path = store.save(10, arrays(1.0), {}) / MANIFEST
    manifest = json.loads(path.read_bytes())
    manifest["step"] = 99
    write_json(path, manifest)
    with pytest.raises(ModelFileError, match="its hash does not hold"):
        store.newest()


def test_a_damaged_newest_is_told_and_the_one_before_it_taken(tmp_path):
    said = []
    store = Store(tmp_path, "mine", say=said.append)
    store.save(10, arrays(1.0), {"step": 10})
    path = store.save(20, arrays(2.0), {"step": 20}) / TENSORS
    path.write_bytes(path.read_bytes()[:-3] + b"abc")
    assert store.newest().step == 10
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint of step 20 is damaged: {path}:a: its SHA-256")


class Retention(RuleBasedStateMachine):
    """Saves, damage and foreign checkpoints in any order; nothing precious is ever deleted."""

    @initialize(keep=st.integers(1, 3))
    def begin(self, keep):
        self.folder = Path(tempfile.mkdtemp(prefix="yantai-", dir=MEMORY))
        self.keep = keep
        self.store = Store(self.folder, "mine", keep=keep, say=quiet)
        self.foreign = {}
        self.good = {}
        self.count = 0

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    @rule(step=st.integers(1, 40))
    def save(self, step):
        if f"step-{step:06d}" in self.foreign:
            return
        self.count += 1
        self.store.save(step, arrays(float(self.count)), {"value": self.count})
        self.good[step] = self.count
        newest = sorted(self.good, reverse=True)
        for old in newest[self.keep :]:
            del self.good[old]

    @rule(step=st.integers(41, 2000), name=st.sampled_from(["other", "mine2", ""]))
    def plant(self, step, name):
        Store(self.folder, name, keep=100, say=quiet).save(step, arrays(0.0), {"value": -1})
        self.foreign[f"step-{step:06d}"] = True

    @rule()
    def plant_what_is_no_checkpoint(self):
        (self.folder / "notes").mkdir(exist_ok=True)
        (self.folder / "step-x").write_text("mine")

    @precondition(lambda self: getattr(self, "good", None))
    @rule(data=st.data(), name=st.sampled_from([TENSORS, STATE]))
    def damage(self, data, name):
        step = data.draw(st.sampled_from(sorted(self.good)))
        path = self.folder / f"step-{step:06d}" / name
        path.write_bytes(path.read_bytes()[:-1])
        del self.good[step]

    @invariant()
    def what_is_good_is_there(self):
        if not hasattr(self, "folder"):
            return
        for step, value in self.good.items():
            found = next(item for item in self.store.found() if item.step == step)
            assert found.verify() is None
            assert found.state()["value"] == value
        for name in self.foreign:
            assert (self.folder / name / MANIFEST).is_file(), f"{name} is not ours to delete"
        if self.good:
            assert self.store.newest().step == max(self.good)


TestRetention = Retention.TestCase
TestRetention.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)


def test_order_is_by_the_step_in_the_manifest(tmp_path):
    """Names may lie (a copy, a longer number) and times may too."""
    store = Store(tmp_path, "mine", keep=3, say=quiet)
    for step in (5, 1_000_000, 70):
        store.save(step, arrays(step), {"value": step})
    (tmp_path / "step-000005").rename(tmp_path / "step-9999999")
    assert [checkpoint.step for checkpoint in store.found()] == [1_000_000, 70, 5]
    assert store.newest().state() == {"value": 1_000_000}


def test_damaged_checkpoints_do_not_push_good_ones_out(tmp_path):
    store = Store(tmp_path, "mine", keep=2, say=quiet)
    for step in (10, 20):
        store.save(step, arrays(step), {})
    (tmp_path / "step-000020" / STATE).write_text("{}")
    store.save(17, arrays(17), {})  # a run that went back to 10 saves by the minute
    store.save(25, arrays(25), {})
    whole = [item.step for item in store.found() if item.verify() is None]
    assert whole == [25, 17]
