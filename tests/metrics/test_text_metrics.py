"""Against sacreBLEU's and ROUGE's own definitions, and by hand where they have none."""

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from yantai.metrics.text import bleu, bleu_signature, chrf, rouges

TRUTH = ["the old mill stands by the river", "Anna has a grey goose"]
SAID = ["the old mill stands by a river", "Anna has one goose"]
BOTH = [0, 1]


def test_what_is_right_has_all_and_what_is_not_has_less():
    for metric in (bleu, chrf):
        assert metric(TRUTH, TRUTH)(BOTH) == pytest.approx(100)
        assert 0 < metric(SAID, TRUTH)(BOTH) < 100


@pytest.mark.parametrize("rows", [[0, 1], [1, 1, 0], [1], [0, 0, 0, 1, 1]])
def test_drawn_texts_score_what_sacrebleu_says_of_them(rows):
    said, truth = [SAID[row] for row in rows], [TRUTH[row] for row in rows]
    assert bleu(SAID, TRUTH)(rows) == pytest.approx(BLEU().corpus_score(said, [truth]).score)
    assert chrf(SAID, TRUTH)(rows) == pytest.approx(CHRF().corpus_score(said, [truth]).score)


def test_chinese_is_compared_by_characters():
    truth = ["伊凡把灰鹅借给了安娜。", "今天下了一整天的雨。"]
    near, far = ["伊凡把灰鹅借给安娜了。", "今天下了一天的雨。"], ["他走了。", "是的。"]
    assert bleu(truth, truth)(BOTH) == pytest.approx(100)
    assert bleu(near, truth)(BOTH) > 30 > bleu(far, truth)(BOTH)
    assert "tok:zh" in bleu_signature(truth) and "tok:13a" in bleu_signature(TRUTH)


def test_rouge_in_both_languages():
    found = rouges(["the mill"], ["the old mill"])
    assert found["rouge1"][0] == pytest.approx(0.8)
    assert found["rouge2"][0] == 0.0
    assert found["rougeL"][0] == pytest.approx(0.8)
    found = rouges(["下雨了"], ["今天下雨了"])
    assert found["rouge1"][0] == pytest.approx(2 * 3 / 8)
    assert found["rouge2"][0] == pytest.approx(2 * 2 / 6)
    assert rouges([""], ["a"])["rougeL"][0] == 0.0
