"""Training on a GPU: ours and the peers at equal architecture, in turn, in one process.

Two sizes, as Llama's: 135 M (30 × 576, T 1024, B 16) and 1 B (16 × 2048, T 2048, B 8). Contenders:
ours, its blocks as they are and compiled, with rows of one document and of six; a plain model as
the well-known trainers write it (blocks compiled, fused AdamW, whole logits); `transformers`.
Weights are float32, the arithmetic is bfloat16. A step is forward, backward, clip, AdamW.

Lines come as they are known. After `SECONDS` no further round begins.
"""

import gc
import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from bench.measure import figures_line, ratio_line

SECONDS = 135.0
ROUNDS = 2
DEVICE = "cuda"


@dataclass(frozen=True)
class Size:
    layers: int
    dim: int
    heads: int
    kv_heads: int
    hidden: int
    vocab: int
    context: int
    batch: int
    warm: int
    steps: int

    @property
    def width(self):
        return self.dim // self.heads

    @property
    def tokens(self):
        return self.batch * self.context


SIZES = {
    "135M": Size(30, 576, 9, 3, 1536, 49_152, 1024, 16, warm=5, steps=10),
    "1B": Size(16, 2048, 32, 8, 8192, 32_000, 2048, 8, warm=3, steps=5),
}


class PlainNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), 1e-6)


