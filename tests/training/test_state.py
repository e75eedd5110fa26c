import json

import numpy as np
import pytest
import torch
from torch import nn

from yantai.base.errors import UsageError
from yantai.training.optim import Average, Optimizer
from yantai.training.plan import Horizon
from yantai.training.state import Progress, differences, gather, load_tensors, to_arrays
from yantai.training.store import Store
from yantai.training.watch import SpikeWatch


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.decoder = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(width, 6)])})
        self.out = nn.Linear(6, 2)


def parts(width=4, seed=0):
    torch.manual_seed(seed)
    model = Net(width)
    optimizer = Optimizer(model, "muon", rate=0.1, matrix_rate=0.1, weight_decay=0.1)
    return model, optimizer, Average(model, 0.9)


def save(tmp_path, tensors):
    store = Store(tmp_path, "mine", say=lambda line: None)
    store.save(1, to_arrays(tensors), {})
    return store.newest()


def test_all_tensors_of_a_run_come_back(tmp_path):
    first = gather(*parts(seed=1))
    for number, tensor in enumerate(first.values()):
        tensor.uniform_(number, number + 1)
    second_parts = parts(seed=2)
    second = gather(*second_parts)
    load_tensors(save(tmp_path, first), second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert torch.equal(second_parts[0].out.weight, first["weight.out.weight"])


def test_every_tensor_that_an_optimiser_remembers_is_saved():
    model, optimizer, average = parts()
    names = set(gather(model, optimizer, average))
    count = len(list(model.parameters()))
    assert len([name for name in names if name.startswith("weight.")]) == count
    assert len([name for name in names if name.startswith("average.")]) == count
    assert len(names) == 2 * count + len(optimizer.tensors())
    assert len(optimizer.tensors()) == 1 + 2 * 3  # one matrix in a block; three others twice


def test_arrays_share_the_memory_of_a_cpu_tensor():
    tensor = torch.zeros(3)
    arrays = to_arrays({"a": tensor})
    tensor.fill_(2.0)
    assert np.array_equal(arrays["a"], [2.0, 2.0, 2.0])


@pytest.mark.parametrize("change", ["another width", "one more", "one less", "another type"])
def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path, change):
    """A smaller tensor would be spread over the larger one without a word."""
    tensors = gather(*parts(width=1 if change == "another width" else 4))
    if change == "one more":
        tensors["weight.extra"] = torch.zeros(2)
    elif change == "one less":
        del tensors["weight.out.bias"]
    elif change == "another type":
        tensors["weight.out.bias"] = tensors["weight.out.bias"].double()
    checkpoint = save(tmp_path, tensors)
    own = gather(*parts())
    with pytest.raises(UsageError) as caught:
        load_tensors(checkpoint, own)
    assert caught.value.code == "E205"
    named = {"another width": "blocks.0.weight", "one more": "weight.extra"}
    assert named.get(change, "weight.out.bias") in str(caught.value)


def progress():
    return Progress(Horizon(seconds=60.0), SpikeWatch())


def test_progress_goes_through_json_and_back():
    old = progress()
    old.step, old.tokens, old.seconds, old.best_loss, old.best_step = 7, 900, 1.5, 1 / 3, 6
    old.horizon.decisions = [[8, 100], [20, 90]]
    old.spikes.recent, old.spikes.passed = [0.1, 0.2], [3]
    new = progress()
    new.spikes.passed = [5]  # passed before it went back
    new.load(json.loads(json.dumps(old.state())))
    assert new.spikes.passed == [3, 5]
    new.spikes.passed = [3]
    assert new.state() == old.state()


def test_a_loaded_progress_shares_nothing_with_the_file():
    state = progress().state()
    new = progress()
    new.load(state)
    new.spikes.is_spike(1.0, 0)
    new.horizon.decisions.append([8, 9])
    assert state["spikes"]["recent"] == []
    assert state["horizon"]["decisions"] == []


def test_differences_are_found_at_any_depth():
    old = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "gone": 4, "kind": {"x": 1}}
    new = {"a": 1, "b": {"c": 5, "d": {"e": 6}}, "new": 7, "kind": 8}
    assert differences(old, new) == [
        ("b.c", 2, 5),
        ("b.d.e", 3, 6),
        ("gone", 4, None),
        ("kind", {"x": 1}, 8),
        ("new", None, 7),
    ]
    assert differences(old, old) == []
