"""F16 numbers that are not finite, F17 a loss that jumps."""

import math
import random

import pytest
import torch

from yantai.base.errors import NumericsError
from yantai.tasks.task import EveryTarget
from yantai.training.state import gather

from .tiny import Killed, Rows, hashes, kill_at, model_config, tiny_run

BAD = (math.nan, math.inf, -math.inf)
POISON = 30  # a step; its rows are 4 a step
POISONED = range(4 * POISON, 4 * POISON + 4)
SPIKY = {"steps": 40, "save_every": 10, "valid_every": 100, "spike_sigmas": 2.0}


def snapshot(run):
    return {
        name: tensor.clone()
        for name, tensor in gather(run.model, run.optimizer, run.average).items()
    }


def plant(run, kind, step, dice):
    """Make a number of the step bad; returns the name and index that must be told."""
    name, parameter = dice.choice(list(run.model.named_parameters()))
    index = tuple(dice.randrange(size) for size in parameter.shape)
    value = dice.choice(BAD)
    shown = f"[{', '.join(map(str, index))}]"
    if kind == "weight":
        with torch.no_grad():
            parameter[index] = value
        return f"weight {name}{shown}"
    if kind == "gradient":

        def spoil(item):
            if run.progress.step == step:
                item.grad[index] = value

        parameter.register_post_accumulate_grad_hook(spoil)
        return f"gradient {name}{shown}"
    plain = run.task

    class Spoiled(EveryTarget):
        def loss_sum(self, model, batch):
            loss = plain.loss_sum(model, batch)
            return loss * value if run.progress.step == step else loss

    run.task = Spoiled()
    return "loss"


@pytest.mark.parametrize("kind", ["weight", "gradient", "loss"])
@pytest.mark.parametrize("trial", range(12))
def test_a_bad_number_stops_the_run_before_the_update(tmp_path, kind, trial):
    dice = random.Random(f"{kind} {trial}")
    run = tiny_run(tmp_path, save_every=1, valid_every=100, optimizer=dice.choice(["muon", "adam"]))
    step = dice.randrange(3)
    for _ in range(step):
        run.step()
        run.progress.seconds = 1.0
    run.save()
    where = plant(run, kind, step, dice)
    before = snapshot(run)
    with pytest.raises(NumericsError) as caught:
        run.train()
    error = caught.value
    assert error.code == "E601"
    assert error.where == f"step {step}, rank 0, {where}"
    assert f"row {4 * step}" in str(error.got)
    assert f"row {4 * step + 2}" in str(error.got)
    after = snapshot(run)
    for name, tensor in before.items():
        assert torch.equal(tensor.nan_to_num(7.0), after[name].nan_to_num(7.0)), name
    run.resume(())
    assert run.progress.step == step
    assert all(bool(tensor.isfinite().all()) for tensor in snapshot(run).values())


def test_a_bad_gradient_is_named_where_it_began(tmp_path):
    """Clipping must not spread one NaN over all gradients first."""
    run = tiny_run(tmp_path)
    last_name, last = list(run.model.named_parameters())[-1]

    def spoil(item):
        item.grad[3] = math.nan

    last.register_post_accumulate_grad_hook(spoil)
    with pytest.raises(NumericsError, match=rf"gradient {last_name}\[3\]"):
        run.step()


def test_a_norm_that_overflows_is_named(tmp_path):
    run = tiny_run(tmp_path)

    def grow(item):
        item.grad.fill_(1e30)

    for parameter in run.model.parameters():
        parameter.register_post_accumulate_grad_hook(grow)
    with pytest.raises(NumericsError, match="gradient norm: not finite"):
        run.step()


def test_a_bad_weight_that_no_loss_sees_never_reaches_a_checkpoint(tmp_path):
    config = model_config(tied=False, vocab_size=30)
    run = tiny_run(tmp_path, config=config, steps=4, save_every=2, valid_every=100)
    with torch.no_grad():
        run.model.embed.tokens.weight[29, 5] = math.nan  # no row holds the id 29
    with pytest.raises(NumericsError, match=r"weight\.embed\.tokens\.weight\[29, 5\]"):
        run.train()
    assert run.store.newest() is None


def test_a_validation_that_is_not_finite_stops_and_exports_nothing(tmp_path):
    run = tiny_run(tmp_path, ema=None)
    with torch.no_grad():
        next(run.model.parameters())[0, 0] = math.inf
    with pytest.raises(NumericsError, match=r"E601|not finite"):
        run.validate()
    assert not (tmp_path / "model").exists()
    assert run.progress.best_loss is None


