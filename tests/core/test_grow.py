"""New rows behind old ones: what the model knew stays, to the bit."""

import pytest
import torch

from yantai.core.config import ModelConfig
from yantai.core.grow import grow_vocabulary
from yantai.core.initialise import build

SHAPE = {
    "vocab_size": 20, "dim": 8, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 4,
    "hidden": 16, "max_positions": 16,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{"tied": True}, {"tied": False, "biases": ("head",)}])
def test_old_logits_stay_and_new_rows_begin_as_means(changes):
    model = build(ModelConfig(**SHAPE | changes), seed=1, table="gpt2")
    if model.head.bias is not None:
        torch.nn.init.normal_(model.head.bias)
    grown = grow_vocabulary(model, 23, {20: [3, 5], 21: [], 22: [7]})
    ids = torch.tensor([[1, 4, 19, 2]])
    before, after = model(ids), grown(ids)
    assert torch.equal(after[..., :20], before)
    assert torch.allclose(after[..., 20], before[..., [3, 5]].mean(-1), atol=1e-6)
    assert torch.allclose(after[..., 21], before.mean(-1), atol=1e-6)
    assert torch.allclose(after[..., 22], before[..., 7], atol=1e-6)
    assert (grown.head.weight is grown.embed.tokens.weight) == changes["tied"]


def test_rows_that_were_padding_are_used_first():
    model = build(ModelConfig(**SHAPE), seed=1)
    grown = grow_vocabulary(model, 19, {18: [2]})
    assert grown.config.vocab_size == 20
    weight = grown.embed.tokens.weight
    assert torch.equal(weight[18], model.embed.tokens.weight[2])
    assert torch.equal(weight[19], model.embed.tokens.weight[19])
