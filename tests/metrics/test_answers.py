import pytest

from yantai.metrics.answers import answer_f1, exact_match


@pytest.mark.parametrize(
    ("said", "answers", "exact", "f1"),
    [
        ("The old mill.", ["old mill"], 1.0, 1.0),
        ("mill", ["the old mill"], 0.0, 2 / 3),
        ("mill of Ivan", ["old mill", "mill of Ivan"], 1.0, 1.0),
        ("goose", ["mill"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("mill", [], 0.0, 0.0),
        ("", ["mill"], 0.0, 0.0),
        ("the", ["a"], 1.0, 1.0),
    ],
)
def test_the_rule_of_squad(said, answers, exact, f1):
    assert exact_match(said, answers) == exact
    assert answer_f1(said, answers) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("said", "answers", "exact", "f1"),
    [
        ("《战国无双3》", ["战国无双3"], 1.0, 1.0),
        ("光荣和ω-force", ["光荣"], 0.0, 2 * 2 / (5 + 2)),
        ("在北京大学", ["北京 大学"], 0.0, 2 * 4 / (5 + 4)),
        ("一二三四", ["一三二四"], 0.0, 2 * 1 / 8),
        ("", ["一"], 0.0, 0.0),
    ],
)
def test_the_rule_of_cmrc(said, answers, exact, f1):
    assert exact_match(said, answers, chinese=True) == exact
    assert answer_f1(said, answers, chinese=True) == pytest.approx(f1)
