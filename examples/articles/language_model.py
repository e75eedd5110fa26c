"""A stack of causal blocks by its sizes, with sines and cosines for positions, on real text.

python examples/articles/language_model.py TEXT
"""

import sys
from pathlib import Path

import torch

from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.core.model import Transformer
from yantai.text.tokenizer import Tokenizer


def transformer_model(
    ntoken: int, ninp: int, nhead: int, nhid: int, nlayers: int, dropout: float = 0.5
) -> Transformer:
    """A decoder of so many blocks; first weights of embedding and head within ±0.1."""
    config = ModelConfig(
        vocab_size=ntoken, dim=ninp, layers=nlayers, heads=nhead, kv_heads=nhead,
        head_dim=ninp // nhead, hidden=nhid, dropout=dropout, max_positions=512, norm="layer",
        norm_where="after", position="sinusoidal", gated=False, activation="relu", tied=False,
        biases=("head", "mlp", "out", "qkv"), scaled=("embedding", "scores"),
    )  # fmt: skip
    model = build(config, table="gpt2")
    assert isinstance(model, Transformer) and model.head.bias is not None
    with torch.no_grad():
        model.embed.tokens.weight.uniform_(-0.1, 0.1)
        model.head.weight.uniform_(-0.1, 0.1)
        model.head.bias.zero_()
    return model


def main(path: str, steps: int = 200) -> tuple[float, float]:
    """Train on a text file; returns the first loss and the last."""
    text = Path(path).read_text(encoding="utf-8")
    tokenizer = Tokenizer.train(text.splitlines(), 1000)
    data = torch.tensor(tokenizer.encode(text))
    torch.manual_seed(0)
    model = transformer_model(tokenizer.vocab_size, 64, nhead=2, nhid=128, nlayers=2, dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(data) - 65, (16,)).tolist()
        rows = torch.stack([data[start : start + 65] for start in starts])
        loss = model.loss_sum(rows[:, :-1], rows[:, 1:]) / rows[:, 1:].numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(f"{losses[0]:.2f} → {losses[-1]:.2f} nats a token")
    return losses[0], losses[-1]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
