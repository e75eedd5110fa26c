import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yantai.training.plan import REPLAN_SHARES, WATTS_ENV, Horizon, energy_estimate

OPEN = 1_000_000_000


def test_a_fixed_number_of_steps_asks_no_clock():
    horizon = Horizon(steps=50)
    horizon.decide(10, 1.0, 0.1, 0.0)
    assert horizon.decisions == []
    assert [horizon.at(step) for step in (0, 49, 60)] == [50, 50, 50]


def test_a_budget_of_time_is_planned_at_stated_moments_and_no_more():
    horizon = Horizon(seconds=125.0)
    step = 0
    while step < horizon.at(step):
        step += 1
        horizon.decide(step, step * 0.125, 0.125, 5.0)
    moments = [8, 48, 96, 192, 336, 480, 624, 768, 864, 912, 941]
    assert [decided for decided, _ in horizon.decisions] == moments
    assert len(horizon.decisions) == len(REPLAN_SHARES)
    assert step * 0.125 == 120.0


@pytest.mark.parametrize("change", [0.8, 1.3])
def test_a_machine_that_changes_its_speed_midway_still_ends_on_time(change):
    horizon, step, elapsed, pace = Horizon(seconds=100.0), 0, 0.0, 0.02
    while step < horizon.at(step):
        step += 1
        if elapsed > 50.0:
            pace = 0.02 * change
        elapsed += pace
        horizon.decide(step, elapsed, pace, 1.0)
    assert elapsed == pytest.approx(99.0, abs=0.1)


@pytest.mark.parametrize("begin", [0.1, 0.4])
def test_a_machine_that_was_busy_at_first_does_not_end_early(begin):
    horizon, step, elapsed, pace = Horizon(seconds=900.0), 0, 0.0, 0.0
    recent = []
    while step < horizon.at(step):
        step += 1
        pace = 4.0 if elapsed < 900 * begin else 0.25
        elapsed += pace
        recent = [*recent[-49:], pace]
        horizon.decide(step, elapsed, sum(recent) / len(recent), 5.0)
    assert elapsed == pytest.approx(895.0, abs=9.0)


def test_a_machine_that_becomes_slow_takes_no_steps_behind_its_time():
    """Another program has a core, and each step is as long as the rest of the budget."""
    horizon, step, elapsed = Horizon(seconds=30.0), 0, 0.0
    while step < horizon.at(step):
        step += 1
        elapsed += 2.0 if step <= 8 else 6.0
        horizon.decide(step, elapsed, 6.0, 8.0)
    assert (step, elapsed) == (9, 22.0)


def test_the_decision_that_holds_is_the_last_at_or_before_a_step():
    horizon = Horizon(seconds=1.0, decisions=[[8, 100], [20, 90]])
    steps = (0, 7, 8, 19, 20, 95)
    assert [horizon.at(step) for step in steps] == [OPEN, OPEN, 100, 100, 90, 90]


def test_too_few_steps_decide_nothing():
    horizon = Horizon(seconds=1.0)
    horizon.decide(7, 500.0, 0.1, 0.0)
    assert horizon.decisions == []


@given(
    steps=st.integers(8, 400),
    seconds=st.floats(0.1, 1000.0),
    pace=st.floats(0.001, 50.0),
    reserve=st.floats(0.0, 100.0),
)
def test_a_plan_ends_after_the_step_that_is_done(steps, seconds, pace, reserve):
    horizon = Horizon(seconds=seconds)
    for step in range(1, steps + 1):
        before = len(horizon.decisions)
        horizon.decide(step, step * pace, pace, reserve)
        if len(horizon.decisions) > before:
            assert horizon.at(step) > step


def test_a_plan_goes_through_json():
    horizon = Horizon(seconds=9.0, decisions=[[8, 100]])
    assert json.loads(json.dumps(horizon.state())) == {
        "steps": None,
        "seconds": 9.0,
        "decisions": [[8, 100]],
    }


def test_energy_says_what_it_rests_on(monkeypatch):
    monkeypatch.delenv(WATTS_ENV, raising=False)
    cpu = energy_estimate(3600.0, torch.device("cpu"), 2)
    assert (cpu["watt_hours"], cpu["watts"]) == (30.0, 30.0)
    assert "assumed" in cpu["basis"]
    monkeypatch.setenv(WATTS_ENV, "100")
    assert energy_estimate(1800.0, torch.device("cpu"), 2)["watt_hours"] == 50.0
