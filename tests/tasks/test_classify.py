"""Where a text is judged, and that its neighbours in a row change nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from yantai.core.config import Labels, ModelConfig, RecurrentConfig
from yantai.core.initialise import build
from yantai.data.batch import IGNORED
from yantai.data.examples import batches_of
from yantai.tasks.classify import Classify, classified, judgements
from yantai.tasks.frame import Frame

TEXTS = [
    "One day the baker was glad.",
    "No.",
    "今天下雨。",
    "The old man went home. " * 30,
    "Ivan",
    "",
]
LABELS = [2, 0, 1, 1, 0, 2]
SHAPES = ("decoder", "encoder", "encoder-decoder", "recurrent")


def judge_of(shape, vocab, **head):
    labels = Labels(names=("a", "b", "c"), **head)
    if shape == "recurrent":
        config = RecurrentConfig(
            kind="gru", vocab_size=vocab, dim=16, layers=1, hidden=16, max_positions=64, head=labels
        )
        return build(config, seed=1, table="recurrent")
    config = ModelConfig(
        vocab_size=vocab, dim=16, layers=2, heads=2, kv_heads=2, head_dim=8, hidden=32,
        max_positions=64, shape=shape, head=labels, position="learned",
    )  # fmt: skip
    model = build(config, seed=1, table="gpt2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(params=SHAPES)
def judge(request, tokenizer):
    torch.manual_seed(0)
    model = judge_of(request.param, tokenizer.vocab_size).eval()
    return model, Frame(tokenizer, model.config.shape, 48, start_id=tokenizer.pad_id)


def test_a_text_is_judged_alike_alone_and_among_others(judge):
    model, frame = judge
    together = judgements(model, frame, TEXTS)
    for text, logits in zip(TEXTS, together, strict=True):
        assert torch.allclose(judgements(model, frame, [text])[0], logits, atol=1e-5)
    assert judgements(model, frame, []).shape == (0, 3)


def test_the_loss_is_that_of_the_judgements(judge):
    model, frame = judge
    logits = judgements(model, frame, TEXTS)
    names = [f"row {number}" for number in range(len(TEXTS))]
    rows = frame.rows(classified(frame, TEXTS, LABELS, names), seed=3)
    batches = batches_of(rows, 2)
    assert sum(batch.target_count for batch in batches) == len(TEXTS)
    assert rows.truncated == 1  # of the texts, the one that was repeated
    ours = sum(Classify().loss_sum(model, batch).item() for batch in batches)
    expected = F.cross_entropy(logits, torch.tensor(LABELS), reduction="sum")
    assert ours == pytest.approx(float(expected), rel=1e-5)


def test_smooth_labels_are_for_learning_alone(judge):
    model, frame = judge
    names = [f"row {number}" for number in range(len(TEXTS))]
    (batch,) = batches_of(frame.rows(classified(frame, TEXTS, LABELS, names)), len(TEXTS))
    smooth = Classify(smoothing=0.2)
    measured = smooth.loss_sum(model, batch)
    assert measured.item() == Classify().loss_sum(model, batch).item()
    logits = judgements(model, frame, TEXTS)
    model.train()
    learned = smooth.loss_sum(model, batch)
    expected = F.cross_entropy(logits, torch.tensor(LABELS), reduction="sum", label_smoothing=0.2)
    assert learned.item() == pytest.approx(float(expected), rel=1e-5)
    assert abs(learned.item() - measured.item()) > 1e-4


def test_several_labels_have_a_loss_each(judge):
    model, frame = judge
    truths = np.random.default_rng(0).integers(0, 2, (len(TEXTS), 3)).astype(np.float32)
    rows = frame.rows(classified(frame, TEXTS, range(len(TEXTS)), TEXTS))
    ours = sum(Classify(truths).loss_sum(model, batch).item() for batch in batches_of(rows, 2))
    expected = F.binary_cross_entropy_with_logits(
        judgements(model, frame, TEXTS), torch.from_numpy(truths), reduction="none"
    )
    assert ours == pytest.approx(float(expected.mean(1).sum()), rel=1e-5)


def test_a_text_is_judged_where_all_of_it_was_read(tokenizer):
    for shape, place in (("encoder", 0), ("decoder", -1), ("encoder-decoder", -1)):
        frame = Frame(tokenizer, shape, 48, start_id=tokenizer.pad_id)
        (short,) = classified(frame, TEXTS[:1], [1], ["row 1"])
        (long,) = classified(frame, TEXTS[3:4], [1], ["row 2"])
        for example in (short, long):
            assert list(example.targets).count(IGNORED) == len(example.ids) - 1
            assert example.targets[place] == 1
            read = example.source or example.ids
            assert (read[0], read[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
        assert len(long.ids) == 48
        if shape == "encoder-decoder":
            assert list(short.ids) == [tokenizer.pad_id, *short.source[:-1]]


@pytest.mark.parametrize("head", [{"dense": True}, {"bias": False}])
def test_all_of_the_head_learns(head, tokenizer):
    model = judge_of("encoder", tokenizer.vocab_size, **head)
    frame = Frame(tokenizer, "encoder", 48)
    rows = frame.rows(classified(frame, TEXTS, LABELS, TEXTS))
    Classify().loss_sum(model, batches_of(rows, 8)[0]).backward()
    names = {name for name, _ in model.named_parameters() if name.startswith("head.")}
    wanted = {"head.weight"} | ({"head.bias"} if head.get("bias", True) else set())
    wanted |= {"head.transform.weight", "head.transform.bias"} if "dense" in head else set()
    assert names == wanted
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
