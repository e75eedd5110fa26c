"""The Transformer of the first paper (arXiv 1706.03762) by its sizes; it learns to write backwards.

python examples/articles/transformer.py
"""

import torch

from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.core.model import Transformer


def transformer(
    vocab_size: int, d_model: int, N: int, heads: int, d_head: int, d_ff: int, dropout: float
) -> Transformer:
    """An encoder and a decoder of N blocks each."""
    config = ModelConfig(
        shape="encoder-decoder", vocab_size=vocab_size, dim=d_model, layers=N, heads=heads,
        kv_heads=heads, head_dim=d_head, hidden=d_ff, dropout=dropout, max_positions=512,
        norm="layer", norm_where="after", position="sinusoidal", gated=False, activation="relu",
        biases=("head", "mlp", "out", "qkv"), scaled=("embedding", "scores"),
    )  # fmt: skip
    model = build(config, table="gpt2")
    assert isinstance(model, Transformer)
    return model


def main(steps: int = 300) -> tuple[float, float]:
    """Train; returns the first loss and the last."""
    torch.manual_seed(0)
    model = transformer(20, d_model=64, N=2, heads=4, d_head=16, d_ff=128, dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        source = torch.randint(1, 20, (32, 8))
        target = source.flip(1)
        read = torch.nn.functional.pad(target, (1, 0))[:, :-1]  # 0 begins
        hidden = model.hidden(read, memory=model.encode(source))
        loss = model.loss_of(hidden, target) / target.numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(f"{losses[0]:.2f} → {losses[-1]:.2f} nats a token")
    return losses[0], losses[-1]


if __name__ == "__main__":
    main()
