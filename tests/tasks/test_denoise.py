import numpy as np
import pytest
import torch

from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.data.batch import IGNORED, Row, collate
from yantai.tasks.denoise import Denoise

SENTINELS, MASK, START, END = tuple(range(190, 200)), 1, 3, 2
WAYS = {
    "spans": Denoise("spans", SENTINELS, START, END),
    "infill": Denoise("infill", (MASK,), START, END),
}


class Source:
    """Rows of 100 tokens in documents of the given sizes; what is left over is padding."""

    def __init__(self, *sizes):
        self.sizes = sizes

    def rows_in_epoch(self, epoch):
        return 30

    def row(self, epoch, index):
        ids = np.random.default_rng((epoch, index)).integers(5, 190, 100)
        documents = np.repeat([*range(len(self.sizes)), -1], [*self.sizes, 100 - sum(self.sizes)])
        ids[documents < 0] = 0
        return Row(ids, ids, documents, np.arange(100), "row")


def documents(row):
    """(what is left, target) of each document."""
    for number in range(int(row.source_documents.max()) + 1):
        yield row.source[row.source_documents == number], row.targets[row.documents == number]


def restored(way, left, target):
    """The text that source and target stand for."""
    assert target[-1] == END
    if way == "infill":
        return target[:-1]
    pieces, spans = [], {}
    for token in target[:-1]:
        if token in SENTINELS:
            spans[token] = []
            last = token
        else:
            spans[last].append(token)
    for token in left:
        pieces += spans.pop(token) if token in SENTINELS else [token]
    assert not spans
    return np.asarray(pieces)


@pytest.mark.parametrize("sizes", [(100,), (60, 40), (30, 20, 25), (1, 99), (2, 3, 95)])
@pytest.mark.parametrize("way", WAYS)
def test_source_and_target_give_back_every_document(way, sizes):
    source = Source(*sizes)
    made = WAYS[way].rows(source)
    for number in range(made.rows_in_epoch(0)):
        plain, row = source.row(0, number), made.row(0, number)
        for piece, (left, target) in enumerate(documents(row)):
            text = plain.ids[plain.documents == piece]
            if way == "infill":  # the end of a text has a place too
                text = text[: len(plain.ids) - 1]
            if not len(target):
                assert (left == text).all()
                continue
            assert (restored(way, left, target) == text).all()


@pytest.mark.parametrize("way", WAYS)
def test_rows_of_one_length_give_rows_of_one_length(way):
    task = WAYS[way]
    shapes = {
        (len(row.ids), len(row.source))
        for sizes in ((100,), (40, 60), (10, 20, 5))
        for row in (task.rows(Source(*sizes)).row(0, n) for n in range(10))
    }
    assert shapes == {(task.target_length(100), 100)}


def test_spans_are_15_percent_and_3_long_on_average():
    made = WAYS["spans"].rows(Source(100))
    hidden = spans = 0
    for number in range(30):
        row = made.row(0, number)
        target = row.targets[row.targets != IGNORED]
        spans += np.isin(target, SENTINELS).sum()
        hidden += len(target) - 1 - np.isin(target, SENTINELS).sum()
    assert hidden == 30 * 15
    assert hidden / spans == 3.0


def test_infilled_spans_are_of_poisson_length():
    """30 % of the tokens; some spans are empty, and their mask is one too many."""
    made = WAYS["infill"].rows(Source(100))
    hidden = masks = empty = 0
    for number in range(30):
        row = made.row(0, number)
        kept = row.source[row.source_documents == 0]
        blanks = (kept == MASK).sum()
        masks += blanks
        hidden += 99 - (len(kept) - blanks)
        spans = np.diff(np.flatnonzero(np.concatenate(([True], kept == MASK, [True]))))
        assert (spans >= 1).all()
        text = Source(100).row(0, number).ids
        empty += sum(
            kept[place + 1] == text[text.tolist().index(kept[place - 1]) + 1]
            for place in np.flatnonzero(kept[:-1] == MASK)
            if place and kept[place - 1] != MASK and (text == kept[place - 1]).sum() == 1
        )
    assert hidden == pytest.approx(30 * 99 * 0.3, rel=0.02)
    assert 2.5 < hidden / masks < 3.5
    assert 0 < empty < masks / 5


@pytest.mark.parametrize("way", WAYS)
def test_the_decoder_reads_its_target_one_late(way):
    for number in range(10):
        row = WAYS[way].rows(Source(60, 40)).row(0, number)
        for piece in (0, 1):
            mine = row.documents == piece
            ids, target = row.ids[mine], row.targets[mine]
            assert ids[0] == START
            assert (ids[1:] == target[:-1]).all()
            assert (row.positions[mine] == np.arange(mine.sum())).all()
        assert (row.targets[row.documents < 0] == IGNORED).all()


def test_damage_is_a_function_of_seed_epoch_and_row():
    source = Source(100)
    one, same, other = (Denoise("spans", SENTINELS, START, END, seed=s) for s in (1, 1, 2))
    a, b, c, d = (
        task.rows(source).row(0, number).source
        for task, number in ((one, 4), (same, 4), (other, 4), (one, 5))
    )
    assert (a == b).all()
    assert not (a == c).all()
    assert not (a == d).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("position", ["relative", "learned"])
def test_packed_documents_have_the_loss_that_they_have_alone(way, position):
    config = ModelConfig(
        vocab_size=200, dim=32, layers=2, heads=4, kv_heads=4, head_dim=8, hidden=64,
        max_positions=128, shape="encoder-decoder", norm="rms_wide", position=position,
        gated=False, activation="relu", scaled=(),
    )  # fmt: skip
    model = build(config, table="gpt2", dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    task = WAYS[way]
    row = task.rows(Source(55, 35)).row(0, 1)
    together = task.loss_sum(model, collate([row]))
    alone = 0.0
    for piece in (0, 1):
        source, target = row.source_documents == piece, row.documents == piece
        single = Row(
            row.ids[target], row.targets[target], row.documents[target] * 0, row.positions[target],
            "alone", row.source[source], row.source_documents[source] * 0,
            row.source_positions[source],
        )  # fmt: skip
        alone += task.loss_sum(model, collate([single]))
    assert torch.isfinite(together)
    assert torch.allclose(together, alone, rtol=1e-9)
    together.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
