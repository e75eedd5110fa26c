"""Small decoders of every kind that a compiled step knows, for whoever compares steps."""

import torch

from yantai.adapt.packed import Form
from yantai.adapt.quantize import quantize
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.infer.generate import prepare

LLAMA = {
    "vocab_size": 210, "dim": 48, "layers": 3, "heads": 6, "kv_heads": 2, "head_dim": 16,
    "hidden": 80, "max_positions": 64,
}  # fmt: skip
CONFIGS = {
    "llama": {},
    "qwen3": {"qk_norm": True, "head_dim": 24, "tied": False},
    "qwen2": {"biases": ("qkv",)},
    "gpt2": {
        "norm": "layer", "position": "learned", "gated": False, "activation": "gelu_tanh",
        "biases": ("qkv", "out", "mlp"), "kv_heads": 6,
    },
    "odd sizes": {"dim": 37, "head_dim": 10, "hidden": 51, "vocab_size": 101},
    "wide heads": {"head_dim": 80, "dim": 130},
    "window": {"window": 5},
    "softcap": {"softcap": 3.0, "vocab_size": 77},
    "unscaled": {"scaled": ()},
    "no positions": {"position": "none"},
    "gelu": {"activation": "gelu"},
    "relu": {"activation": "relu", "gated": False},
    "relu squared": {"activation": "relu_squared", "gated": False},
}  # fmt: skip


def model_of(changes, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    model = build(ModelConfig(**(LLAMA | changes)), seed=seed)
    with torch.no_grad():  # biases and norms that differ from 0 and 1, projections that matter
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return prepare(model.to(dtype))


EVEN = {"dim": 64, "hidden": 192, "heads": 4, "kv_heads": 2, "vocab_size": 210}
FORMS = [Form(8, 32), Form(8, 64), Form(4, 32), Form(4, 64)]


def packed_of(changes, form, dtype=torch.float32):
    torch.manual_seed(0)
    model = build(ModelConfig(**(LLAMA | EVEN | changes)), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model = model.to(dtype)
    quantize(model, form)
    return prepare(model)
