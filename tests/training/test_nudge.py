"""Vectors that are moved against a model raise its loss, each text by itself."""

import numpy as np
import pytest
import torch

from yantai.core.config import Labels, ModelConfig
from yantai.core.initialise import build
from yantai.data.batch import IGNORED, collate
from yantai.data.examples import Example, ExampleRows
from yantai.tasks.causal import Causal
from yantai.tasks.classify import Classify
from yantai.training.nudge import Nudge

LENGTH = 24


def built(shape="encoder", **changes):
    """A small model in float64."""
    fields = {
        "vocab_size": 40, "dim": 16, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 8,
        "hidden": 24, "max_positions": LENGTH, "shape": shape,
    }  # fmt: skip
    head = {"head": Labels(names=("a", "b", "c"))} if shape == "encoder" else {}
    return build(ModelConfig(**fields | head | changes), seed=1, table="gpt2", dtype=torch.float64)


def packed(seed=0):
    """Texts of other lengths, in two rows."""
    dice = np.random.default_rng(seed)
    examples = []
    for number, size in enumerate((5, 9, 7, 12)):
        ids = dice.integers(0, 40, size).tolist()
        targets = [int(dice.integers(3))] + [IGNORED] * (size - 1)
        examples.append(Example(ids, targets, f"text {number}"))
    rows = ExampleRows(examples, LENGTH)
    return collate([rows.row(0, index) for index in range(rows.rows_in_epoch(0))])


def losses(model, task, batches, size):
    """Of each batch, as it is and then moved; and the vectors as they entered."""
    found, entered, nudge = [], [], Nudge(model.embed, size)
    for around in (nudge.noted, nudge.moved):
        for batch in batches:
            with (
                around(),
                model.embed.register_forward_hook(
                    lambda _, args, vectors: entered.append(vectors.detach())
                ),
            ):
                loss = task.loss_sum(model, batch)
                (loss / 2).backward()
            found.append(float(loss.detach()))
    return found, entered


@pytest.mark.parametrize("size", [0.01, 0.1])
def test_the_loss_of_moved_vectors_is_higher(size):
    (first, second), _ = losses(built(), Classify(), [packed()], size)
    assert second > first


def test_the_step_is_moved_as_far_as_was_said_and_hard_texts_farther():
    """Over both batches together, tokens alone."""
    model, batches = built(), [packed(), packed(seed=1)]
    _, (one, two, one_moved, two_moved) = losses(model, Classify(), batches, 0.25)
    far = torch.cat([(one_moved - one).flatten(0, 1), (two_moved - two).flatten(0, 1)])
    tokens = torch.cat([batch.documents.flatten() for batch in batches]) >= 0
    length = float(model.embed.tokens.weight.detach().square().mean().sqrt())
    assert float(far[tokens].square().mean().sqrt()) == pytest.approx(0.25 * length)
    assert not far[~tokens].any()
    steps = far[tokens].square().mean(-1).sqrt()
    assert steps.max() > 1.5 * steps.min()


def test_the_gradient_is_the_mean_of_both():
    model, task, batch = built(), Classify(), packed()
    _, (before, after) = losses(model, task, [batch], 0.25)
    got = {name: item.grad.clone() for name, item in model.named_parameters()}
    model.zero_grad()
    task.loss_sum(model, batch).backward()
    with model.embed.register_forward_hook(lambda _, args, vectors: vectors + (after - before)):
        task.loss_sum(model, batch).backward()
    for name, item in model.named_parameters():
        torch.testing.assert_close(got[name], item.grad / 2)


def test_both_sides_of_an_encoder_and_decoder_are_moved():
    model = built("encoder-decoder")
    example = Example([0, 4, 5], [4, 5, 1], "pair", [7, 8, 9, 3])
    rows = ExampleRows([example], LENGTH, source_length=LENGTH)
    (first, second), entered = losses(model, Causal(), [collate([rows.row(0, 0)])], 0.1)
    assert second > first and len(entered) == 4
    assert all(bool((entered[side + 2] != entered[side]).any()) for side in (0, 1))


def test_an_embedding_that_learns_nothing_is_moved_all_the_same():
    model = built()
    model.embed.requires_grad_(False)
    (first, second), _ = losses(model, Classify(), [packed()], 0.1)
    assert second > first
    assert model.embed.tokens.weight.grad is None
    assert not model.embed._forward_hooks


def test_hooks_are_gone_when_a_loss_fails():
    model = built()
    with pytest.raises(ZeroDivisionError), Nudge(model.embed, 0.1).noted():
        raise ZeroDivisionError
    assert not model.embed._forward_hooks
