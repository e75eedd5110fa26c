"""Adapters begin as nothing, learn alone, and can be folded away."""

import pytest
import torch

from yantai.adapt.lora import LoRA, LowRank, adapters, add_lora, merge
from yantai.base.errors import UsageError
from yantai.core.config import Labels

SHAPES = ("decoder", "encoder", "encoder-decoder")


def answer(model, ids):
    if model.config.shape == "encoder-decoder":
        return model(ids.flip(1), memory=model.encode(ids))
    return model(ids)


@pytest.fixture(params=SHAPES)
def model(request, some_model):
    torch.manual_seed(0)
    return some_model(request.param)


IDS = torch.arange(1, 13)[None]


def shake(model):
    with torch.no_grad():
        for _, module in adapters(model):
            module.lora_b.normal_(0, 0.3)


def test_a_fresh_adapter_changes_no_bit(model):
    before = answer(model, IDS)
    add_lora(model, LoRA(rank=4))
    assert torch.equal(answer(model, IDS), before)
    assert len(list(adapters(model))) > 0


def test_folded_adapters_compute_the_same(model):
    add_lora(model, LoRA(rank=4, alpha=3, stabilised=True))
    plain = answer(model, IDS)
    shake(model)
    adapted = answer(model, IDS)
    assert (adapted - plain).abs().max() > 1e-3
    merged = answer(merge(model), IDS)
    assert torch.allclose(merged, adapted, atol=1e-12)
    assert not any(isinstance(module, LowRank) for module in model.modules())


def test_only_adapters_learn_and_a_head_of_labels(some_model):
    model = add_lora(some_model(head=Labels(names=("a", "b"))), LoRA(rank=2, targets=("q", "v")))
    learning = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {name.rpartition(".")[2] for name in learning if ".blocks." in name} == {
        "lora_a", "lora_b",
    }  # fmt: skip
    assert {name for name in learning if ".blocks." not in name} == {"head.weight", "head.bias"}
    assert {name.split(".")[-2] for name in learning if ".blocks." in name} == {"q", "v"}
    answer(model, IDS).sum().backward()
    assert model.embed.tokens.weight.grad is None


def test_the_scale_of_either_kind():
    assert LoRA(rank=16, alpha=32).scale == 2.0
    assert LoRA(rank=16, alpha=32, stabilised=True).scale == 8.0


def test_a_seed_decides_a(some_model):
    first, same, other = (add_lora(some_model(), LoRA(), seed=seed) for seed in (1, 1, 2))
    a, b, c = (dict(adapters(each)) for each in (first, same, other))
    assert all(torch.equal(a[name].lora_a, b[name].lora_a) for name in a)
    assert not any(torch.equal(a[name].lora_a, c[name].lora_a) for name in a)


def test_a_matrix_that_is_not_there_is_named(some_model):
    with pytest.raises(UsageError, match="no matrix 'gates'"):
        add_lora(some_model(), LoRA(targets=("gates",)))