class PlainBlock(nn.Module):
    def __init__(self, size):
        super().__init__()
        inner, kv_inner = size.heads * size.width, size.kv_heads * size.width
        self.size = size
        self.norm1 = PlainNorm(size.dim)
        self.norm2 = PlainNorm(size.dim)
        self.q = nn.Linear(size.dim, inner, bias=False)
        self.k = nn.Linear(size.dim, kv_inner, bias=False)
        self.v = nn.Linear(size.dim, kv_inner, bias=False)
        self.out = nn.Linear(inner, size.dim, bias=False)
        self.gate = nn.Linear(size.dim, size.hidden, bias=False)
        self.up = nn.Linear(size.dim, size.hidden, bias=False)
        self.down = nn.Linear(size.hidden, size.dim, bias=False)

    def forward(self, x, cos, sin):
        batch, count, _ = x.shape
        y = self.norm1(x)
        q, k, v = (
            part(y).view(batch, count, -1, self.size.width).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(
            turned(q, cos, sin), turned(k, cos, sin), v, is_causal=True, enable_gqa=True
        )
        x = x + self.out(y.transpose(1, 2).reshape(batch, count, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def turned(x, cos, sin):
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


class PlainLlama(nn.Module):
    """Llama as a small trainer writes it; its stream is bfloat16, as with mixed precision there."""

    def __init__(self, size):
        super().__init__()
        self.tokens = nn.Embedding(size.vocab, size.dim)
        self.blocks = nn.ModuleList(PlainBlock(size) for _ in range(size.layers))
        self.norm = PlainNorm(size.dim)
        self.head = nn.Linear(size.dim, size.vocab, bias=False)
        self.head.weight = self.tokens.weight
        angles = torch.arange(size.context)[:, None] * 10_000.0 ** (
            -torch.arange(0, size.width, 2) / size.width
        )
        self.register_buffer("cos", angles.cos().to(torch.bfloat16), persistent=False)
        self.register_buffer("sin", angles.sin().to(torch.bfloat16), persistent=False)

    def forward(self, ids, targets):
        x = self.tokens(ids).to(torch.bfloat16)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def drawn(model):
    """First weights made where they stay: on the CPU a billion take longer than the rest."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
    return model


def peer_step(model, loss_of):
    """What both peers do alike; nothing waits for the GPU."""
    matrices = [each for each in model.parameters() if each.ndim >= 2]
    vectors = [each for each in model.parameters() if each.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)

    def step():
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain(size):
    model = drawn(PlainLlama(size).to(DEVICE))
    for block in model.blocks:
        block.compile(dynamic=False)
    ids = random_ids(size).to(DEVICE)
    return peer_step(model, lambda: model(ids, ids.roll(-1, 1)))


def hugging_face(size):
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=size.vocab, hidden_size=size.dim, intermediate_size=size.hidden,
        num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads, max_position_embeddings=size.context,
        tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    with torch.device(DEVICE):
        model = transformers.LlamaForCausalLM(config)
    model = drawn(model.float()).train()
    ids = random_ids(size).to(DEVICE)
    return peer_step(model, lambda: model(input_ids=ids, labels=ids).loss)


def random_ids(size):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, size.vocab, (size.batch, size.context), generator=draw)


def batch_of(size, documents):
    """As the loader gives it, on the host; borders of documents anywhere."""
    from yantai.data.batch import Batch

    draw = torch.Generator().manual_seed(documents)
    ids = random_ids(size)
    borders = torch.rand(size.batch, size.context, generator=draw) < (documents - 1) / size.context
    borders[:, 0] = False
    place = torch.arange(size.context).expand(size.batch, -1)
    begins = (place * borders).cummax(dim=1).values
    return Batch(
        ids=ids, targets=ids.roll(-1, 1), documents=borders.cumsum(1), positions=place - begins,
        single_document=documents == 1, target_count=ids.numel(), names=("",) * size.batch,
    )  # fmt: skip


class Ours:
    """One model and its optimiser; blocks are compiled, or not, from step to step."""

    def __init__(self, size):
        from yantai.core.config import ModelConfig
        from yantai.core.initialise import build_meta, materialise
        from yantai.tasks.causal import Causal
        from yantai.training.optim import Optimizer

        config = ModelConfig(
            vocab_size=size.vocab, dim=size.dim, layers=size.layers, heads=size.heads,
            kv_heads=size.kv_heads, head_dim=size.width, hidden=size.hidden,
            max_positions=size.context,
        )  # fmt: skip
        self.model = drawn(materialise(build_meta(config), DEVICE)).train()
        self.model.compute_dtype = torch.bfloat16
        self.task, self.count = Causal(), 0
        self.optimizer = Optimizer(
            self.model, "adamw", rate=3e-4, matrix_rate=0.0, weight_decay=0.1
        )
        self.device = torch.device(DEVICE)
        self.calls = {False: (None, None)}

    def compile(self, batch):
        """Whether it could be; how both ways call the blocks is kept."""
        from yantai.training.blocks import arrange

        made = arrange(
            self.model, compiled=True, recompute=False,
            trial=lambda: self.task.loss_sum(self.model, batch.to(self.device)),
        )  # fmt: skip
        self.calls[True] = (self.model.decoder.around, self.model.head.of_chunk)
        return made

    def step_on(self, batch, compiled):
        """The trainer's step."""
        from yantai.training.optim import clip_gradients

        def step():
            self.model.decoder.around, self.model.head.of_chunk = self.calls[compiled]
            loss = self.task.loss_sum(self.model, batch.to(self.device)) / batch.target_count
            loss.backward()
            float(loss.detach()), float(clip_gradients(self.model.parameters(), 1.0))
            self.optimizer.step(1.0, self.count)
            self.optimizer.zero_gradients()
            self.count += 1

        return step


def timed(step, count):
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def product_peak(size=8192, repeats=20):
    """FLOP/s of bfloat16 products of random numbers: of ones they would be faster."""
    left, right = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    timed(lambda: left @ right, 5)
    return 2 * size**3 / timed(lambda: left @ right, repeats)


def attention(size):
    """Forward and backward of attention alone, by each of torch's kernels and with documents."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from yantai.core.kernel import attend
    from yantai.core.mask import Mask, same_document

    shapes = [(size.batch, size.context, heads, size.width)
              for heads in (size.heads, size.kv_heads, size.kv_heads)]  # fmt: skip
    q, k, v = (
        torch.randn(shape, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
        for shape in shapes
    )
    upstream = torch.randn_like(q)
    masks = {name: Mask(causal=True) for name in ("flash", "cudnn")}
    documents = batch_of(size, 6).documents.to(DEVICE)
    masks["flash, 6 documents"] = Mask(causal=True) & same_document(documents)
    flops = 7.0 * size.tokens * size.context * size.heads * size.width  # half of all pairs
    for name, mask in masks.items():
        backend = SDPBackend.CUDNN_ATTENTION if name == "cudnn" else SDPBackend.FLASH_ATTENTION

        def once(mask=mask):
            torch.autograd.grad(attend(q, k, v, mask, size.width**-0.5, 0.0), (q, k, v), upstream)

        try:
            with sdpa_kernel(backend):
                timed(once, 3)
                seconds = timed(once, 10)
        except RuntimeError as error:
            yield f"  attention, {name}: {str(error).splitlines()[0][:70]}"
            continue
        said = "" if "documents" in name else f", {flops / seconds / 1e12:,.0f} TFLOP/s"
        yield f"  {'attention, ' + name:42} {seconds * 1e3:8.3f} ms forward and backward{said}"


def makers(size):
    """Each gives its steps by name, and is told what it did on the way."""
    one, six = batch_of(size, 1), batch_of(size, 6)

    def ours():
        mine = Ours(size)
        steps = {"ours": mine.step_on(one, False), "ours, 6 documents": mine.step_on(six, False)}
        if mine.compile(one):
            steps |= {
                "ours, compiled": mine.step_on(one, True),
                "ours, compiled, 6 documents": mine.step_on(six, True),
            }
        return steps

    return [
        ours,
        lambda: {"plain, compiled": plain(size)},
        lambda: {"transformers": hugging_face(size)},
    ]


def one_size(name, size, peak, until):
    from yantai.core.config import ModelConfig
    from yantai.core.cost import count
    from yantai.core.initialise import build_meta
    from yantai.training.plan import measure_peak

    config = ModelConfig(
        vocab_size=size.vocab, dim=size.dim, layers=size.layers, heads=size.heads,
        kv_heads=size.kv_heads, head_dim=size.width, hidden=size.hidden, max_positions=size.context,
    )  # fmt: skip
    meta = build_meta(config)
    cost = count(meta, size.context)
    own = measure_peak(meta, size.tokens, torch.bfloat16, torch.device(DEVICE)).flops
    yield (
        f"{name}: {cost.parameters / 1e6:,.0f} M parameters, {size.tokens:,} tokens a step, "
        f"{cost.training_flops * size.tokens / 1e12:.1f} TFLOP; products at its own shapes "
        f"{own / 1e12:,.0f} TFLOP/s"
    )
    yield from attention(size)
    steps, memory = {}, {}
    for make in makers(size):
        began, before = time.perf_counter(), torch.cuda.memory_allocated()
        try:
            made = make()
            for each in made.values():
                for _ in range(size.warm):
                    each()
        except (ImportError, RuntimeError) as error:
            yield f"  left out: {type(error).__name__}: {str(error).splitlines()[0][:80]}"
            continue
        torch.cuda.synchronize()
        yield f"  ready: {', '.join(made)} ({time.perf_counter() - began:.1f} s)"
        for key, each in made.items():
            torch.cuda.reset_peak_memory_stats()
            each()
            memory[key] = torch.cuda.max_memory_allocated() - before
        steps |= made
    figures = {key: [] for key in steps}
    for number in range(ROUNDS):
        if number and time.perf_counter() > until:
            yield "  (no time for a further round)"
            break
        for key, each in steps.items():
            figures[key].append(size.tokens / timed(each, size.steps))
    for key, values in figures.items():
        flops = statistics.median(values) * cost.training_flops
        yield (
            "  " + figures_line(key, values, "tok/s") + f"   {flops / peak:6.1%} of the peak, "
            f"{flops / own:6.1%} of its own, {memory[key] / 2**30:5.1f} GiB"
        )
    best = next(key for key in ("ours, compiled", "ours") if key in figures)
    for key in ("plain, compiled", "transformers"):
        if key in figures:
            yield "  " + ratio_line(f"{best} / {key}", figures[best], figures[key], None)


def main():
    if not torch.cuda.is_available():
        yield "no CUDA device is visible: nothing to measure"
        return
    until = time.perf_counter() + SECONDS
    peak = product_peak()
    yield f"{torch.cuda.get_device_name()}: 8192³ products at {peak / 1e12:,.0f} TFLOP/s"
    for name, size in SIZES.items():
        if time.perf_counter() > until:
            yield f"{name}: no time left"
            break
        yield from one_size(name, size, peak, until)
        torch._dynamo.reset()  # or the next size would be compiled for any size
        gc.collect()
        torch.cuda.empty_cache()
