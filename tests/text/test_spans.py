import pytest
from hypothesis import given
from hypothesis import strategies as st

from yantai.text.spans import Span, joined, spans_of_words

PLACES = [(0, 2), (3, 5), (6, 8), (9, 11)]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-a I-a O B-b", [(0, 5, "a"), (9, 11, "b")]),
        ("B-a B-a I-a O", [(0, 2, "a"), (3, 8, "a")]),
        ("B-a I-a E-a S-b", [(0, 8, "a"), (9, 11, "b")]),
        ("S-a S-a O O", [(0, 2, "a"), (3, 5, "a")]),
        ("O I-a I-a I-b", [(3, 8, "a"), (9, 11, "b")]),
        ("O O O O", []),
    ],
)
def test_both_schemes(tags, expected):
    assert list(spans_of_words(PLACES, tags.split())) == expected


@pytest.mark.parametrize("tag", ["B", "person", "X-a", "B-", ""])
def test_a_label_of_no_scheme(tag):
    with pytest.raises(ValueError, match="^" + tag):
        spans_of_words(PLACES[:1], [tag])


@given(st.lists(st.sampled_from(["Anna", "来", "了。", "to", "北京", "7"]), max_size=8))
def test_words_stand_where_it_is_said(words):
    text, places = joined(words)
    assert [text[start:end] for start, end in places] == words
    assert text.replace(" ", "") == "".join(words)


def test_a_span_is_a_triple():
    assert Span(1, 2, "a") == (1, 2, "a")
