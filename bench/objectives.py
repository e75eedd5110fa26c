"""Masked and denoising training at equal architecture: BERT's and T5's, ours and `transformers`'.

Both in the type that is the faster one here (bfloat16 by autocast there), AdamW, clipping, the same
rows: 15 % of the tokens hidden, or 15 % taken out in spans of 3. A step is forward, backward, clip,
update; a figure is source tokens a second.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.measure import contest, figures_line, ratio_line
from bench.training import finish, is_narrow, our_step

VOCAB, CONTEXT, BATCH, DIM, LAYERS, HEADS = 4096, 256, 16, 384, 6, 6


def their_config(kind: str) -> Any:
    """The configuration that both sides build."""
    import transformers

    if kind == "masked":
        return transformers.BertConfig(
            vocab_size=VOCAB, hidden_size=DIM, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            intermediate_size=4 * DIM, max_position_embeddings=CONTEXT, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip
    return transformers.T5Config(
        vocab_size=VOCAB, d_model=DIM, d_kv=DIM // HEADS, d_ff=4 * DIM, num_layers=LAYERS,
        num_heads=HEADS, dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip


def batch_of(kind: str) -> Any:
    """Rows as the task makes them from one document each."""
    from yantai.data.batch import Row, collate
    from yantai.tasks.denoise import Denoise
    from yantai.tasks.masked import Masked

    rows = []
    for number in range(BATCH):
        ids = np.random.default_rng(number).integers(200, VOCAB, CONTEXT)
        row = Row(ids, ids, np.zeros(CONTEXT, np.int64), np.arange(CONTEXT), f"row {number}")
        if kind == "masked":
            rows.append(Masked(4, np.arange(200, VOCAB)).hide(row, 0, number))
        else:
            rows.append(Denoise("spans", tuple(range(100, 200)), 0, 1).damage(row, 0, number))
    return collate(rows)


def ours(kind: str) -> Callable[[], float]:
    """The step of the trainer."""
    from yantai.base.device import prepare_process
    from yantai.core.initialise import build
    from yantai.families.table import family_named
    from yantai.tasks.denoise import Denoise
    from yantai.tasks.masked import Masked

    prepare_process(2)
    family = family_named("bert" if kind == "masked" else "t5")
    config = family.read_config(their_config(kind).to_dict(), "config.json")
    model = build(config, table="gpt2")
    task = Masked(4, np.arange(200, VOCAB)) if kind == "masked" else Denoise("spans", (100,), 0, 1)
    batch = batch_of(kind)
    return our_step(model, lambda: task.loss_sum(model, batch) / batch.target_count)


def theirs(kind: str, kept: bool = False) -> Callable[[], float]:
    """The same in `transformers`; `kept` gives it our setting of the memory allocator."""
    import transformers

    from yantai.base.device import prepare_process

    if kept:
        prepare_process(2)
    torch.manual_seed(0)
    config = their_config(kind)
    masked = kind == "masked"
    model = (transformers.BertForMaskedLM if masked else transformers.T5ForConditionalGeneration)(
        config
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batch = batch_of(kind)
    labels = batch.targets.masked_fill(batch.targets < 0, -100)
    if masked:
        inputs = {"input_ids": batch.ids, "labels": labels}
    else:
        inputs = {"input_ids": batch.source, "decoder_input_ids": batch.ids, "labels": labels}

    narrow = is_narrow()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = model(**inputs).loss
        return finish(loss, model, optimizer)

    return step


def main(rounds: int = 5) -> list[str]:
    """Figures and ratios of both objectives."""
    lines = []
    for kind in ("masked", "denoise"):
        makers = {
            f"{kind}: ours": (ours, (kind,)),
            f"{kind}: transformers": (theirs, (kind,)),
            f"{kind}: transformers, memory kept": (theirs, (kind, True)),
        }
        figures = contest(makers, BATCH * CONTEXT, rounds)
        lines += [figures_line(name, values, "tok/s") for name, values in figures.items()]
        mine, *others = figures.items()
        lines += [ratio_line(f"ours / {name}", mine[1], values, 1.5) for name, values in others]
    return lines
