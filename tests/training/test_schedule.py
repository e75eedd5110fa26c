import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yantai.training.schedule import factor

NAMES = ["wsd", "cosine", "linear", "constant"]


@given(
    name=st.sampled_from(NAMES),
    horizon=st.integers(1, 500),
    warmup=st.integers(0, 100),
    cooldown=st.floats(0.01, 1.0),
)
def test_a_factor_is_between_0_and_1_and_never_0_in_a_step_that_is_taken(
    name, horizon, warmup, cooldown
):
    values = [factor(name, n, horizon, warmup=warmup, cooldown=cooldown) for n in range(horizon)]
    assert all(0.0 < value <= 1.0 for value in values)
    after = values[warmup:]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(after))
    up = values[:warmup]
    assert all(a < b for a, b in itertools.pairwise(up))


@pytest.mark.parametrize("name", NAMES)
def test_warm_up_is_a_straight_line_to_the_peak(name):
    values = [factor(name, step, 1000, warmup=4, cooldown=0.5) for step in range(5)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values[4] == pytest.approx(1.0, abs=1e-4)


def test_wsd_stays_and_then_falls_in_a_line():
    values = [factor("wsd", step, 100, warmup=10, cooldown=0.4) for step in range(100)]
    assert values[10:61] == [1.0] * 51
    assert values[80] == 0.5
    assert values[99] == pytest.approx(1 / 40)


def test_cosine_ends_at_a_tenth():
    assert factor("cosine", 100, 100, warmup=0, cooldown=0.5) == pytest.approx(0.1)
    assert factor("cosine", 50, 100, warmup=0, cooldown=0.5) == pytest.approx(0.55)
    expected = 0.1 + 0.45 * (1 + math.cos(math.pi * 0.25))
    assert factor("cosine", 25, 100, warmup=0, cooldown=0.5) == pytest.approx(expected)


def test_linear_falls_from_the_warm_up_to_0():
    assert factor("linear", 60, 110, warmup=10, cooldown=0.5) == pytest.approx(0.5)
    assert factor("linear", 110, 110, warmup=10, cooldown=0.5) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_past_the_horizon_nothing_is_negative_or_above_1(name):
    assert 0.0 <= factor(name, 200, 100, warmup=5, cooldown=0.5) <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_an_open_horizon_has_no_cool_down_yet(name):
    assert factor(name, 30, 1_000_000_000, warmup=20, cooldown=0.6) == pytest.approx(1.0)
