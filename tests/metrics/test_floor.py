import numpy as np

from yantai.metrics import floor
from yantai.metrics.floor import is_spaced, majority, naive_bayes


def test_chinese_is_read_by_characters():
    assert is_spaced(["The baker has bread.", "Bread 面包"])
    assert not is_spaced(["面包师有面包。", "今天下雨 OK"])


def test_the_commonest_label():
    assert majority(np.array([2, 0, 2, 1]), 3).tolist() == [2, 2, 2]


def test_naive_bayes_tells_words_apart_in_either_language():
    for good, bad in (("a fine warm day", "a cold grey day"), ("今天很好", "今天很坏")):
        texts, truth = [good, bad] * 5, np.array([1, 0] * 5)
        assert naive_bayes(texts, truth, [good, bad]).tolist() == [1, 0]


def test_naive_bayes_adds_as_much_as_suits_the_texts(monkeypatch):
    """Many classes of few, short texts: with 1 added to each count the rare words say nothing."""
    dice = np.random.default_rng(0)
    common = ["the", "a", "of", "in", "on", "and", "with", "for", "from", "by", "at"]
    labels = [0, 1] * 400 + [label for label in range(2, 22) for _ in range(20)]
    dice.shuffle(labels)
    asked = list(range(22)) * 3
    texts, others = (
        [f"{' '.join(dice.choice(common, 6))} rare{label}" for label in part]
        for part in (labels, asked)
    )
    chosen = naive_bayes(texts, np.array(labels), others)
    monkeypatch.setattr(floor, "ADDED", (1.0,))
    usual = naive_bayes(texts, np.array(labels), others)
    assert (chosen == asked).mean() > 0.6 > 0.4 > (usual == asked).mean()


def test_naive_bayes_where_several_labels_may_hold():
    texts = ["rain and wind", "rain", "wind", "sun"] * 4
    truth = np.array([[1, 1], [1, 0], [0, 1], [0, 0]] * 4, bool)
    found = naive_bayes(texts, truth, ["rain", "wind"])
    assert found.tolist() == [[True, False], [False, True]]
