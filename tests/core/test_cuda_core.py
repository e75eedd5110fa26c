"""Losses and gradients on a GPU, against the same on a CPU in float64."""

import pytest
import torch

from yantai.core import kernel
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.core.kernel import attend
from yantai.core.mask import Mask, same_document, valid_keys, window
from yantai.data.batch import Batch
from yantai.tasks.causal import Causal
from yantai.tasks.masked import Masked

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
VOCAB, LENGTH, ROWS = 301, 96, 3
SIZE = {
    "vocab_size": VOCAB, "dim": 64, "layers": 2, "heads": 4, "head_dim": 16, "hidden": 96,
    "max_positions": LENGTH,
}  # fmt: skip
LIKE_BERT = {
    "norm": "layer", "norm_where": "after", "gated": False, "activation": "gelu",
    "position": "learned", "biases": ("head", "mlp", "out", "qkv"), "kv_heads": 4,
    "norm_embedding": True, "head": "transformed", "token_types": 2,
}  # fmt: skip
KINDS = {
    "decoder": {"kv_heads": 2, "qk_norm": True},
    "decoder, window": {"kv_heads": 2, "window": 20},
    "decoder, cap": {"kv_heads": 4, "softcap": 5.0},
    "encoder": LIKE_BERT | {"shape": "encoder"},
    "encoder-decoder": {"kv_heads": 4, "shape": "encoder-decoder", "position": "relative"},
    "encoder-decoder, learned": {
        "kv_heads": 4, "shape": "encoder-decoder", "position": "learned", "norm": "layer"
    },
}  # fmt: skip
TASKS = {"encoder": Masked(mask_id=0, ordinary=torch.arange(1, VOCAB).numpy())}


def batch(kind, documents):
    draw = torch.Generator().manual_seed(7)
    ids = torch.randint(1, VOCAB, (ROWS, LENGTH), generator=draw)
    targets, share = ids.roll(-1, 1), 0.15 if kind == "encoder" else 0.9
    targets[torch.rand(ROWS, LENGTH, generator=draw) > share] = -1
    borders = torch.randint(0, documents, (ROWS, LENGTH), generator=draw).sort(dim=1).values
    if documents > 1:
        borders[0, -9:] = -1  # padding
        targets[0, -9:] = -1
    source = {}
    if kind.startswith("encoder-decoder"):
        of_source = torch.randint(0, documents, (ROWS, 64), generator=draw).sort(dim=1).values
        of_source[:, :documents] = torch.arange(documents)
        source = {
            "source": torch.randint(1, VOCAB, (ROWS, 64), generator=draw),
            "source_documents": of_source.sort(dim=1).values,
            "source_positions": torch.arange(64).expand(ROWS, 64),
        }
    return Batch(
        ids=ids, targets=targets, documents=borders,
        positions=torch.arange(LENGTH).expand(ROWS, LENGTH), single_document=documents == 1,
        target_count=int((targets >= 0).sum()), names=("",) * ROWS, **source,
    )  # fmt: skip


