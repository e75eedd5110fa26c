"""Against scikit-learn, on any labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from yantai.metrics import classify as ours

SEEDS = st.integers(0, 2**31)


@given(SEEDS, st.integers(1, 60), st.integers(2, 6))
@settings(max_examples=100, deadline=None)
def test_one_label_a_text(seed, count, labels):
    generator = np.random.default_rng(seed)
    truth, said = generator.integers(labels, size=(2, count))
    assert ours.accuracy(truth, said) == pytest.approx(theirs.accuracy_score(truth, said))
    expected = theirs.f1_score(
        truth, said, labels=np.unique(truth), average="macro", zero_division=0
    )
    assert ours.macro_f1(truth, said) == pytest.approx(expected)
    matrix = theirs.confusion_matrix(truth, said, labels=range(labels))
    assert (ours.confusion(truth, said, labels) == matrix).all()


@given(SEEDS, st.integers(1, 40), st.integers(2, 5))
@settings(max_examples=100, deadline=None)
def test_several_labels_a_text(seed, count, labels):
    truth, said = np.random.default_rng(seed).random((2, count, labels)) < 0.4
    there = np.flatnonzero(truth.any(0))
    micro = theirs.f1_score(truth, said, average="micro", zero_division=0)
    assert ours.micro_f1_of_several(truth, said) == pytest.approx(micro)
    assert ours.exact_match(truth, said) == pytest.approx((truth == said).all(1).mean())
    macro = 0.0
    if len(there):
        macro = theirs.f1_score(truth, said, average=None, zero_division=0)[there].mean()
    assert ours.macro_f1_of_several(truth, said) == pytest.approx(macro)


def test_confidence_that_is_right_so_often_has_no_error():
    confidence = np.repeat([0.75, 0.5], [40, 20])
    right = np.r_[np.arange(40) < 30, np.arange(20) < 10]
    assert ours.calibration_error(confidence, right) == pytest.approx(0.0)
    assert ours.calibration_error(np.ones(10), np.arange(10) < 6) == pytest.approx(0.4)


def test_reliability_is_what_the_calibration_error_sums_up():
    dice = np.random.default_rng(0)
    confidence = dice.uniform(0.3, 1, 400)
    right = dice.uniform(size=400) < confidence**2
    bins = ours.reliability(confidence, right)
    assert sum(each["count"] for each in bins) == 400
    gaps = sum(each["count"] * abs(each["confidence"] - each["accuracy"]) for each in bins)
    assert gaps / 400 == pytest.approx(ours.calibration_error(confidence, right))


def test_f1_of_each_label_is_scikit_learns():
    from sklearn.metrics import f1_score

    dice = np.random.default_rng(1)
    truth, said = dice.integers(0, 2, (2, 50, 4)).astype(bool)
    expected = f1_score(truth, said, average=None, zero_division=0)
    np.testing.assert_allclose(ours.f1_of_each(truth, said), expected)
