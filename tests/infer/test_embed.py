"""Vectors of texts: whatever stands beside a text changes nothing in its vector."""

import pytest
import torch

import yantai
from yantai.base.errors import UsageError
from yantai.core.config import ModelConfig, RecurrentConfig
from yantai.core.initialise import build
from yantai.families.table import family_named
from yantai.infer.embed import embed
from yantai.infer.language_model import LanguageModel

SIZES = {
    "dim": 32, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 8, "hidden": 64,
    "max_positions": 48,
}  # fmt: skip
TEXTS = [
    "The miller walked home.",
    "天气很好。",
    "A dog",
    "The miller walked home by the river " * 3,
]


@pytest.fixture(params=["decoder", "encoder", "encoder-decoder", "lstm"])
def model(request, tokenizer):
    sizes = {"vocab_size": tokenizer.vocab_size}
    if request.param == "lstm":
        config = RecurrentConfig(
            kind="lstm", dim=32, hidden=32, layers=1, max_positions=48, **sizes
        )
        network = build(config, table="recurrent", seed=1)
    else:
        network = build(ModelConfig(shape=request.param, **SIZES | sizes), table="gpt2", seed=1)
    return LanguageModel(network, family_named("llama"), tokenizer)


def test_a_vector_is_the_mean_of_its_own_tokens(model):
    vectors = yantai.embed(model, TEXTS)
    assert vectors.shape == (4, 32)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-5)
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor([model.tokenizer.prompt(text)[:48]])
        network = model.network
        hidden = network.hidden(ids) if model.shape == "decoder" else network.encode(ids).hidden
        mean = hidden[0].mean(0)
        assert torch.allclose(vector, mean / mean.norm(), atol=1e-5)
        assert torch.allclose(embed(model, text)[0], vector, atol=1e-5)


def test_an_empty_text_is_an_error(model):
    with pytest.raises(UsageError, match=r"inputs\[1\]"):
        embed(model, ["x", ""])
