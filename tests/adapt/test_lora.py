"""Adapters begin as nothing, learn alone, and can be folded away."""

import pytest
import torch

from yantai.adapt.lora import LoRA, LowRank, adapters, add_lora, merge
from yantai.base.errors import UsageError
from yantai.core.config import Labels, ModelConfig
from yantai.core.initialise import build

SHAPES = ("decoder", "encoder", "encoder-decoder")


def model_of(shape="decoder", **changes):
    config = ModelConfig(
        vocab_size=50, dim=16, layers=2, heads=2, kv_heads=1, head_dim=8, hidden=24,
        max_positions=32, shape=shape, **changes,
    )  # fmt: skip
    model = build(config, seed=1, table="gpt2", dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def answer(model, ids):
    if model.config.shape == "encoder-decoder":
        return model(ids.flip(1), memory=model.encode(ids))
    return model(ids)


@pytest.fixture(params=SHAPES)
def model(request):
    torch.manual_seed(0)
    return model_of(request.param)


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


def test_only_adapters_learn_and_a_head_of_labels():
    model = add_lora(model_of(head=Labels(names=("a", "b"))), LoRA(rank=2, targets=("q", "v")))
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


def test_a_seed_decides_a():
    first, same, other = (add_lora(model_of(), LoRA(), seed=seed) for seed in (1, 1, 2))
    a, b, c = (dict(adapters(each)) for each in (first, same, other))
    assert all(torch.equal(a[name].lora_a, b[name].lora_a) for name in a)
    assert not any(torch.equal(a[name].lora_a, c[name].lora_a) for name in a)


def test_a_matrix_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="no matrix 'gates'"):
        add_lora(model_of(), LoRA(targets=("gates",)))
