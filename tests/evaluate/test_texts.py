"""What written texts and answers are worth, beside what chance gives."""

import pytest

from yantai.evaluate.answers import answers_report
from yantai.evaluate.texts import summaries_report, translations_report

TRUTH = ["the old mill by the river", "the goose came home", "it rained on the market all day"]


@pytest.mark.parametrize(
    ("report", "metrics", "most"),
    [(translations_report, ("bleu", "chrf"), 100), (summaries_report, ("rouge1", "rougeL"), 1)],
)
def test_chance_is_what_the_texts_of_others_have(report, metrics, most):
    right = report(TRUTH, TRUTH, {}, 0)["metrics"]
    for name in metrics:
        assert right[name]["value"] == pytest.approx(most)
        assert 0 <= right[name]["chance"] < 0.6 * most
    first, second = TRUTH[:2]
    moved = report([first, second], [second, first], {}, 0)["metrics"]  # two have one way alone
    assert all(moved[name]["value"] == pytest.approx(moved[name]["chance"]) for name in metrics)
    assert report(TRUTH[:1], TRUTH[:1], {}, 0)["metrics"][metrics[0]]["chance"] is None


def test_answers_are_beside_those_to_other_questions():
    truth = [["the mill"], ["the mill", "mill"], []]
    found = answers_report(truth, ["the mill", "mill", ""], {}, 0, chinese=False)["metrics"]
    assert found["exact_match"]["value"] == 1.0
    # a cycle of three: one of the mills gets the other's answer, the rest what they have not
    assert found["exact_match"]["chance"] == pytest.approx(1 / 3)
