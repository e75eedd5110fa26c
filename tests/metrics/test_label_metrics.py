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
