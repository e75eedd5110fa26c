"""The opponents: a plain GPT as the well-known small trainers write it.

Knows: one model, written the usual way — a residual stack of LayerNorm, one q-k-v product, torch's
scaled_dot_product_attention, GELU — in float32 with optional bfloat16 autocast. It is here so that
every speed and quality claim has somebody to be measured against in the same process.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class PlainBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, dim: int, heads: int, bias: bool, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim, bias=bias), nn.LayerNorm(dim, bias=bias)
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)
        self.up = nn.Linear(dim, 4 * dim, bias=bias)
        self.down = nn.Linear(4 * dim, dim, bias=bias)

    def forward(self, x):
        batch, count, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(dim, dim=2)
        q, k, v = (
            part.view(batch, count, self.heads, dim // self.heads).transpose(1, 2)
            for part in (q, k, v)
        )
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate)
        y = y.transpose(1, 2).reshape(batch, count, dim)
        x = x + F.dropout(self.out(y), self.dropout, self.training)
        y = self.down(F.gelu(self.up(self.norm2(x))))
        return x + F.dropout(y, self.dropout, self.training)


class PlainGPT(nn.Module):
    """GPT-2's architecture with a tied head."""

    def __init__(self, vocab, dim, layers, heads, context, bias=False, dropout=0.0):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, dim), nn.Embedding(context, dim)
        self.blocks = nn.ModuleList(PlainBlock(dim, heads, bias, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, bias=bias)
        self.head = nn.Linear(dim, vocab, bias=False)
        self.head.weight = self.tokens.weight
        self.dropout = dropout
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scaled = name.endswith(("out.weight", "down.weight"))
                std = 0.02 / math.sqrt(2 * layers) if scaled else 0.02
                nn.init.normal_(parameter, 0.0, std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids, targets=None):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def optimizer(self, rate, weight_decay=0.1, betas=(0.9, 0.95)):
        matrices = [parameter for parameter in self.parameters() if parameter.ndim >= 2]
        vectors = [parameter for parameter in self.parameters() if parameter.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)
