"""F03 resuming anywhere and often, F05 clocks that jump, F11 values of the step, F13 changes."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import yantai.training.loop as loop
from yantai.base.errors import UsageError
from yantai.data.batch import IGNORED
from yantai.data.examples import Example, ExampleRows
from yantai.data.loader import Loader
from yantai.data.pack import TextRows
from yantai.data.shards import write_shards
from yantai.life.selftest_runs import recipe, remains
from yantai.text.document import Document
from yantai.training.plan import REPLAN_SHARES
from yantai.training.state import check_same_run, gather, load_tensors, to_arrays

from .tiny import Killed, hashes, kill_at, tiny_run


class Letters:
    """A tokenizer as small as can be."""

    bos_id, eos_id, vocab_size, hash = 0, 1, 130, "letters"

    def encode_batch(self, texts):
        return [[2 + ord(letter) for letter in text] for text in texts]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    documents = [
        Document(f"d{n}", "abcdefgh"[: 1 + n % 8] * (1 + n % 3), "made up", n) for n in range(31)
    ]
    return write_shards(documents, Letters(), tmp_path_factory.mktemp("t") / "tokens")


def examples():
    sizes = np.random.default_rng(0).integers(2, 14, 40)
    return [
        Example.of_text(list(range(2, 2 + n)), [False] + [True] * (n - 1), f"e{n}") for n in sizes
    ]


SOURCES = {
    "running text": lambda shards: [TextRows(shards, 16, seed=5)],
    "packed examples": lambda shards: [ExampleRows(examples(), 16, seed=5)],
    "a mixture": lambda shards: [TextRows(shards, 16, seed=5), ExampleRows(examples(), 16)],
}


def fresh(shards, kind, batch=3, accumulate=2):
    sources = SOURCES[kind](shards)
    weights = (0.7, 0.3) if len(sources) == 2 else None
    return Loader(sources, batch, accumulate=accumulate, weights=weights, seed=9)


def ids_of(loader, step):
    return [(batch.names, batch.ids.tolist(), batch.targets.tolist()) for batch in
            loader.batches(step)]  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
def test_a_loader_made_anew_at_any_step_gives_the_same_samples(shards, kind):
    whole = fresh(shards, kind)
    sequence = [ids_of(whole, step) for step in range(30)]
    assert whole.epoch_of(29) > 3  # so epochs 0, 1, 2 and their ends are among the steps
    for step in range(30):
        assert ids_of(fresh(shards, kind), step) == sequence[step]


@given(cuts=st.lists(st.integers(0, 24), max_size=10), kind=st.sampled_from(sorted(SOURCES)))
@settings(max_examples=30, deadline=None)
def test_ten_resumes_read_what_one_run_reads(shards, cuts, kind):
    whole, loader = fresh(shards, kind), fresh(shards, kind)
    for step in range(25):
        for _ in range(cuts.count(step)):
            loader = fresh(shards, kind)
        assert ids_of(loader, step) == ids_of(whole, step)


def test_no_target_crosses_the_border_of_a_document(shards):
    rows = fresh(shards, "running text").sources[0]
    borders = 0
    for index in range(rows.rows_in_epoch(0)):
        row = rows.row(0, index)
        last = np.flatnonzero(row.documents[1:] != row.documents[:-1])
        assert (row.targets[last] == IGNORED).all()
        inside = np.setdiff1d(np.arange(len(row.ids) - 1), last)
        assert (row.targets[inside] == row.ids[inside + 1]).all()
        borders += len(last)
    assert borders > 20


def test_an_epoch_reads_every_row_once(shards):
    loader = fresh(shards, "running text", batch=1, accumulate=1)
    rows = loader.sources[0].rows_in_epoch(0)
    for epoch in range(3):
        places = [loader.place(epoch * rows + number) for number in range(rows)]
        assert sorted(index for _, _, index in places) == list(range(rows))
        assert {each for _, each, _ in places} == {epoch}
    first = [ids_of(loader, step) for step in range(rows)]
    second = [ids_of(loader, rows + step) for step in range(rows)]
    assert first != second


@pytest.mark.parametrize("killed_at", range(1, 12))
def test_a_run_killed_at_any_step_ends_with_the_same_bits(tmp_path, killed_at):
    """3 steps are an epoch, so this is the middle and the end of epochs 0 to 3."""
    whole = tiny_run(tmp_path / "whole")
    whole.train()
    broken = tiny_run(tmp_path / "broken")
    with pytest.raises(Killed):
        kill_at(broken, killed_at).train()
    again = tiny_run(tmp_path / "broken")
    again.resume(())
    assert again.progress.step == killed_at // 4 * 4
    again.train()
    assert again.progress.step == 12
    assert hashes(again) == hashes(whole)


def test_resuming_ten_times_changes_nothing(tmp_path):
    whole = tiny_run(tmp_path / "whole", save_every=1)
    whole.train()
    for attempt in range(1, 11):
        run = tiny_run(tmp_path / "often", save_every=1)
        run.resume(())
        assert run.progress.step == attempt - 1
        with pytest.raises(Killed):
            kill_at(run, attempt).train()
        assert run.progress.step == attempt  # each session trains, none is empty
    run = tiny_run(tmp_path / "often", save_every=1)
    run.resume(())
    run.resume(())
    run.train()
    assert hashes(run) == hashes(whole)


def test_resuming_a_finished_run_gives_its_figures_again(tmp_path):
    first = tiny_run(tmp_path)
    outcome = first.train()
    again = tiny_run(tmp_path)
    again.resume(())
    repeated = again.train()
    assert (repeated.steps, repeated.tokens) == (outcome.steps, outcome.tokens)
    assert repeated.loss == outcome.loss
    assert math.isfinite(repeated.loss)
    assert hashes(again) == hashes(first)


def test_without_a_whole_checkpoint_a_run_begins_at_step_0(tmp_path):
    run = tiny_run(tmp_path)
    with pytest.raises(Killed):
        kill_at(run, 3).train()
    assert len(run.metrics.rows()) == 3
    again = tiny_run(tmp_path)
    again.resume(())
    assert again.progress.step == 0
    assert again.metrics.rows() == []
    again.train()
    whole = tiny_run(tmp_path.with_name("whole"))
    whole.train()
    assert hashes(again) == hashes(whole)


class Clock:
    """A clock that can be set; half a second passes when a step asks for its batches."""

    def __init__(self):
        self.now, self.wall = 1000.0, 1e9

    def monotonic(self):
        return self.now

    perf_counter = monotonic

    def time(self):
        self.wall -= 3600.0
        return self.wall

    def slow_down(self, run):
        batches = run.loader.batches

        def slow(step):
            self.now += 0.5
            return batches(step)

        run.loader.batches = slow
        return run


def test_a_clock_that_jumps_changes_no_step(tmp_path, monkeypatch):
    whole = tiny_run(tmp_path / "whole")
    whole.train()
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    run = tiny_run(tmp_path / "jumps", save_every=None, save_minutes=5.0)
    batches = clock.slow_down(run).loader.batches

    def asleep(step):
        if step in (3, 7):
            clock.now += 86_400.0  # the machine slept for a day
        return batches(step)

    run.loader.batches = asleep
    run.train()
    rows = run.metrics.rows()
    assert [row["step"] for row in rows] == list(range(1, 13))
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert hashes(run)["tensors"] == hashes(whole)["tensors"]
    assert [checkpoint.step for checkpoint in run.store.found()] == [12, 8]


def test_a_budget_of_minutes_goes_on_from_the_time_that_was_spent(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    run = tiny_run(tmp_path)
    run.progress.horizon.steps, run.progress.horizon.seconds = None, 60.0
    with pytest.raises(Killed):
        kill_at(clock.slow_down(run), 30).train()
    saved = run.store.newest().state()
    assert saved["step"] == 28
    decided = saved["horizon"]["decisions"]
    assert decided[0][0] >= 8
    clock.now += 1e6  # a week until someone resumes it
    again = tiny_run(tmp_path)
    again.progress.horizon.steps, again.progress.horizon.seconds = None, 60.0
    again.resume(())
    assert again.progress.horizon.decisions == decided
    assert again.progress.seconds == saved["seconds"]
    outcome = clock.slow_down(again).train()
    assert 57.0 < outcome.seconds < 60.0
    assert outcome.steps == again.progress.horizon.decisions[-1][1]
    assert len(again.progress.horizon.decisions) <= len(REPLAN_SHARES)


def test_what_is_saved_is_the_state_of_the_step(tmp_path):
    run = tiny_run(tmp_path)
    for _ in range(3):
        run.step()
    tensors = gather(run.model, run.optimizer, run.average)
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    run.store.save(3, to_arrays(tensors), run.progress.state())
    for tensor in tensors.values():
        tensor.fill_(math.nan)
    load_tensors(run.store.newest(), tensors)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, kept[name]), name
    parts = ("weight.", "muon.momentum.", "adam.first.", "adam.second.", "average.")
    assert all(any(name.startswith(part) for name in kept) for part in parts)


FINGERPRINT = {
    "settings": {
        "rate": 0.1,
        "batch": 8,
        "seed": 0,
        "dropout": 0.0,
        "threads": 2,
        "save_every": 5,
        "out": "run",
        "device": "cpu",
        "data": ["a.txt"],
    },
    "data": {"data": ["11", "22"]},
    "tokenizer": "aa",
    "world_size": 1,
    "torch": "2.13.0",
    "threads": 2,
    "kernels": "torch",
    "processor": "one",
}


def changed(path, value):
    new = json.loads(json.dumps(FINGERPRINT))
    table = new
    *above, name = path.split(".")
    for key in above:
        table = table[key]
    table[name] = value
    return new


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("settings.rate", 0.2, "settings.rate: 0.1 -> 0.2"),
        ("settings.batch", 4, "settings.batch: 8 -> 4"),
        ("settings.seed", 1, "settings.seed: 0 -> 1"),
        ("settings.dropout", 0.5, "settings.dropout: 0.0 -> 0.5"),
        ("data.data", ["11", "33"], "data.data: ['11', '22'] -> ['11', '33']"),
        ("tokenizer", "bb", "tokenizer: aa -> bb"),
        ("world_size", 2, "world_size: 1 -> 2"),
    ],
)
def test_a_changed_setting_blocks_unless_it_is_allowed(path, value, line):
    new = changed(path, value)
    name = path.rsplit(".", 1)[-1]
    with pytest.raises(UsageError) as caught:
        check_same_run(FINGERPRINT, new, ())
    assert caught.value.code == "E205"
    assert line in str(caught.value)
    assert f"--allow-change {name}" in caught.value.do
    assert check_same_run(FINGERPRINT, new, (name,)) == [f"{line} (allowed)"]


@pytest.mark.parametrize(
    ("path", "value"),
    [("torch", "2.14.0"), ("threads", 8), ("processor", "two"), ("kernels", "elementwise-1")],
)
def test_a_changed_machine_is_told_and_does_not_block(path, value):
    told = check_same_run(FINGERPRINT, changed(path, value), ())
    assert told == [f"{path}: {FINGERPRINT[path]} -> {value} (the last bits may differ)"]


@pytest.mark.parametrize(("path", "value"), [("settings.save_every", 9), ("settings.out", "x")])
def test_what_changes_no_number_may_change(path, value):
    assert check_same_run(FINGERPRINT, changed(path, value), ()) == []


def test_every_difference_is_listed_at_once():
    new = changed("settings.rate", 9.0) | {"tokenizer": "bb", "torch": "3"}
    with pytest.raises(UsageError, match=r"settings\.rate: 0\.1 -> 9\.0; tokenizer: aa -> bb"):
        check_same_run(FINGERPRINT, new, ())


def test_a_setting_that_is_new_or_gone_is_a_difference():
    new = json.loads(json.dumps(FINGERPRINT))
    del new["settings"]["dropout"]
    new["settings"]["softcap"] = 30.0
    with pytest.raises(UsageError) as caught:
        check_same_run(FINGERPRINT, new, ())
    assert "settings.dropout: 0.0 -> None; settings.softcap: None -> 30.0" in str(caught.value)


def test_a_blocked_resume_changes_nothing(tmp_path):
    run = tiny_run(tmp_path)
    run.train()
    before = hashes(run)
    other = tiny_run(tmp_path, weight_decay=0.3)
    with pytest.raises(UsageError, match=r"weight_decay: 0\.1 -> 0\.3"):
        other.resume(())
    kept = tiny_run(tmp_path)
    kept.resume(())
    assert hashes(kept) == before


def test_an_allowed_change_becomes_the_saved_setting(tmp_path, capsys):
    tiny_run(tmp_path).train()
    longer = tiny_run(tmp_path, steps=16)
    longer.resume(("steps",))
    assert "settings.steps: 12 -> 16 (allowed)" in capsys.readouterr().err
    assert longer.train().steps == 16
    tiny_run(tmp_path, steps=16).resume(())  # not asked again


@pytest.mark.slow
def test_a_refused_resume_leaves_the_recipe_and_an_allowed_one_changes_it(
    forks, documents, tmp_path
):
    """What is not given again is taken from recipe.json, so a refused value must not get there."""
    run, log = tmp_path / "run", tmp_path / "log"
    assert forks.run(recipe(documents, run, steps=8), log)["status"] == 0
    before, kept = remains(run), (run / "recipe.json").read_text()
    other = recipe(documents, run, steps=8, weight_decay=0.3, valid_every=5)
    assert forks.run(other, log)["status"] == 2
    said = log.read_text()
    assert "settings.valid_every: 10 -> 5; settings.weight_decay: 0.1 -> 0.3" in said
    assert "--allow-change valid_every --allow-change weight_decay" in said
    assert (run / "recipe.json").read_text() == kept
    assert remains(run) == before
    allowed = recipe(documents, run, steps=12, allow_change=["steps"])
    assert forks.run(allowed, log)["status"] == 0
    saved = json.loads((run / "recipe.json").read_bytes())
    assert saved["settings"]["steps"] == 12
    assert saved["run"] == json.loads(kept)["run"]
    assert not saved["settings"].get("allow_change")  # allowed once, not for ever