def loss_and_gradients(kind, given, device, weights, compute):
    torch.manual_seed(0)
    model = build(ModelConfig(**SIZE | KINDS[kind]), seed=1, table="gpt2", dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model = model.to(weights).to(device).train()
    model.tie()
    model.compute_dtype = compute
    task = TASKS.get(kind, Causal())
    loss = task.loss_sum(model, given.to(device)) / given.target_count
    loss.backward()
    gradients = {
        name: torch.zeros_like(each, dtype=torch.float64, device=CPU)
        if each.grad is None
        else each.grad.double().cpu()
        for name, each in model.named_parameters()
    }
    return float(loss.detach()), gradients


def apart(found, expected):
    """The error of all gradients together, as a share."""
    errors = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    return (errors / sum(float(each.square().sum()) for each in expected.values())) ** 0.5


@pytest.mark.parametrize("documents", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_learns_what_a_cpu_learns(kind, documents):
    given = batch(kind, documents)
    loss, expected = loss_and_gradients(kind, given, CPU, torch.float64, torch.float64)
    for compute, of_loss, of_gradients in (
        (torch.float32, 1e-5, 1e-4),
        (torch.bfloat16, 2e-2, 4e-2),
    ):
        found, gradients = loss_and_gradients(kind, given, GPU, torch.float32, compute)
        assert abs(found - loss) < of_loss * max(1.0, abs(loss)), compute
        assert apart(gradients, expected) < of_gradients, compute


DOCUMENTS = torch.tensor([[0] * 70 + [1] * 200 + [2] * 42, [3] * 300 + [-1] * 12])
MASKS = {
    "causal": Mask(causal=True),
    "open": Mask(),
    "documents": Mask(causal=True) & same_document(DOCUMENTS),
    "both ways": same_document(DOCUMENTS),
    "window": Mask(causal=True) & window(37),
    "window both ways": window(37),
    "all": Mask(causal=True) & window(37) & same_document(DOCUMENTS),
    "tokens alone": Mask(causal=True) & same_document(torch.arange(312)[None]),
}


def on(device, mask):
    documents = None if mask.documents is None else mask.documents.to(device)
    return Mask(causal=mask.causal, window=mask.window, documents=documents)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("width, kv_heads", [(64, 2), (16, 4), (40, 1), (128, 2), (256, 4)])
@pytest.mark.parametrize("name", MASKS)
def test_attention_on_a_gpu_is_the_formula(name, width, kv_heads, dtype):
    torch.manual_seed(0)
    shapes = [(2, 312, heads, width) for heads in (4, kv_heads, kv_heads)]
    narrow = [torch.randn(shape).to(dtype).transpose(1, 2) for shape in shapes]
    upstream = torch.randn(2, 4, 312, width).to(dtype)
    wide = [each.double().requires_grad_() for each in narrow]
    expected = attend(*wide, MASKS[name], width**-0.5, 0.0)
    expected.backward(upstream.double())
    inputs = [each.to(GPU).requires_grad_() for each in narrow]
    got = attend(*inputs, on(GPU, MASKS[name]), width**-0.5, 0.0)
    got.backward(upstream.to(GPU))
    most = {torch.bfloat16: 1.5e-2, torch.float16: 2e-3, torch.float32: 1e-5}[dtype]
    pairs = [(got, expected), *((a.grad, b.grad) for a, b in zip(inputs, wide, strict=True))]
    for ours, theirs in pairs:
        error = (ours.detach().double().cpu() - theirs.detach()).norm()
        assert float(error) < most * float(theirs.detach().norm() + 0.1 * upstream.norm())


@pytest.mark.parametrize("name", ["documents", "both ways", "window", "all"])
def test_documents_and_windows_take_the_fast_road(name, monkeypatch):
    taken = []

    def counted(*arguments, **named):
        taken.append(named)
        return torch.ops.aten._flash_attention_forward(*arguments, **named)

    monkeypatch.setattr(kernel, "varlen_attention", counted)
    q, k, v = (torch.randn(2, 4, 312, 64, device=GPU, dtype=torch.bfloat16) for _ in range(3))
    attend(q, k, v, on(GPU, MASKS[name]), 0.125, 0.0)
    assert len(taken) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_padding_in_front_leaves_no_query_without_a_number(dtype):
    valid = torch.arange(48) >= torch.tensor([[0], [17]])
    wide = [torch.randn(2, heads, 48, 64, dtype=torch.float64) for heads in (4, 2, 2)]
    expected = attend(*wide, Mask(causal=True) & valid_keys(valid), 0.125, 0.0)
    mask = Mask(causal=True) & valid_keys(valid.to(GPU))
    got = attend(*(each.to(GPU, dtype) for each in wide), mask, 0.125, 0.0).double().cpu()
    assert bool(torch.isfinite(got).all())
    error = (got - expected)[1, :, 17:].norm() / expected[1, :, 17:].norm()
    assert float(error) < (2e-2 if dtype == torch.bfloat16 else 1e-5)


def test_dropout_of_documents_is_drawn_anew_and_the_same_again():
    q, k, v = (torch.randn(2, 4, 312, 64, device=GPU, dtype=torch.bfloat16) for _ in range(3))
    mask = on(GPU, MASKS["documents"])
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(attend(q, k, v, mask, 0.125, 0.2))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    means = torch.stack([attend(q, k, v, mask, 0.125, 0.2).float() for _ in range(200)]).mean(0)
    whole = attend(q, k, v, mask, 0.125, 0.0).float()
    assert float((means - whole).norm() / whole.norm()) < 0.1


def test_a_step_asks_the_gpu_for_nothing_but_where_documents_end():
    """A number that is waited for lets the GPU stand idle."""
    model = build(ModelConfig(**SIZE | KINDS["decoder"]), seed=1, device=GPU).train()
    model.compute_dtype = torch.bfloat16
    for documents, most in ((1, 0), (4, 1)):
        given = batch("decoder", documents).to(GPU)
        Causal().loss_sum(model, given).backward()
        torch.cuda.synchronize()
        try:
            with pytest.warns() as told:
                torch.cuda.set_sync_debug_mode("warn")
                Causal().loss_sum(model, given).backward()
                torch.empty((), device=GPU).item()  # one that is certain
        finally:
            torch.cuda.set_sync_debug_mode("default")
        asked = [each for each in told if "called a synchron" in str(each.message)]
        assert len(asked) <= most + 1, [str(each.message) for each in asked]
