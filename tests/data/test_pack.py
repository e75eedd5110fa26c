"""Rows without waste or leakage, in an order that is a function of (seed, step)."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.base.errors import UsageError
from yantai.data.batch import IGNORED
from yantai.data.loader import Loader
from yantai.data.pack import TextRows


class FakeShards:
    """Documents of given sizes; token t of document d is d·1000+t."""

    def __init__(self, sizes):
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
        self.document_count = len(sizes)
        self._tokens = np.concatenate([d * 1000 + np.arange(s) for d, s in enumerate(sizes)])

    def tokens(self, start, stop):
        return self._tokens[start:stop]


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(lambda s: sum(s) >= 2)


@given(SIZES, st.integers(2, 30), st.integers(0, 5), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_an_epoch_reads_every_token_once_but_for_less_than_a_row(sizes, length, seed, epoch):
    rows = TextRows(FakeShards(sizes), length, seed=seed)
    count = rows.rows_in_epoch(epoch)
    seen = Counter()
    for index in range(count):
        row = rows.row(epoch, index)
        real = row.documents >= 0
        assert len(row.ids) == length
        seen.update(row.ids[real].tolist())
        for place in np.flatnonzero(row.targets != IGNORED):
            # the next token of the same document, never of another
            assert row.targets[place] == row.ids[place] + 1
        starts = np.flatnonzero(np.diff(row.documents, prepend=-9) != 0)
        assert all(row.positions[start] == 0 for start in starts)
    assert max(seen.values()) == 1
    assert sum(sizes) - sum(seen.values()) <= length


def test_a_target_is_missing_only_at_the_end_of_a_document():
    rows = TextRows(FakeShards([5, 7, 9]), 6, seed=1)
    for index in range(rows.rows_in_epoch(0)):
        row = rows.row(0, index)
        for place in np.flatnonzero(row.targets == IGNORED):
            document, token = divmod(int(row.ids[place]), 1000)
            assert token == [5, 7, 9][document] - 1


def test_every_epoch_has_an_order_of_its_own_and_any_row_can_be_asked_for_first():
    first, again = (TextRows(FakeShards([30] * 20), 16, seed=4) for _ in range(2))
    late = again.row(2, 5)
    orders = [[first.row(epoch, i).ids.tolist() for i in range(10)] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert orders[2][5] == late.ids.tolist()
    assert TextRows(FakeShards([30] * 20), 16, seed=5).row(0, 0).ids.tolist() != orders[0][0]


def test_steps_are_pure_and_accumulation_cuts_the_same_rows():
    source = TextRows(FakeShards([50] * 9), 10, seed=0)
    whole, cut = Loader([source], 6, seed=1), Loader([source], 2, accumulate=3, seed=1)
    for step in (7, 0, 30, 7):
        one = whole.batches(step)[0].ids
        parts = [batch.ids for batch in cut.batches(step)]
        assert (one.numpy() == np.concatenate([part.numpy() for part in parts])).all()


def test_what_was_read_ahead_is_what_would_have_been_read():
    source = TextRows(FakeShards([50] * 9), 10, seed=0)
    loader, plain = (Loader([source], 3, accumulate=2, seed=1) for _ in range(2))
    for step in (0, 1, 2, 9, 3):  # a rewind asks for other steps than the one that follows
        found, expected = loader.batches(step), plain.batches(step)
        assert all(map(torch.equal, (b.ids for b in found), (b.ids for b in expected)))
        loader.read_ahead(step + 1)
        assert len(loader._ahead) == 1


def test_a_mixture_has_its_shares_and_reads_each_source_in_order():
    sources = [TextRows(FakeShards([50] * n), 10, seed=0) for n in (5, 9)]
    loader = Loader(sources, 4, weights=[3, 1], seed=2)
    places = [loader.place(sample) for sample in range(4000)]
    shares = Counter(source for source, _, _ in places)
    assert shares == {0: 3000, 1: 1000}
    for source in (0, 1):
        mine = [(epoch, row) for which, epoch, row in places if which == source]
        count = sources[source].rows_in_epoch(0)
        assert mine == [divmod(number, count) for number in range(len(mine))]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -2.0]])
def test_weights_must_fit_the_sources(weights):
    sources = [TextRows(FakeShards([50]), 10)] * 2
    with pytest.raises(UsageError, match="weights"):
        Loader(sources, 4, weights=weights)
