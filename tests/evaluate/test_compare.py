"""How sure one may be after a few runs."""

import math

import numpy as np
import pytest
from scipy import stats

from yantai.evaluate.compare import (
    bootstrap,
    bootstrap_difference,
    elsewhere,
    paired_t,
    proportion,
    ratio,
)

WORDS = ("first", "second")


def test_the_interval_of_a_few_runs_is_students():
    values = [0.02, 0.05, 0.01, 0.04]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = paired_t(values, WORDS)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert found["value"] == pytest.approx(np.mean(values))
    assert found["verdict"] == "first"
    assert paired_t([-value for value in values], WORDS)["verdict"] == "second"


def test_of_three_runs_without_a_difference_few_are_said_to_differ():
    draws = np.random.default_rng(0).normal(size=(400, 3))
    said = [paired_t(row, WORDS)["verdict"] != "no difference shown" for row in draws]
    assert 0.02 < np.mean(said) < 0.09
    drawn_again = [
        bootstrap_difference(lambda rows, row=row: row[rows].mean(), 3, WORDS)["verdict"]
        for row in draws[:60]
    ]
    assert np.mean([verdict != "no difference shown" for verdict in drawn_again]) > 0.15


def test_one_run_shows_no_difference():
    found = paired_t([0.5], WORDS)
    assert found["verdict"] == "no difference shown"
    assert found["low"] is None and not math.isnan(found["value"])


def test_where_all_rows_are_alike_further_rows_could_still_be_others():
    none, all_right = np.zeros(22), np.ones(22)
    estimate = bootstrap(lambda rows: float(none[rows].mean()), 22)
    assert (estimate.value, estimate.low) == (0, 0) and estimate.high == proportion(
        0, 22
    ).high > 0.1
    estimate = bootstrap(lambda rows: float(all_right[rows].mean()), 22)
    assert (estimate.value, estimate.high) == (1, 1) and estimate.low == proportion(22, 22).low
    estimate = bootstrap(lambda rows: 100 * float(none[rows].mean()), 22, most=100.0)
    assert estimate.high == 100 * proportion(0, 22).high


def test_an_interval_holds_its_value_to_the_last_digit():
    for count in range(1, 200):
        for hits in (0, count // 2, count):
            estimate = proportion(hits, count)
            assert estimate.low <= estimate.value <= estimate.high


@pytest.mark.parametrize(
    ("won", "lost", "verdict"),
    [(4, 0, "no difference shown"), (6, 0, "up"), (0, 6, "down"), (9, 2, "no difference shown")],
)
def test_a_handful_of_rows_that_differ_must_pass_the_exact_test_too(won, lost, verdict):
    hits = np.array([True] * won + [False] * lost + [True] * 50)
    others = np.array([False] * won + [True] * lost + [True] * 50)

    def difference(rows):
        return float(hits[rows].mean() - others[rows].mean())

    found = bootstrap_difference(difference, len(hits), ("up", "down"), hits=(hits, others))
    assert found["verdict"] == verdict


@pytest.mark.parametrize("count", [2, 3, 100])
def test_what_is_right_elsewhere_is_never_ones_own(count):
    moved = elsewhere(range(count), seed=count)
    assert sorted(moved) == list(range(count))
    assert all(at != other for at, other in enumerate(moved))


def test_a_perplexity_has_the_interval_of_its_loss():
    loss = ratio([2.0, 9.0, 4.0], [1, 3, 2], chance=math.log(50))
    power = loss.raised()
    assert power.value == pytest.approx(math.exp(2.5))
    assert (power.low, power.high) == (math.exp(loss.low), math.exp(loss.high))
    assert power.chance == pytest.approx(50)
    assert ratio([2.0], [1], chance=1.0).raised().as_dict()["low"] is None


def test_two_that_never_differ_have_an_interval_of_nothing():
    found = bootstrap_difference(lambda rows: 0.0, 40, ("up", "down"))
    assert (found["value"], found["low"], found["high"]) == (0.0, 0.0, 0.0)
    assert found["verdict"] == "no difference shown"
