"""Two texts that are compared: preferences and similar texts, packed or alone."""

import copy

import pytest
import torch
import torch.nn.functional as F

from yantai.data.batch import IGNORED
from yantai.data.examples import Example, ExampleRows, batches_of
from yantai.tasks.prefer import Prefer
from yantai.tasks.similar import Similar

PAIRS = [([1, 5, 6, 7], [1, 5, 9]), ([1, 8, 8, 3, 2], [1, 8, 4, 4, 4, 2]), ([1, 3], [1, 7, 7])]


def batches(length=16, size=2):
    """The first token of each text is its prompt."""
    examples = [
        Example(
            one[:-1] + two[:-1], one[1:] + two[1:], f"row {number}", border=len(one) - 1
        )
        for number, (one, two) in enumerate(PAIRS)
    ]  # fmt: skip
    return batches_of(ExampleRows(examples, length), size)


def log_chance(model, ids):
    logs = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    return logs.gather(1, torch.tensor(ids[1:])[:, None]).sum()


def test_a_preference_is_learned_against_the_model_before(some_model):
    torch.manual_seed(0)
    before, model = some_model("decoder"), some_model("decoder")
    task = Prefer(before, beta=0.3)
    expected = 0.0
    for one, two in PAIRS:
        with torch.no_grad():
            gained = [log_chance(model, ids) - log_chance(before, ids) for ids in (one, two)]
        expected -= F.logsigmoid(0.3 * (gained[0] - gained[1])).item()
    found = sum(task.loss_sum(model, batch).item() for batch in batches())
    assert found == pytest.approx(expected, rel=1e-5)
    assert sum(task.count(batch) for batch in batches()) == len(PAIRS)
    same = Prefer(copy.deepcopy(model))
    (batch,) = batches(length=40)
    loss = same.loss_sum(model, batch)
    assert loss.item() == pytest.approx(len(PAIRS) * F.softplus(torch.tensor(0.0)).item())
    loss.backward()
    assert all(each.grad is None for each in same.reference.parameters())


@pytest.mark.parametrize("shape", ["encoder", "decoder"])
def test_similar_texts_are_compared_with_all_of_the_batch(shape, some_model):
    torch.manual_seed(0)
    model, task = some_model(shape), Similar(temperature=0.1)
    vectors = []
    for pair in PAIRS:
        for text in pair:
            with torch.no_grad():
                vectors.append(
                    F.normalize(model.hidden(torch.tensor([text[:-1]]))[0].mean(0), dim=0)
                )
    (batch,) = batches(length=40)
    together = task.vectors(model, batch)
    order = [name.split()[-1] for name in batch.names[0].split(", ")]
    expected = torch.stack([vectors[2 * int(number) + side] for number in order for side in (0, 1)])
    assert torch.allclose(together, expected.float(), atol=1e-5)
    scores = expected[0::2] @ expected[1::2].t() / 0.1
    own = torch.arange(len(PAIRS))
    loss = (F.cross_entropy(scores, own) + F.cross_entropy(scores.t(), own)) / 2 * len(PAIRS)
    assert task.loss_sum(model, batch).item() == pytest.approx(loss.item(), rel=1e-4)
    assert task.count(batch) == len(PAIRS)
    assert (batch.targets[batch.documents < 0] == IGNORED).all()
