import numpy as np
import pytest
import torch

from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.data.batch import IGNORED, Row, collate
from yantai.tasks.masked import Masked

MASK = 1
ORDINARY = np.arange(5, 200)


class Source:
    """Rows of random text in two documents, with a special token and padding at the end."""

    def rows_in_epoch(self, epoch):
        return 40

    def row(self, epoch, index):
        ids = np.random.default_rng(index).integers(5, 200, 128)
        ids[[0, 60]] = 2
        documents = np.repeat([0, 1, -1], [60, 58, 10])
        ids[118:] = 0
        return Row(ids, ids, documents, np.arange(128), f"row {index}")


def rows(task, epoch=0):
    source = Source()
    made = task.rows(source)
    assert made.rows_in_epoch(epoch) == 40
    return [(source.row(epoch, n), made.row(epoch, n)) for n in range(40)]


def test_15_percent_are_hidden_80_10_10():
    chosen = hidden = other = kept = 0
    for plain, made in rows(Masked(MASK, ORDINARY)):
        places = made.targets != IGNORED
        assert (made.targets[places] == plain.ids[places]).all()
        assert (made.ids[~places] == plain.ids[~places]).all()
        chosen += places.sum()
        hidden += (made.ids[places] == MASK).sum()
        kept += (made.ids[places] == plain.ids[places]).sum()
        other += ((made.ids != MASK) & (made.ids != plain.ids))[places].sum()
    assert chosen == 40 * round(0.15 * 116)  # 118 tokens, two of them special
    assert hidden / chosen == pytest.approx(0.8, abs=0.06)
    assert kept / chosen == pytest.approx(0.1, abs=0.05)
    assert other / chosen == pytest.approx(0.1, abs=0.05)


def test_special_tokens_and_padding_are_never_chosen():
    for _, made in rows(Masked(MASK, ORDINARY, share=0.9)):
        assert (made.targets[[0, 60]] == IGNORED).all()
        assert (made.targets[118:] == IGNORED).all()


def test_the_choice_is_a_function_of_seed_epoch_and_row():
    first, again = (rows(Masked(MASK, ORDINARY, seed=3)) for _ in range(2))
    for (_, a), (_, b) in zip(first, again, strict=True):
        assert (a.ids == b.ids).all()
    for other in (rows(Masked(MASK, ORDINARY, seed=4)), rows(Masked(MASK, ORDINARY, seed=3), 1)):
        assert any((a.ids != b.ids).any() for (_, a), (_, b) in zip(first, other, strict=True))


def test_whole_words_are_chosen_together():
    task = Masked(MASK, ORDINARY, words=lambda ids: [place // 3 for place in range(len(ids))])
    for _, made in rows(task):
        chosen = made.targets != IGNORED
        for word in range(1, 19):
            assert chosen[3 * word : 3 * word + 3].sum() in (0, 3)
        assert 15 <= chosen.sum() <= 17  # as many whole words as fit into 15 %


def test_the_loss_is_that_of_the_hidden_tokens_alone_and_its_gradient_too():
    config = ModelConfig(
        vocab_size=200, dim=32, layers=2, heads=4, kv_heads=4, head_dim=8, hidden=64,
        max_positions=128, shape="encoder", norm="layer", norm_where="after", norm_embedding=True,
        position="learned", token_types=2, head="transformed", gated=False, activation="gelu",
        biases=("head", "mlp", "out", "qkv"),
    )  # fmt: skip
    model = build(config, table="gpt2", dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    task = Masked(MASK, ORDINARY)
    batch = collate([made for _, made in rows(task)[:3]])
    ours = task.loss_sum(model, batch)
    found = torch.autograd.grad(ours, list(model.parameters()))
    from yantai.core.mask import same_document

    logits = model(batch.ids, mask=same_document(batch.documents), positions=batch.positions)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    assert torch.allclose(ours, expected, rtol=1e-12)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-9)
