import pytest

from yantai.metrics.floor import known_phrases
from yantai.metrics.spans import counts, entity_f1, precision, recall

TRUTH = [[(0, 4, "a"), (5, 7, "b")], [], [(1, 2, "a")]]
SAID = [[(0, 4, "a"), (5, 7, "a")], [(0, 1, "a")], []]


def test_only_whole_spans_with_the_right_label_count():
    table = counts(TRUTH, SAID)
    assert table.tolist() == [[1, 2, 2], [0, 0, 1], [0, 1, 0]]
    assert precision(table) == pytest.approx(1 / 3)
    assert recall(table) == pytest.approx(1 / 3)
    assert entity_f1(table) == pytest.approx(1 / 3)
    assert entity_f1(counts(TRUTH, TRUTH)) == 1.0
    assert entity_f1(counts([[]], [[]])) == 1.0


def test_known_phrases_are_found_again_the_longest_first():
    learned = [("Anna saw York", [(0, 4, "PER"), (9, 13, "LOC")]), ("Old Anna", [(0, 8, "PER")])]
    found = known_phrases(learned, ["Old Anna left York and Rome.", ""])
    assert found == [((0, 8, "PER"), (14, 18, "LOC")), ()]
    assert known_phrases([("a", [])], ["a"]) == [()]


def test_a_known_phrase_is_no_part_of_a_word_but_of_a_chinese_text():
    learned = [("Ann 见了王五 in U.S.", [(0, 3, "PER"), (6, 8, "PER"), (12, 16, "LOC")])]
    assert known_phrases(learned, ["Anna, Ann_x and JoAnn", "张王五说", "the U.S."]) == [
        (), ((1, 3, "PER"),), ((4, 8, "LOC"),),
    ]  # fmt: skip
