"""Examples stay whole, come once an epoch, and keep their sources beside them."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.base.errors import DataError
from yantai.data.batch import IGNORED, collate
from yantai.data.examples import Example, ExampleRows


@given(st.lists(st.integers(2, 30), min_size=1, max_size=25), st.integers(8, 24), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_examples_stay_whole_and_each_comes_once_an_epoch(sizes, length, seed):
    texts = [[n * 100 + t for t in range(size)] for n, size in enumerate(sizes)]
    examples = [
        Example.of_text(text, [False] + [True] * (len(text) - 1), f"row {n}")
        for n, text in enumerate(texts)
    ]
    rows = ExampleRows(examples, length, seed=seed)
    for epoch in (0, 1):
        learned = Counter()
        for index in range(rows.rows_in_epoch(epoch)):
            row = rows.row(epoch, index)
            assert len(row.ids) == length
            learned.update(row.targets[row.targets != IGNORED].tolist())
        assert learned == Counter(id for text in texts for id in text[1 : length + 1])
    assert rows.truncated == sum(size > length + 1 for size in sizes)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 60)), min_size=1, max_size=25),
    st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_a_source_stands_beside_what_is_made_of_it(sizes, seed):
    """Every document of a row has its own source, under the same number."""
    examples = [
        Example([n] * own, [n] * own, f"row {n}", [n + 100] * source)
        for n, (own, source) in enumerate(sizes)
    ]
    rows = ExampleRows(examples, 16, source_length=40, seed=seed)
    seen = Counter()
    for index in range(rows.rows_in_epoch(0)):
        row = rows.row(0, index)
        assert (len(row.ids), len(row.source)) == (16, 40)
        for number in range(int(row.documents.max()) + 1):
            (own,) = set(row.ids[row.documents == number])
            (source,) = set(row.source[row.source_documents == number])
            assert source == own + 100
            assert (row.documents == number).sum() == min(16, sizes[own][0])
            assert (row.source_documents == number).sum() == min(40, sizes[own][1])
            place = row.source_positions[row.source_documents == number]
            assert (place == np.arange(len(place))).all()
            seen[int(own)] += 1
    assert seen == Counter(range(len(sizes)))
    assert rows.truncated == sum(own > 16 or source > 40 for own, source in sizes)
    assert collate([rows.row(0, 0)]).token_count == 56


def test_an_example_with_nothing_to_learn_is_named():
    good, bad = Example([1], [2], "row 1"), Example([1, 2], [IGNORED, IGNORED], "row 2")
    with pytest.raises(DataError, match="row 2: nothing to learn"):
        ExampleRows([good, bad], 8)
    late = Example(list(range(9)), [IGNORED] * 8 + [1], "row 3")
    with pytest.raises(DataError, match="row 3"):
        ExampleRows([late], 4)
