"""Training speed and memory at equal architecture: GPT-2's, 6 × 384, V 4096, T 256, B 16.

Contenders: ours; a plain GPT in float32 and with bfloat16 autocast, and in either with our setting
of the memory allocator too; `transformers`' GPT-2. Ours and `transformers` take the type that is
the faster one on this machine. Each step is forward, backward, clip, AdamW.
"""

import multiprocessing
import statistics
from pathlib import Path

import torch

from bench.measure import contest, figures_line, ratio_line
from bench.peers import PlainGPT

VOCAB, CONTEXT, BATCH, DIM, LAYERS, HEADS = 4096, 256, 16, 384, 6, 6


def data():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCAB, (BATCH, CONTEXT + 1), generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def is_narrow():
    """Whether bfloat16 is the faster type here."""
    from yantai.base.device import has_fast_bfloat16

    return has_fast_bfloat16(torch.device("cpu"))


def finish(loss, model, optimizer):
    """Backward, clip, step: what both peers do alike."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def plain(autocast, kept=False, dropout=0.0):
    """The peer; `kept` gives it our setting of the memory allocator, or not."""
    if kept:
        from yantai.base.device import prepare_process

        prepare_process(2)
    torch.manual_seed(0)
    model = PlainGPT(VOCAB, DIM, LAYERS, HEADS, CONTEXT, dropout=dropout)
    optimizer = model.optimizer(1e-3)
    ids, targets = data()

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(ids, targets)
        return finish(loss, model, optimizer)

    return step


def hugging_face(dropout=0.0):
    import transformers

    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_embd=DIM,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=CONTEXT,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids, _ = data()
    narrow = is_narrow()

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = model(ids, labels=ids).loss
        return finish(loss, model, optimizer)

    return step


def model_fields(bias, dropout):
    return {
        "vocab_size": VOCAB, "dim": DIM, "layers": LAYERS, "heads": HEADS, "kv_heads": HEADS,
        "head_dim": DIM // HEADS, "hidden": 4 * DIM, "max_positions": CONTEXT, "norm": "layer",
        "norm_eps": 1e-5, "position": "learned", "gated": False, "activation": "gelu",
        "biases": ("mlp", "out", "qkv") if bias else (), "dropout": dropout,
    }  # fmt: skip


def ours(bias=False, dropout=0.0):
    from yantai.base.device import prepare_process
    from yantai.core.config import ModelConfig
    from yantai.core.initialise import build

    prepare_process(2)
    model = build(ModelConfig(**model_fields(bias, dropout)), table="gpt2")
    ids, targets = data()
    return our_step(model, lambda: model.loss_sum(ids, targets) / targets.numel())


def our_step(model, loss_of):
    """The trainer's step round any loss."""
    from yantai.base.device import choose_dtype
    from yantai.training.optim import Optimizer, clip_gradients

    model.train().compute_dtype = choose_dtype("auto", torch.device("cpu"))
    optimizer = Optimizer(model, "adamw", rate=1e-3, matrix_rate=0.0, weight_decay=0.1)
    state = {"step": 0}

    def step():
        loss = loss_of()
        loss.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step(1.0, state["step"])
        optimizer.zero_gradients()
        state["step"] += 1
        return float(loss.detach())

    step.model = model
    return step


def peak_share(speed):
    """Ours as a share of the product peak at the model's own shapes, in its type."""
    from yantai.core.cost import count
    from yantai.training.plan import measure_peak

    model = ours().model
    peak = measure_peak(model, BATCH * CONTEXT, model.compute_dtype, torch.device("cpu"), 3.0)
    return speed * count(model, CONTEXT).training_flops / peak.flops


def _memory(name, queue):
    torch.set_num_threads(2)
    make = {"ours": ours, "plain": lambda: plain(is_narrow())}[name]
    before = _high_water()
    step = make()
    for _ in range(4):
        step()
    queue.put(_high_water() - before)


def _high_water():
    """Peak memory of this process, MB; `ru_maxrss` would include its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def memory_of(name):
    """Peak memory of four steps above the bare process, MB, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_memory, args=(name, queue))
    process.start()
    value = queue.get()
    process.join()
    return value


def main(rounds=5):
    makers = {
        "ours": (ours, ()),
        "plain GPT, bf16 autocast": (plain, (True,)),
        "plain GPT, bf16 autocast, memory kept": (plain, (True, True)),
        "plain GPT, float32": (plain, (False,)),
        "plain GPT, float32, memory kept": (plain, (False, True)),
        "transformers GPT-2": (hugging_face, ()),
    }
    figures = contest(makers, BATCH * CONTEXT, rounds)
    lines = [figures_line(name, values, "tok/s") for name, values in figures.items()]
    mine, narrow = figures["ours"], is_narrow()
    lines.insert(0, f"the faster type here: {'bfloat16' if narrow else 'float32'}")
    goals = {f"plain GPT, {'bf16 autocast' if narrow else 'float32'}, memory kept": 1.3}
    goals |= {"plain GPT, float32": 4.0} if narrow else {}
    for name in list(figures)[1:]:
        lines.append(ratio_line(f"ours / {name}", mine, figures[name], goals.get(name)))
    share = peak_share(statistics.median(mine))
    verdict = "yes" if share >= 0.75 else "NO"
    lines.append(f"{'share of the product peak':44} {share:6.1%}   (wanted 75%: {verdict})")
    memory = {name: memory_of(name) for name in ("ours", "plain")}
    verdict = "yes" if memory["ours"] <= memory["plain"] else "NO"
    lines.append(
        f"{'peak memory, ours and plain':44} {memory['ours']:,.0f} and {memory['plain']:,.0f} MB"
        f"   (wanted no more: {verdict})"
    )
    return lines


def with_dropout(rounds=5, rate=0.1):
    """The same with dropout, as small data and fine-tuning have it."""
    narrow = is_narrow()
    makers = {
        "ours, dropout": (ours, (False, rate)),
        "plain GPT, dropout": (plain, (narrow, False, rate)),
        "plain GPT, memory kept, dropout": (plain, (narrow, True, rate)),
        "transformers GPT-2, dropout": (hugging_face, (rate,)),
    }
    figures = contest(makers, BATCH * CONTEXT, rounds)
    lines = [figures_line(name, values, "tok/s") for name, values in figures.items()]
    mine, *others = figures.items()
    return lines + [ratio_line(f"ours / {name}", mine[1], values, 1.3) for name, values in others]
