"""Invented texts, and what a linear model believes of them."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yantai.life.practice import invent, practice

FRUITS = ["red apple", "sweet apple pie", "an apple a day", "green apple", "apple juice"] * 4
TOOLS = ["old hammer", "hammer and nail", "a heavy hammer", "the hammer fell", "hammer time"] * 4


@given(st.lists(st.text("ab 中文", min_size=1), min_size=1), st.integers(0, 99), st.booleans())
def test_what_is_invented_is_made_of_pieces_of_the_texts(texts, seed, spaced):
    texts = [*texts, "the last one"]
    found = invent(texts, 30, spaced, random.Random(seed))
    assert len(found) == 30 and all(each.strip() or not spaced for each in found)
    parts = {word for text in texts for word in (text.split() if spaced else text)}
    for each in found:
        assert set(each.split() if spaced else each) <= parts
        pieces = each.split() if spaced else each
        # at most one place where it leaves a text for another
        joined = [" ".join(text.split()) if spaced else text for text in texts]
        cuts = range(len(pieces) + 1)
        glue = " " if spaced else ""
        assert any(
            any(glue.join(pieces[:cut]) in text for text in joined)
            and any(glue.join(pieces[cut:]) in text for text in joined)
            for cut in cuts
        )


def test_beliefs_say_what_the_words_say_and_the_seed_decides_the_texts():
    texts, truth = FRUITS + TOOLS, np.array([1] * 20 + [0] * 20)
    made = practice(texts, truth, 3, 200, seed=1)
    assert made.beliefs.shape == (200, 3)
    np.testing.assert_allclose(made.beliefs.sum(1), 1, rtol=1e-5)
    assert (made.beliefs[:, 2] == 0).all()  # a label that no row has
    apple, hammer = (
        np.array([word in text for text in made.texts]) for word in ("apple", "hammer")
    )
    assert (
        made.beliefs[apple & ~hammer, 1].mean()
        > 0.8
        > 0.2
        > made.beliefs[hammer & ~apple, 1].mean()
    )
    assert practice(texts, truth, 3, 200, seed=1).texts == made.texts
    assert practice(texts, truth, 3, 200, seed=2).texts != made.texts


def test_several_labels_are_believed_each_by_itself():
    texts = [*FRUITS, *TOOLS, *(f"{one} {two}" for one, two in zip(FRUITS, TOOLS, strict=True))]
    truth = np.array([[True, False, True]] * 20 + [[False, True, True]] * 20 + [[True] * 3] * 20)
    made = practice(texts, truth, 3, 300, seed=1)
    assert (made.beliefs[:, 2] == 1).all()
    apple, hammer = (
        np.array([word in text for text in made.texts]) for word in ("apple", "hammer")
    )
    assert made.beliefs[apple & hammer][:, :2].mean() > 0.7
    assert made.beliefs[apple & ~hammer, 1].mean() < 0.4


@pytest.mark.parametrize("spaced", [True, False])
def test_nothing_is_asked_for_nothing_is_invented(spaced):
    assert invent(["a b"], 0, spaced, random.Random(1)) == []
