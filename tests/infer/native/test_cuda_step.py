"""The kernels of a GPU against the model they stand for.

Without a GPU they can be tried by Triton's interpreter, where Triton is installed:
TRITON_INTERPRET=1 python -m pytest tests/infer/native/test_cuda_step.py  (NumPy below 2.3)
"""

import importlib.util
import os

import pytest
import torch
from decoders import CONFIGS, FORMS, model_of, packed_of

from yantai.adapt.packed import Form
from yantai.core.cache import Cache
from yantai.core.mask import valid_keys
from yantai.infer.cuda.step import CudaStep, cuda_step
from yantai.infer.engine import Engine
from yantai.infer.generate import generate_ids
from yantai.infer.request import Request
from yantai.infer.settings import Generation

HERE = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and bool(importlib.util.find_spec("triton"))
pytestmark = [
    pytest.mark.skipif(
        not (HERE or INTERPRETED), reason="no CUDA device, and no interpreter of kernels"
    ),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # of Triton
]
needs_gpu = pytest.mark.skipif(not HERE, reason="no CUDA device")
DEVICE = "cuda" if HERE else "cpu"


def step_of(model):
    return CudaStep(model.to(DEVICE), records=HERE)


def there(model):
    """On the device, as it is decoded there."""
    from yantai.infer.generate import prepare

    return prepare(model.to(DEVICE))


def both(model, rows=1, steps=8, padding=None, record=True):
    """The logits of each step by torch and by the kernels, and the two caches."""
    torch.manual_seed(1)
    padding = padding or [0] * rows
    prompt = torch.randint(0, model.config.vocab_size, (rows, 6)).to(DEVICE)
    hidden = torch.tensor(padding, device=DEVICE)[:, None]

    def masks(start, stop):
        place = torch.arange(stop, device=DEVICE)[None]
        positions = (place - hidden).clamp_min(0)[:, start:]
        return {"mask": valid_keys(place >= hidden), "positions": positions}

    dtype, caches = next(model.parameters()).dtype, []
    for _ in range(2):
        caches.append(Cache(model.config, rows, 6 + steps, dtype=dtype, device=DEVICE))
        model.hidden(prompt, cache=caches[-1], **masks(0, 6))
    step, found = CudaStep(model, records=HERE and record), []
    for number in range(steps):
        ids = torch.randint(0, model.config.vocab_size, (rows,)).to(DEVICE)
        expected = model(ids[:, None], cache=caches[0], **masks(6 + number, 7 + number))
        found.append((expected[:, -1], step(ids.tolist(), caches[1], padding)))
    return found, caches


def close(found, share):
    for expected, got in found:
        far = (expected.float() - got).abs().max()
        assert far < share * max(1.0, float(expected.abs().max())), float(far)


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_logits_and_cache_are_those_of_torch(name):
    found, (expected_cache, cache) = both(there(model_of(CONFIGS[name])))
    close(found, 2e-5)
    assert cache.filled == expected_cache.filled == 14
    torch.testing.assert_close(cache.store, expected_cache.store, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("rows", [2, 3, 16, 17])
def test_rows_of_different_length(rows):
    padding = [number % 4 for number in range(rows)]
    found, _ = both(there(model_of({"window": 7})), rows, steps=3, padding=padding)
    close(found, 2e-5)


@needs_gpu  # the interpreter multiplies no bfloat16
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "odd sizes"])
def test_bfloat16_is_nearer_to_the_exact_answer_than_torch_is(name):
    low, exact = there(model_of(CONFIGS[name], torch.bfloat16)), there(model_of(CONFIGS[name]))
    with torch.no_grad():
        for parameter, source in zip(exact.parameters(), low.parameters(), strict=True):
            parameter.copy_(source)
    rounded, reference = both(low)[0], both(exact)[0]
    theirs = sum((a - c).abs().mean() for (a, _), (c, _) in zip(rounded, reference, strict=True))
    ours = sum((b - c).abs().mean() for (_, b), (c, _) in zip(rounded, reference, strict=True))
    assert ours < theirs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_codes_are_read_as_what_they_stand_for(form, name):
    close(both(there(packed_of(CONFIGS[name], form)), rows=2, steps=2)[0], 2e-5)