def test_skip_leaves_out_the_poisoned_step_alone(tmp_path, capsys):
    skipped = tiny_run(tmp_path / "a", rows=Rows(poisoned=POISONED), **SPIKY)
    skipped.train()
    assert skipped.progress.spikes.passed == [POISON]
    line = next(line for line in capsys.readouterr().err.splitlines() if "jumped" in line)
    assert f"step {POISON}: the loss jumped" in line
    assert "policy skip" in line
    assert f"row {4 * POISON}; row {4 * POISON + 1}; row {4 * POISON + 2}" in line

    told = tiny_run(tmp_path / "b", rows=Rows(poisoned=POISONED), **SPIKY)
    told.progress.spikes.passed = [POISON]
    told.train()
    assert hashes(told)["tensors"] == hashes(skipped)["tensors"]

    trained = tiny_run(tmp_path / "c", rows=Rows(poisoned=POISONED), on_spike="off", **SPIKY)
    trained.train()
    assert hashes(trained)["tensors"] != hashes(skipped)["tensors"]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "rewind"])
@pytest.mark.parametrize("killed_at", [POISON + 1, POISON + 3])
def test_a_replay_after_a_kill_decides_the_same(tmp_path, policy, killed_at):
    spiky = SPIKY | {"on_spike": policy}
    whole = tiny_run(tmp_path / "whole", rows=Rows(poisoned=POISONED), **spiky)
    whole.train()
    broken = tiny_run(tmp_path / "broken", rows=Rows(poisoned=POISONED), **spiky)
    with pytest.raises(Killed):
        kill_at(broken, killed_at).train()
    again = tiny_run(tmp_path / "broken", rows=Rows(poisoned=POISONED), **spiky)
    again.resume(())
    assert again.progress.step == POISON  # saved just before the poisoned step
    again.train()
    assert again.progress.spikes.passed == [POISON]
    assert hashes(again) == hashes(whole)


def test_rewind_goes_back_and_its_log_has_every_step_once(tmp_path, capsys):
    run = tiny_run(tmp_path, rows=Rows(poisoned=range(4 * 33, 4 * 33 + 4)), on_spike="rewind",
                   **SPIKY)  # fmt: skip
    run.train()
    assert "resuming at step 30" in capsys.readouterr().err
    assert [row["step"] for row in run.metrics.rows()] == list(range(1, 41))
    assert run.progress.spikes.passed == [30, 31, 32, 33]
    left_out = [row["step"] for row in run.metrics.rows() if row.get("passed_over")]
    assert left_out == [31, 32, 33, 34]  # rows count from 1


def test_rewind_undoes_the_updates_before_the_jump_and_skip_does_not(tmp_path):
    poisoned = range(4 * 33, 4 * 33 + 4)
    runs = {}
    for policy in ("rewind", "skip"):
        runs[policy] = tiny_run(tmp_path / policy, rows=Rows(poisoned=poisoned),
                                on_spike=policy, **SPIKY)  # fmt: skip
        runs[policy].train()
    told = tiny_run(tmp_path / "told", rows=Rows(poisoned=poisoned), **SPIKY)
    told.progress.spikes.passed = [30, 31, 32, 33]
    told.train()
    assert hashes(runs["rewind"])["tensors"] == hashes(told)["tensors"]
    assert hashes(runs["rewind"])["tensors"] != hashes(runs["skip"])["tensors"]


def test_stop_names_the_rows_and_stops_again_on_replay(tmp_path):
    spiky = SPIKY | {"on_spike": "stop"}
    said = []
    for attempt in range(2):
        run = tiny_run(tmp_path, rows=Rows(poisoned=POISONED), **spiky)
        if attempt:
            run.resume(())
            assert run.progress.step == POISON
        with pytest.raises(NumericsError) as caught:
            run.train()
        said.append(str(caught.value))
        assert run.progress.step == POISON
    assert said[0] == said[1]
    assert said[0].startswith(f"step {POISON}: the loss jumped")
    assert f"row {4 * POISON}" in said[0]


def test_a_new_level_of_losses_is_learned_in_the_end(tmp_path):
    """Otherwise a run would pass over every later step, train nothing, and exit with 0."""
    run = tiny_run(tmp_path, rows=Rows(poisoned=range(4 * POISON, 400)), **SPIKY)
    run.train()
    assert run.progress.spikes.passed == list(range(POISON, POISON + 8))
