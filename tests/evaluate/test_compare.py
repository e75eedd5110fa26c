"""How sure one may be after a few runs."""

import math

import numpy as np
import pytest
from scipy import stats

from yantai.evaluate.compare import bootstrap_difference, paired_t

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
