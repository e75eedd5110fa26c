"""The same of every job: a gradient is that of its examples, however they are cut and packed.

Not of `embed`: what is beside a pair in its batch is what the pair is told from, by definition.
"""

import numpy as np
import pytest
import torch

from yantai.core.config import Labels, ModelConfig
from yantai.core.initialise import build
from yantai.data.batch import IGNORED, collate
from yantai.data.examples import Example, ExampleRows
from yantai.tasks.causal import Causal
from yantai.tasks.classify import Classify
from yantai.tasks.prefer import Prefer
from yantai.tasks.span import SpanTask
from yantai.tasks.tag import Tag
from yantai.training.nudge import Nudge

VOCAB, LENGTH, COUNT = 40, 24, 8
SEVERAL = np.random.default_rng(0).integers(0, 2, (COUNT, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(shape, names=(), seed=1):
    fields = {
        "vocab_size": VOCAB, "dim": 16, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 8,
        "hidden": 24, "max_positions": LENGTH, "shape": shape,
    }  # fmt: skip
    head = {"head": Labels(names=names)} if names else {}
    return build(ModelConfig(**fields | head), seed=seed, table="gpt2", dtype=torch.float64)


def text(dice, number):
    return dice.integers(0, VOCAB, (5, 12, 9, 24, 3, 7, 17, 11)[number]).tolist()


def judged(dice, number):
    ids = text(dice, number)
    target = int(dice.integers(3))
    return Example(ids, [target] + [IGNORED] * (len(ids) - 1), f"text {number}")


def judged_several(dice, number):
    ids = text(dice, number)
    return Example(ids, [number] + [IGNORED] * (len(ids) - 1), f"text {number}")


def marked(dice, number):
    ids = text(dice, number)
    return Example(ids, [IGNORED, *dice.integers(0, 3, len(ids) - 1).tolist()], f"text {number}")


def asked(dice, number):
    ids = text(dice, number)
    first, last = sorted(dice.integers(0, len(ids), 2).tolist())
    return Example(ids, [first * LENGTH + last] + [IGNORED] * (len(ids) - 1), f"text {number}")


def answered(dice, number):
    ids, target = text(dice, number), text(dice, COUNT - 1 - number)
    return Example([0, *target[:-1]], target, f"pair {number}", ids)


def told(dice, number):
    ids = text(dice, number)
    return Example.of_text(ids, [place > 1 for place in range(len(ids))], f"text {number}")


def preferred(dice, number):
    sides = [dice.integers(0, VOCAB, int(size)).tolist() for size in dice.integers(3, 12, 2)]
    targets = [[IGNORED, *side[1:-1], 1] for side in sides]
    return Example(sides[0] + sides[1], targets[0] + targets[1], f"{number}", border=len(sides[0]))


JOBS = {
    "classify": (lambda: Classify(), judged, "encoder", ("a", "b", "c")),
    "classify, several": (lambda: Classify(SEVERAL), judged_several, "encoder", ("a", "b", "c")),
    "tag": (lambda: Tag(), marked, "encoder", ("O", "B-x", "I-x")),
    "span": (lambda: SpanTask(LENGTH), asked, "encoder", ("start", "end")),
    "translate": (lambda: Causal(name="translate"), answered, "encoder-decoder", ()),
    "chat": (lambda: Causal(), told, "decoder", ()),
    "prefer": (lambda: Prefer(built("decoder", seed=2)), preferred, "decoder", ()),
}


def examples_of(make):
    dice = np.random.default_rng(3)
    return [make(dice, number) for number in range(COUNT)]


def rows_of(examples, shape, seed):
    source = LENGTH if shape == "encoder-decoder" else None
    rows = ExampleRows(examples, LENGTH, source_length=source, seed=seed)
    return [rows.row(0, index) for index in range(rows.rows_in_epoch(0))]


def gradients(job, rows, batch, adversarial=0.0):
    """Gradient of the mean over all that is to be learned, batch after batch, in float64."""
    make_task, _, shape, names = JOBS[job]
    model, task = built(shape, names), make_task()
    batches = [collate(rows[start : start + batch]) for start in range(0, len(rows), batch)]
    count = sum(task.count(each) for each in batches)
    total, nudge = 0.0, Nudge(model.embed, adversarial)
    for around in nudge.passes:
        for each in batches:
            with around():
                loss = task.loss_sum(model, each) / count
                loss.backward()
            total += float(loss.detach())
    return total, {name: item.grad for name, item in model.named_parameters()}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(("batch", "adversarial"), [(1, 0), (3, 0), (8, 0), (3, 0.5)])
def test_gradients_of_a_job_do_not_depend_on_the_cut(job, batch, adversarial):
    _, make, shape, _ = JOBS[job]
    examples = examples_of(make)
    alone = [row for example in examples for row in rows_of([example], shape, 0)]
    assert len(alone) == COUNT
    loss, expected = gradients(job, alone, COUNT, adversarial)
    for seed in (0, 1):
        packed = rows_of(examples, shape, seed)
        assert len(packed) < COUNT
        got_loss, got = gradients(job, packed, batch, adversarial)
        assert got_loss == pytest.approx(loss, rel=1e-9)
        for name, gradient in expected.items():
            if gradient is None:
                assert got[name] is None, name
                continue
            difference = (got[name] - gradient).norm()
            assert difference <= 1e-6 * gradient.norm() + 1e-12, name
    assert any(gradient is not None and gradient.norm() > 1e-3 for gradient in expected.values())
