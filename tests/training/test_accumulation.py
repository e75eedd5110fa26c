"""However a step is cut into batches and rows, its gradient is that of all its targets."""

import numpy as np
import pytest
import torch

from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.core.mask import same_document
from yantai.data.batch import IGNORED, Row, collate
from yantai.data.pack import first_fit, pad
from yantai.tasks.causal import Causal

VOCAB, LENGTH = 40, 24


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**changes):
    fields = {
        "vocab_size": VOCAB,
        "dim": 16,
        "layers": 2,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 8,
        "hidden": 24,
        "max_positions": LENGTH,
    }
    return ModelConfig(**(fields | changes))


KINDS = {
    "rotary": {},
    "learned positions": {"position": "learned", "norm": "layer", "biases": ("qkv",)},
    "untied, capped": {"tied": False, "softcap": 5.0, "qk_norm": True, "window": 5},
}


def documents():
    dice = np.random.default_rng(3)
    return [dice.integers(0, VOCAB, size) for size in (5, 12, 9, 24, 3, 7, 17, 11)]


def rows_of(bins):
    """Rows of whole documents, padded; the target of a document's last token is ignored."""
    made = []
    for number, members in enumerate(bins):
        parts = [documents()[member] for member in members]
        ids = np.concatenate(parts)
        targets = np.concatenate([np.append(part[1:], IGNORED) for part in parts])
        which = np.concatenate([np.full(len(part), n) for n, part in enumerate(parts)])
        places = np.concatenate([np.arange(len(part)) for part in parts])
        made.append(pad(Row(ids, targets, which, places, f"row {number}"), LENGTH))
    return made


def gradients(kind, bins, batch):
    """Gradient of the mean over all targets, batch after batch, in float64."""
    model = build(config(**KINDS[kind]), seed=1, table="gpt2", dtype=torch.float64)
    rows = rows_of(bins)
    batches = [collate(rows[start : start + batch]) for start in range(0, len(rows), batch)]
    targets = sum(each.target_count for each in batches)
    total = 0.0
    for each in batches:
        loss = Causal().loss_sum(model, each) / targets
        loss.backward()
        total += float(loss.detach())
    return total, {name: item.grad for name, item in model.named_parameters()}


ALONE = [[n] for n in range(8)]
PACKED = first_fit(list(range(8)), lambda n: len(documents()[n]), LENGTH)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("bins", [ALONE, PACKED, PACKED[::-1]], ids=["alone", "packed", "turned"])
def test_gradients_do_not_depend_on_the_cut(kind, batch, bins):
    assert len(PACKED) < len(ALONE)
    loss, expected = gradients(kind, ALONE, 8)
    got_loss, got = gradients(kind, bins, batch)
    assert got_loss == pytest.approx(loss, abs=1e-9)
    for name, gradient in expected.items():
        assert torch.allclose(got[name], gradient, rtol=1e-6, atol=1e-9), name
        assert gradient.abs().max() > 0, name


def test_a_border_that_is_forgotten_would_be_noticed():
    """The same rows with one document each in name: attention crosses, the loss differs."""
    rows = rows_of(PACKED)
    joined = [Row(r.ids, r.targets, r.documents * 0, r.positions, r.name) for r in rows]
    crossing = collate(joined)
    model = build(config(), seed=1, table="gpt2", dtype=torch.float64)
    mask = same_document(collate(rows).documents)
    right = model.loss_sum(crossing.ids, crossing.targets, mask, crossing.positions)
    wrong = Causal().loss_sum(model, crossing)
    assert abs(float((right - wrong).detach())) > 1e-6
