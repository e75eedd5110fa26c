"""Against sacreBLEU's and ROUGE's own definitions, and by hand where they have none."""

import pytest

from yantai.metrics.text import bleu, bleu_signature, chrf, rouges

TRUTH = ["the old mill stands by the river", "Anna has a grey goose"]
SAID = ["the old mill stands by a river", "Anna has one goose"]


def test_what_is_right_has_all_and_what_is_not_has_less():
    assert bleu(TRUTH, TRUTH) == pytest.approx(100)
    assert chrf(TRUTH, TRUTH) == pytest.approx(100)
    assert 0 < bleu(SAID, TRUTH) < 100
    assert 0 < chrf(SAID, TRUTH) < 100


def test_chinese_is_compared_by_characters():
    truth = ["伊凡把灰鹅借给了安娜。", "今天下了一整天的雨。"]
    near, far = ["伊凡把灰鹅借给安娜了。", "今天下了一天的雨。"], ["他走了。", "是的。"]
    assert bleu(truth, truth) == pytest.approx(100)
    assert bleu(near, truth) > 30 > bleu(far, truth)
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
