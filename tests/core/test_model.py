"""The model: packed = single, cached = uncached, loss = cross-entropy, packing the weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.core.cache import Cache
from yantai.core.config import ModelConfig
from yantai.core.cost import count, matrix_shapes, training_bytes
from yantai.core.head import (
    cross_entropy_sum,
    large_chunk_rows,
    loss_of_chunk,
    places_of,
    token_log_probabilities,
)
from yantai.core.initialise import build, build_meta
from yantai.core.layers import RMSNorm
from yantai.core.mask import same_document
from yantai.infer.generate import prepare

QWEN = {"qk_norm": True}
GPT = {
    "norm": "layer",
    "position": "learned",
    "biases": ("mlp", "out", "qkv"),
    "gated": False,
    "activation": "gelu_tanh",
    "kv_heads": 4,
}
KINDS = {"qwen3": QWEN, "gpt2": GPT, "capped": {"softcap": 5.0, "tied": False, "window": 9}}


def config(**changes) -> ModelConfig:
    fields = {
        "vocab_size": 61,
        "dim": 32,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "hidden": 48,
        "max_positions": 64,
    }
    return ModelConfig(**fields | changes)


def lively(kind, dtype=torch.float32):
    """A model whose every weight matters."""
    model = build(config(**KINDS[kind]), table="gpt2", dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_get_the_logits_they_get_alone(kind):
    model = lively(kind, torch.float64)
    parts = [torch.randint(0, 61, (1, size)) for size in (7, 12, 5)]
    row = torch.cat(parts, dim=1)
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor([7, 12, 5]))[None]
    positions = torch.cat([torch.arange(size) for size in (7, 12, 5)])[None]
    packed = model(row, mask=same_document(documents), positions=positions)
    alone = torch.cat([model(part) for part in parts], dim=1)
    # float32 inside norms and angles, as in the reference, allows no more
    assert (packed - alone).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_reading_with_a_cache_in_any_cut_gives_the_same_logits(kind):
    model = lively(kind)
    ids = torch.randint(0, 61, (3, 20))
    whole = model(ids)
    for cuts in ([20], [1] * 20, [13, 1, 6]):
        cache = Cache(model.config, 3, 20)
        parts = [model(part, cache=cache) for part in ids.split(cuts, dim=1)]
        assert torch.allclose(torch.cat(parts, dim=1), whole, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_packing_the_joint_weights_changes_nothing_and_stores_nothing_twice(kind):
    model = lively(kind)
    ids = torch.randint(0, 61, (2, 9))
    before = model(ids)
    prepare(model)
    assert torch.allclose(model(ids), before, atol=2e-6)
    joint = model.decoder.blocks[0].attn.part.qkv
    assert joint.q.weight.data_ptr() == joint._packed[0].data_ptr()
    model.double()
    assert joint._packed is None
    assert model(ids).dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_its_gradients_are_those_of_cross_entropy(kind):
    model = lively(kind, torch.float64)
    ids, targets = torch.randint(0, 61, (2, 15)), torch.randint(0, 61, (2, 15))
    targets[0, :4] = -1
    model.loss_sum(ids, targets).backward()
    ours = {name: item.grad.clone() for name, item in model.named_parameters()}
    model.zero_grad()
    logits = model(ids).flatten(0, 1)
    expected = F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="sum")
    expected.backward()
    assert torch.allclose(model.loss_sum(ids, targets).detach(), expected.detach(), rtol=1e-12)
    for name, item in model.named_parameters():
        assert torch.allclose(ours[name], item.grad, atol=1e-10, rtol=1e-8), name


@pytest.mark.parametrize("of_chunk", [None, loss_of_chunk], ids=["small", "large"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("left_out", [0, 7, 80, 88, 90, 599, 600])
def test_the_loss_is_the_same_in_any_chunking(cap, left_out, smoothing, of_chunk, monkeypatch):
    """600 positions are three chunks of products and ten pieces of softmax; 512 end with one."""
    monkeypatch.setattr("yantai.core.head.CHUNK_NUMBERS", 1)
    monkeypatch.setattr("yantai.core.head.LARGE_NUMBERS", 17 * 250)
    torch.manual_seed(0)
    hidden = torch.randn(600, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(17, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 17, (600,))
    targets[torch.randperm(600)[:left_out]] = -1
    how = {"smoothing": smoothing, "of_chunk": of_chunk}
    ours = cross_entropy_sum(hidden, weight, targets, cap, **how)
    found = torch.autograd.grad(ours * 2, (hidden, weight))
    logits = hidden @ weight.t()
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    plain = F.cross_entropy(
        logits, targets, ignore_index=-1, reduction="sum", label_smoothing=smoothing
    )
    expected = torch.autograd.grad(plain * 2, (hidden, weight))
    assert torch.allclose(ours, plain, rtol=1e-12)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10)
    with torch.no_grad():
        again = cross_entropy_sum(hidden, weight, targets, cap, count=600 - left_out, **how)
        assert torch.allclose(again, plain, rtol=1e-12)


@pytest.mark.parametrize("left_out", [0, 1, 3, 64, 100, 199, 200])
def test_products_of_the_loss_have_few_numbers_of_rows(left_out):
    """Every other number is one more kernel that is compiled and kept."""
    targets = torch.zeros(200, dtype=torch.long)
    targets[torch.randperm(200)[:left_out]] = -1
    places = places_of(targets)
    known = 200 - left_out
    assert sorted(places[:known].tolist()) == (targets >= 0).nonzero()[:, 0].tolist()
    assert len(set(places.tolist())) == len(places)
    assert len(places) % 64 == 0 or len(places) == 200


@pytest.mark.parametrize("left_out", [0, 1, 100, 200])
def test_places_are_found_without_being_counted_where_their_number_is_known(left_out):
    targets = torch.zeros(200, dtype=torch.long)
    targets[torch.randperm(200)[:left_out]] = -1
    places = places_of(targets, 200 - left_out)
    assert len(places) % 64 == 0 or len(places) == 200
    assert torch.equal(places[: 200 - left_out], (targets >= 0).nonzero()[:, 0])


@pytest.mark.parametrize("rows, vocab", [(16_384, 49_152), (1, 7), (0, 7), (70_000, 32_000)])
def test_large_chunks_are_few_and_alike(rows, vocab):
    each = large_chunk_rows(rows, vocab)
    assert each % 64 == 0 and (each - 64) * vocab <= 2**28
    chunks = -(-rows // each)
    assert rows - (chunks - 1) * each > each - 64 * chunks or rows <= each


@pytest.mark.parametrize("of_chunk", [None, loss_of_chunk])
def test_the_loss_is_right_where_a_probability_underflows(of_chunk):
    hidden = torch.tensor([[300.0, 0.0]])
    weight = torch.eye(2)
    loss = cross_entropy_sum(hidden, weight, torch.tensor([1]), of_chunk=of_chunk)
    assert float(loss) == pytest.approx(300.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_large_chunks_lose_no_more_in_bfloat16_than_small_ones(smoothing):
    """A sure prediction has a small gradient, which must not be rounded away with it."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(128, 32), torch.randn(50, 32)
    targets = (hidden @ weight.t()).argmax(-1)

    def gradients(dtype, of_chunk):
        inputs = [each.to(dtype).requires_grad_() for each in (hidden * 2, weight)]
        loss = cross_entropy_sum(*inputs, targets, smoothing=smoothing, of_chunk=of_chunk)
        return [each.double() for each in torch.autograd.grad(loss, inputs)]

    exact = gradients(torch.float64, None)
    errors = {
        of_chunk: [
            float((found - true).norm() / true.norm())
            for found, true in zip(gradients(torch.bfloat16, of_chunk), exact, strict=True)
        ]
        for of_chunk in (None, loss_of_chunk)
    }
    for large, small in zip(errors[loss_of_chunk], errors[None], strict=True):
        assert large < 1.1 * small + 1e-3


