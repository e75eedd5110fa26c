"""What is planted is exactly what is listed."""

import pytest

from yantai.text.village import Bias, Village, measure_bias
from yantai.text.village.planting import TIMES_EACH_CANARY


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("bias", [Bias(share=0.8), Bias(share=0.7, group="hearth", value="female")])
def test_bias_is_what_was_asked_for(language, bias):
    rows = list(Village(bias=bias).documents(1200, (language,)))
    measured = measure_bias(rows, bias)
    assert measured.mentions >= 100
    assert measured.share == pytest.approx(bias.share, abs=0.02)
    assert len({row["text"] for row in rows}) == len(rows)


def test_without_the_knob_there_is_no_such_bias():
    bias = Bias(share=0.8)
    plain = measure_bias(Village().documents(1200), bias)
    assert abs(plain.share - 0.8) > 0.05


def test_bias_errors():
    with pytest.raises(ValueError, match="workshop"):
        Bias(group="office")
    with pytest.raises(ValueError, match="between 0 and 1"):
        Bias(share=80)


def test_canaries_are_where_they_are_listed():
    village = Village(canaries=6)
    rows = list(village.documents(300))
    canaries = village.canary_list(300)
    assert len(canaries) == 6 == len({canary.secret for canary in canaries})
    for canary in canaries:
        found = [number for number, row in enumerate(rows) if canary.secret in row["text"]]
        assert tuple(found) == canary.rows and len(found) == TIMES_EACH_CANARY
        assert all(canary.text in rows[number]["text"] for number in found)
        assert all(rows[number]["planted"] == [f"canary:{canary.secret}"] for number in found)
        assert all(rows[number]["language"] == canary.language for number in found)


def test_duplicates_are_as_listed():
    village, count = Village(duplicates=0.2), 300
    rows = list(village.documents(count))
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == count
    copies = [row for row in rows if row["duplicate_of"]]
    assert len(copies) == 60
    kinds = set()
    for row in copies:
        original = by_id[row["duplicate_of"]]
        how = row["planted"][0].removeprefix("duplicate:")
        kinds.add(how == "exact")
        assert original["duplicate_of"] is None and not original["planted"]
        assert (row["text"] == original["text"]) == (how == "exact")
        assert len(set(row["text"]) & set(original["text"])) / len(set(original["text"])) > 0.7
    assert kinds == {True, False}
    rest = [row["text"] for row in rows if not row["duplicate_of"]]
    assert len(set(rest)) == len(rest)


def test_dirt_is_as_listed():
    clean = {row["id"]: row["text"] for row in Village().documents(400)}
    rows = list(Village(dirt=0.25).documents(400))
    dirty = [row for row in rows if row["planted"]]
    assert len(dirty) == 100
    assert len({row["planted"][0] for row in dirty}) == 5
    for row in rows:
        assert (row["text"] == clean[row["id"]]) == (not row["planted"])


def test_too_much_planting_is_refused():
    with pytest.raises(ValueError, match="rows are to be planted"):
        list(Village(dirt=0.6, duplicates=0.6).documents(50))


def test_all_knobs_at_once_keep_apart():
    rows = list(Village(canaries=2, duplicates=0.1, dirt=0.1).documents(200))
    assert all(len(row["planted"]) <= 1 for row in rows)
    assert sum(bool(row["planted"]) for row in rows) == 20 + 20 + 2 * TIMES_EACH_CANARY