@needs_gpu
@pytest.mark.parametrize("bits", [0, 4, 8])
def test_a_row_says_the_same_bits_alone_and_beside_others(bits):
    """Also among more of them than a product takes at once, for which it has another form."""
    form = Form(bits, 32) if bits else None
    model = there(packed_of({}, form, torch.bfloat16) if form else model_of({}, torch.bfloat16))
    step, given = step_of(model), [[5, 9, 3], [7, 7, 7], [1, 2, 3], [60, 4, 2]]

    def said(rows):
        cache = Cache(model.config, len(rows), 8, dtype=torch.bfloat16, device=DEVICE)
        return torch.stack([step([given[row][at] for row in rows], cache, None) for at in range(3)])

    together = said([0, 1, 2, 3])
    for row in range(4):  # one by one they take another road, which rounds less
        alone = said([row])[:, 0]
        assert (alone - together[:, row]).abs().max() < 0.02 * float(alone.abs().max())
        pair = said([row, 3 - row])
        assert torch.equal(pair[:, 0], together[:, row])
        assert torch.equal(pair[:, 1], together[:, 3 - row])


def test_a_place_that_was_written_by_nobody_is_seen_by_nobody():
    """Rows beside those that are asked for are computed, too, and spoil nothing."""
    model = there(model_of({}))
    step = step_of(model)
    cache, clean = (Cache(model.config, 4, 8, device=DEVICE) for _ in range(2))
    cache.store.fill_(torch.nan)
    cache.rows = clean.rows = 3
    for token in (3, 9, 4):
        together = step([token, 1, 2], cache, [0, 0, 0])
        assert torch.isfinite(together).all()
        assert torch.equal(together, step([token, 1, 2], clean, None))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "window"])
def test_a_prompt_is_read_as_the_model_reads_it(name):
    model = there(model_of(CONFIGS[name]))
    step, ids = step_of(model), [7 * number % 101 for number in range(21)]
    own, theirs = (Cache(model.config, 1, 40, device=DEVICE) for _ in range(2))
    for part in (ids[:19], ids[19:]):
        expected = model(torch.tensor([part], device=DEVICE), cache=theirs)[0, -1]
        close([(expected, step.prompt(part, own))], 2e-5)
    torch.testing.assert_close(own.store, theirs.store, rtol=1e-4, atol=2e-5)
    close(
        [(model(torch.tensor([[5]], device=DEVICE), cache=theirs)[0], step([5], own, None))], 2e-5
    )


@pytest.mark.parametrize("form", [None, *FORMS[::2]])
def test_however_a_prompt_is_cut_its_bits_are_the_same(form):
    dtype = torch.bfloat16 if HERE else torch.float32
    model = there(model_of({}, dtype) if form is None else packed_of({}, form, dtype))
    step, ids = step_of(model), [7 * number % 101 for number in range(24)]

    def read(*parts):
        cache = Cache(model.config, 1, 24, dtype=dtype, device=DEVICE)
        for part in parts:
            logits = step.prompt(part, cache)
        return logits, cache.store

    whole, pieces = read(ids), read(ids[:3], ids[3:4], ids[4:])
    assert torch.equal(whole[0], pieces[0]) and torch.equal(whole[1], pieces[1])


@needs_gpu
def test_recorded_and_called_kernels_say_the_same():
    model = there(model_of({}, torch.bfloat16))
    recorded, called = (both(model, rows=3, record=record)[0] for record in (True, False))
    for (_, one), (_, other) in zip(recorded, called, strict=True):
        assert torch.equal(one, other)


@needs_gpu
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "window"])
def test_generation_and_the_engine_take_it_and_say_what_the_model_says(name, monkeypatch):
    model, called = there(model_of(CONFIGS[name])), []
    whole = CudaStep.__call__
    monkeypatch.setattr(
        CudaStep, "__call__", lambda self, *args: called.append(1) or whole(self, *args)
    )
    asked = Generation(max_new_tokens=20)
    prompts = [[3, 5, 8], [60], [9, 9, 4, 1]]
    expected = generate_ids(model, prompts, asked, cached=False)
    assert generate_ids(model, prompts, asked) == expected
    assert len(called) == 19
    engine = Engine(model, slots=2)
    requests = [engine.submit(Request(prompt, asked)) for prompt in prompts]
    assert [
        prompt + each.wait(240) for prompt, each in zip(prompts, requests, strict=True)
    ] == expected
    engine.close()
    assert len(called) > 38


@needs_gpu
def test_what_it_does_not_know_goes_to_torch():
    assert cuda_step(there(model_of({}))) is not None
    assert cuda_step(there(model_of({}, torch.float64))) is None
    hooked = there(model_of({}))
    hooked.decoder.blocks[0].mlp.register_forward_hook(lambda *_: None)
    assert cuda_step(hooked) is None
    assert cuda_step(model_of({})) is None  # on the CPU