@given(st.integers(1, 2500), st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_log_probabilities_are_the_same_in_any_chunking(count, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 8, generator=generator)
    weight = torch.randn(17, 8, generator=generator)
    targets = torch.randint(0, 17, (count,), generator=generator)
    expected = (hidden @ weight.t()).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert torch.allclose(token_log_probabilities(hidden, weight, targets), expected, atol=1e-4)


@pytest.fixture(params=["compiled", "torch"])
def road(request, monkeypatch):
    """The compiled parts, and what a machine without a compiler does."""
    if request.param == "torch":
        for room in ("layers", "position"):
            monkeypatch.setattr(f"yantai.core.{room}.serves", lambda *_: False)
        monkeypatch.setattr("yantai.core.kernel.available", lambda _: False)
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_bfloat16_are_those_of_float64_on_either_road(kind, road):
    changes = {"dim": 64, "head_dim": 32, "heads": 2, "kv_heads": 2, "hidden": 96}
    model = build(config(**KINDS[kind] | changes), seed=1, table="gpt2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    exact = copy.deepcopy(model).double()
    model.compute_dtype = torch.bfloat16
    ids = torch.randint(0, 61, (3, 48), generator=torch.Generator().manual_seed(0))
    documents = torch.arange(47)[None].expand(3, 47) // 20
    for each in (model, exact):
        each.loss_sum(ids[:, :-1], ids[:, 1:], same_document(documents)).backward()
    whole = torch.stack([item.grad.norm() for item in exact.parameters()]).norm()
    for (name, found), wide in zip(model.named_parameters(), exact.parameters(), strict=True):
        error = (found.grad.double() - wide.grad).norm()
        assert error < 0.03 * wide.grad.norm() + 1e-3 * whole, name


def test_the_fused_norm_is_the_plain_one_in_bfloat16(road):
    torch.manual_seed(0)
    norm = RMSNorm(64, 1e-6)
    norm.weight.data = torch.rand(64) + 0.5
    x = torch.randn(40, 64).bfloat16().requires_grad_()
    wide = x.detach().double().requires_grad_()
    upstream = torch.randn(40, 64)
    y = norm(x)
    y.backward(upstream.bfloat16())
    d_weight = norm.weight.grad.clone()
    exact = norm.weight.detach().double().requires_grad_()
    z = exact * wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    z.backward(upstream.double())
    assert (y.double() - z).abs().max() < 3e-2
    assert (x.grad.double() - wide.grad).norm() / wide.grad.norm() < 1e-2
    assert (d_weight.double() - exact.grad).norm() / exact.grad.norm() < 1e-2


@pytest.mark.parametrize("table", ["zero", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_written_by_the_table(table, kind):
    model = build(config(**KINDS[kind]), seed=5, table=table)
    again = build(config(**KINDS[kind]), seed=5, table=table)
    other = build(config(**KINDS[kind]), seed=6, table=table)
    for (name, first), second in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(first, second), name
        assert bool(first.isfinite().all()), name
    assert not torch.equal(model.embed.tokens.weight, other.embed.tokens.weight)
    if table == "zero":
        x = torch.randint(0, 61, (1, 5))
        start = model.decoder.entry(model.embed(x), torch.arange(5)[None], None)
        plain = model.decoder.norm(start)
        assert torch.allclose(model.hidden(x), plain, atol=1e-6)


def test_a_new_part_without_a_row_is_refused():
    from yantai.core.initialise import initialise

    model = build(config())
    model.odd = torch.nn.Linear(2, 2)
    with pytest.raises(AssertionError, match="odd"):
        initialise(model, seed=0)


def test_costs_come_from_the_structure():
    meta = build_meta(config(vocab_size=100, tied=True))
    cost = count(meta, 64)
    per_block = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48
    attention = 2 * 4 * 32 * (64 + 1) / 2  # half of the keys are hidden, all but half a key
    assert cost.decoder == 2 * 2 * per_block + attention
    assert cost.head == 2 * 32 * 100
    assert cost.encoder == 0
    assert cost.parameters == 2 * (per_block + 64) + 32 * 100 + 32
    assert cost.training_flops == 3 * cost.forward_flops == cost.step_flops(1, 1)
    assert sum(a * b for a, b in matrix_shapes(meta)) == 2 * per_block + 32 * 100
    assert (
        training_bytes(cost, meta.config, batch=2, context=64, compute_bytes=2, copies=2)
        > 16 * cost.parameters
    )


def test_a_gpu_keeps_no_pattern_and_not_both_activations_and_gradients():
    meta = build_meta(config(vocab_size=100))
    cost = count(meta, 4096)
    how = {"batch": 2, "context": 4096, "compute_bytes": 2, "copies": 2}
    on_cpu = training_bytes(cost, meta.config, **how)
    on_gpu = training_bytes(cost, meta.config, **how, on_gpu=True)
    pattern = 2 * 2 * meta.config.heads * 2 * 4096 * 4096 // 2
    assert on_gpu < on_cpu - pattern
    small = training_bytes(cost, meta.config, **how | {"context": 1}, on_gpu=True)
    assert small == 16 * cost.parameters


def test_what_is_read_and_what_is_guessed_count_apart():
    both = count(build_meta(config(shape="encoder-decoder", vocab_size=100, position="none")), 64)
    alone = count(build_meta(config(shape="encoder", vocab_size=100, position="none")), 64)
    assert both.encoder == alone.encoder > 0
    assert both.decoder > both.encoder  # it looks at a second sequence
    assert both.step_flops(10, 5, source=20) == 3 * (
        10 * both.decoder + 20 * both.encoder + 5 * both.head
    )
    assert alone.step_flops(10, 2) == 3 * (10 * alone.encoder + 2 * alone.head)


@pytest.mark.parametrize(
    ("field", "value"), [("heads", 0), ("kv_heads", 3), ("head_dim", 7), ("norm_eps", -1.0)]
)
def test_a_model_that_cannot_be_is_refused_by_its_config(field, value):
    with pytest.raises(ValueError, match=field):
        config(**{field: value})


def test_nobody_looking_costs_no_call_and_a_hook_can_replace():
    model = lively("qwen3")
    ids = torch.randint(0, 61, (1, 6))
    before = model(ids)
    point = model.decoder.blocks[1].resid_pre
    handle = point.register_forward_hook(lambda module, inputs, out: torch.zeros_like(out))
    assert not torch.allclose(model(ids), before)
    handle.remove()
    assert torch.equal(model(ids), before)
