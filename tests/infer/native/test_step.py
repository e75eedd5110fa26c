"""The compiled step against the model it stands for."""

import pytest
import torch
from decoders import CONFIGS, EVEN, FORMS, LLAMA, model_of, packed_of

from yantai.adapt.packed import Form
from yantai.base.device import cpu_flags
from yantai.base.errors import UsageError
from yantai.base.native import build as native_build
from yantai.base.native.build import find_compiler
from yantai.core.cache import Cache
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.core.layers import Linear
from yantai.core.mask import valid_keys
from yantai.infer.engine import Engine
from yantai.infer.generate import generate_ids
from yantai.infer.native import step as native
from yantai.infer.native.step import MOST_ROWS, SHORT, NativeStep, fits, native_step
from yantai.infer.request import Request
from yantai.infer.settings import Generation

WHOLE_NUMBERS = {"avx512_vnni", "avx512bw"} <= cpu_flags()
"""Whether vectors beside codes are rounded to whole numbers of sixteen bits here."""
CLOSE = 5e-4 if WHOLE_NUMBERS else 1e-5
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")


def both(model, rows=1, steps=12, padding=None):
    """The logits of each step by torch and by the compiled step, and the two caches."""
    torch.manual_seed(1)
    padding = padding or [0] * rows
    prompt, caches = torch.randint(0, model.config.vocab_size, (rows, 6)), []
    hidden = torch.tensor(padding)[:, None]

    def masks(start, stop):
        place = torch.arange(stop)[None]
        positions = (place - hidden).clamp_min(0)[:, start:]
        return {"mask": valid_keys(place >= hidden), "positions": positions}

    dtype = next(model.parameters()).dtype
    for _ in range(2):
        caches.append(Cache(model.config, rows, 6 + steps, dtype=dtype))
        model.hidden(prompt, cache=caches[-1], **masks(0, 6))
    step = native_step(model)
    assert step is not None
    found = []
    for number in range(steps):
        ids = torch.randint(0, model.config.vocab_size, (rows,))
        expected = model(ids[:, None], cache=caches[0], **masks(6 + number, 7 + number))
        found.append((expected[:, -1], step(ids.tolist(), caches[1], padding)))
    return found, caches


@needs_compiler
@pytest.mark.parametrize("name", CONFIGS)
def test_float32_logits_and_cache_are_those_of_torch(name):
    found, (expected_cache, cache) = both(model_of(CONFIGS[name]))
    for expected, got in found:
        close = 1e-5 * max(1.0, float(expected.abs().max()))
        assert (expected - got).abs().max() < close
    assert cache.filled == expected_cache.filled == 18
    torch.testing.assert_close(cache.store, expected_cache.store, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("rows", range(1, MOST_ROWS + 1))
def test_rows_of_different_length(rows):
    padding = [number % 4 for number in range(rows)]
    for expected, got in both(model_of({"window": 7}), rows, padding=padding)[0]:
        assert (expected - got).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


@needs_compiler
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "odd sizes"])
def test_bfloat16_is_nearer_to_the_exact_answer_than_torch_is(name):
    low = model_of(CONFIGS[name], torch.bfloat16)
    exact = model_of(CONFIGS[name])
    with torch.no_grad():
        for parameter, source in zip(exact.parameters(), low.parameters(), strict=True):
            parameter.copy_(source)
    rounded, reference = both(low)[0], both(exact)[0]
    theirs = sum((a - c).abs().mean() for (a, _), (c, _) in zip(rounded, reference, strict=True))
    ours = sum((b - c).abs().mean() for (_, b), (c, _) in zip(rounded, reference, strict=True))
    assert ours < theirs


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_its_neighbours_nor_on_the_threads(dtype):
    model = model_of({"dim": 100, "hidden": 200, "head_dim": 20}, dtype)
    before = torch.get_num_threads()
    results = []
    many = ((5, 2), (8, 2)) if dtype == torch.float32 else ()  # see the next test
    try:
        for rows, threads in ((1, 1), (1, 3), (2, 2), (3, 1), *many):
            torch.set_num_threads(threads)
            step = native_step(model)
            cache = Cache(model.config, rows, 10, dtype=dtype)
            results.append([step([7 * n % 200] * rows, cache, None)[-1] for n in range(10)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_compiler
@pytest.mark.parametrize("bits", [0, 4, 8])
def test_many_rows_lose_no_more_than_bfloat16_does_and_are_all_alike(bits):
    """From some rows on vectors are rounded to bfloat16, as torch rounds them everywhere."""
    changes = EVEN if bits else {"dim": 100, "hidden": 200, "head_dim": 20}
    form = Form(bits, 64 if bits == 8 else 32)
    low = packed_of({}, form, torch.bfloat16) if bits else model_of(changes, torch.bfloat16)
    step, ids = native_step(low), [7 * n % 200 for n in range(12)]
    alone, many = (Cache(low.config, rows, 12, dtype=torch.bfloat16) for rows in (1, 9))
    for number in ids:
        one, all_of_them = step([number], alone, None), step([number] * 9, many, None)
        assert torch.equal(all_of_them, all_of_them[:1].expand(9, -1))
        assert (all_of_them - one).abs().max() < 0.05 * one.abs().max()
    found = both(low, rows=9)[0]
    exact = packed_of({}, form) if bits else model_of(changes)
    with torch.no_grad():
        for parameter, source in zip(exact.parameters(), low.parameters(), strict=True):
            parameter.copy_(source)
    reference = both(exact, rows=9)[0]
    theirs = sum((a - c).abs().mean() for (a, _), (c, _) in zip(found, reference, strict=True))
    ours = sum((b - c).abs().mean() for (_, b), (c, _) in zip(found, reference, strict=True))
    assert ours < theirs


@needs_compiler
@pytest.mark.parametrize("bits", [0, 4, 8])
def test_tokens_read_together_are_read_as_one_by_one(bits):
    model = packed_of({}, Form(bits, 32), torch.bfloat16) if bits else model_of({}, torch.bfloat16)
    step, ids = native_step(model), [7 * n % 200 for n in range(11)]
    singly, together = (Cache(model.config, 1, 12, dtype=torch.bfloat16) for _ in range(2))
    one_by_one = torch.cat([step([number], singly, None) for number in ids])
    assert torch.equal(step.read(ids, together, 0), one_by_one)


@needs_compiler
@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize("name", [*CONFIGS])
def test_a_prompt_is_read_nearer_to_single_steps_than_torch_reads_it(name, bits):
    if bits and not EVEN.items() <= (EVEN | CONFIGS[name]).items():
        pytest.skip("its rows fall into no groups")
    heads = {"kv_heads": 4} if name == "gpt2" and bits else {}
    form = Form(bits or 8, 32)
    low = (packed_of(CONFIGS[name] | heads, form, torch.bfloat16) if bits
           else model_of(CONFIGS[name], torch.bfloat16))  # fmt: skip
    step, ids = native_step(low), [7 * n % 70 for n in range(45)]
    if not step.multiplies_many:
        pytest.skip("this processor multiplies no pairs of bfloat16")
    singly, whole = (Cache(low.config, 1, 64, dtype=torch.bfloat16) for _ in range(2))
    expected = [step([number], singly, None)[0] for number in ids]
    step.prompt(ids[:6], whole)  # a prompt may come in pieces
    got = step.prompt(ids[6:], whole)
    assert whole.filled == singly.filled == len(ids)
    with torch.no_grad():
        theirs = low.logits_of(low.hidden(torch.tensor([ids]))[:, -1])[0]
    error, other = ((each - expected[-1]).abs().mean() for each in (got, theirs))
    assert error < 1.5 * other and error < 0.03 * expected[-1].abs().max()
    after = [step([3], cache, None)[0] for cache in (singly, whole)]
    assert (after[0] - after[1]).abs().max() < 0.1 * after[0].abs().max()


@needs_compiler
@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize("name", ["llama", "window", "wide heads", "gpt2"])
def test_however_a_prompt_is_cut_its_bits_are_the_same(name, bits):
    heads = {"kv_heads": 4} if name == "gpt2" and bits else {}
    low = (packed_of(CONFIGS[name] | heads, Form(bits, 32), torch.bfloat16) if bits
           else model_of(CONFIGS[name], torch.bfloat16))  # fmt: skip
    step, ids = native_step(low), [7 * n % 70 for n in range(61)]
    if not step.multiplies_many:
        pytest.skip("this processor multiplies no pairs of bfloat16")
    whole = Cache(low.config, 1, 64, dtype=torch.bfloat16)
    expected = step.prompt(ids, whole)
    for cuts in ([60], [1, 2, 3], [33, 34], [5, 12, 45, 59]):
        pieces = Cache(low.config, 1, 64, dtype=torch.bfloat16)
        for start, stop in zip([0, *cuts], [*cuts, len(ids)], strict=True):
            logits = step.prompt(ids[start:stop], pieces)
        assert torch.equal(logits, expected)
        assert torch.equal(pieces.store[..., :61, :], whole.store[..., :61, :])


@needs_compiler
@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize("length", [1, 9, SHORT, SHORT + 9])
def test_without_products_of_many_rows_a_prompt_is_read_by_both(length, bits):
    low = packed_of({}, Form(bits, 32), torch.bfloat16) if bits else model_of({}, torch.bfloat16)
    step, ids = native_step(low), [7 * n % 70 for n in range(length + 3)]
    step.multiplies_many = False
    cache, theirs = (Cache(low.config, 1, 64, dtype=torch.bfloat16) for _ in range(2))
    for part in (ids[:3], ids[3:]):
        expected = low(torch.tensor([part]), cache=theirs)[0, -1].float()
        got = step.prompt(part, cache)
        assert (got - expected).norm() < 0.03 * expected.norm()
    assert cache.filled == length + 3
    assert (cache.store - theirs.store).norm() < 0.03 * theirs.store.norm()


@needs_compiler
def test_more_rows_are_taken_where_torch_would_have_to_unpack():
    plain, codes = native_step(model_of({})), native_step(packed_of({}, Form(4, 32)))
    assert plain.takes(MOST_ROWS) and not plain.takes(MOST_ROWS + 1)
    assert codes.takes(SHORT) and not codes.takes(SHORT + 1)


@needs_compiler
def test_generation_and_the_engine_read_prompts_so(monkeypatch):
    low, read = model_of({}, torch.bfloat16), []
    if not native_step(low).multiplies_many:
        pytest.skip("this processor multiplies no pairs of bfloat16")
    whole = NativeStep.prompt
    monkeypatch.setattr(NativeStep, "prompt", lambda self, ids, *rest: read.append(len(ids))
                        or whole(self, ids, *rest))  # fmt: skip
    settings = Generation(max_new_tokens=4)
    (found,) = generate_ids(low, [[5] * 9], settings)
    engine = Engine(low)
    try:
        assert engine.submit(Request([5] * 9, settings)).wait(60) == found[9:]
    finally:
        engine.close()
    assert read == [9, 9]
    generate_ids(low, [[5] * 9, [6] * 8], settings)  # side by side they are torch's
    generate_ids(model_of({}), [[5] * 9], settings)  # and so they are in float32
    assert read == [9, 9]


@pytest.mark.slow
@needs_compiler
def test_processors_that_multiply_floats_alone_read_codes_to_the_last_digit(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    without = ("-mno-avx512vnni", "-mno-avx512bf16")
    monkeypatch.setattr(native_build, "FLAGS", (*native_build.FLAGS, *without))
    monkeypatch.setattr(native, "library", native_build.library.__wrapped__)
    for form in FORMS:
        for rows in (1, 9):
            for expected, got in both(packed_of({}, form), rows)[0]:
                close = 1e-5 * max(1.0, float(expected.abs().max()))
                assert (expected - got).abs().max() < close


@needs_compiler
def test_generation_takes_it_and_gives_the_ids_of_the_model_without_a_cache(monkeypatch):
    model = model_of({})
    called = []
    whole = NativeStep.__call__
    monkeypatch.setattr(
        NativeStep, "__call__", lambda self, *args: called.append(1) or whole(self, *args)
    )
    prompts, settings = [[5, 6, 7], [9], [3] * 10], Generation(max_new_tokens=20)
    cached = generate_ids(model, prompts, settings)
    assert len(called) == 19
    assert cached == generate_ids(model, prompts, settings, cached=False)
    assert len(called) == 19


@needs_compiler
@pytest.mark.parametrize("odd", [-1, 210, 10**9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_no_token_is_refused_before_memory_is_read(odd, dtype):
    model = model_of({}, dtype)
    for prompts in ([[3, odd]], [[3, odd], [4]]):
        with pytest.raises(UsageError, match=f"no such token.*{odd}"):
            generate_ids(model, prompts, Generation(max_new_tokens=2))
    with pytest.raises(IndexError, match="no such token"):
        native_step(model)([odd], Cache(model.config, 1, 4, dtype=dtype), None)
    with pytest.raises(AssertionError, match="another type"):
        other = torch.bfloat16 if dtype == torch.float32 else torch.float32
        native_step(model)([3], Cache(model.config, 1, 4, dtype=other), None)


@needs_compiler
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_whoever_has_ended_takes_no_further_places(name):
    """A long row ends at the last position that there is while a short one goes on."""
    model = model_of(CONFIGS[name])
    settings = Generation(max_length=64)
    prompts = [[3] * 60, [5, 6], [4] * 30]
    found = generate_ids(model, prompts, settings)
    assert [len(row) for row in found] == [64, 64, 64]
    assert found == generate_ids(model, prompts, settings, cached=False)
    assert found == [generate_ids(model, [row], settings)[0] for row in prompts]


def test_what_it_does_not_know_goes_to_torch():
    model = model_of({})
    assert fits(model)
    hook = model.decoder.blocks[1].attn.out.register_forward_hook(lambda *_: None)
    assert not fits(model)
    hook.remove()
    assert fits(model)
    model.decoder.blocks[0].mlp.part.down = type("Adapted", (Linear,), {})(80, 48)
    assert not fits(model)
    assert not fits(model_of({}).double())
    assert not fits(model_of({}).train())
    assert not fits(model_of({"norm_where": "after"}))
    masters = model_of({})
    masters.compute_dtype = torch.bfloat16
    assert not fits(masters)
    assert not fits(build(ModelConfig(**LLAMA)).eval())  # not packed


def test_without_the_library_torch_decodes(monkeypatch):
    monkeypatch.setattr(native, "library", lambda _: None)
    model = model_of({})
    assert native_step(model) is None
    settings = Generation(max_new_tokens=8)
    cached = generate_ids(model, [[1, 2]], settings)
    assert cached == generate_ids(model, [[1, 2]], settings, cached=False)


@needs_compiler
@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen2", "gpt2"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_codes_are_read_as_what_they_stand_for(form, name):
    changes = CONFIGS[name] | ({"kv_heads": 4} if name == "gpt2" else {})
    model = packed_of(changes, form)
    assert fits(model)
    for expected, got in both(model)[0]:
        assert (expected - got).abs().max() < CLOSE * max(1.0, float(expected.abs().max()))


@needs_compiler
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("form", [Form(8, 64), Form(4, 32), Form(4, 96)], ids=str)
@pytest.mark.parametrize("dim", [64, 96])
def test_codes_and_several_rows(dim, form, rows):
    for expected, got in both(packed_of({"dim": dim}, form), rows)[0]:
        assert (expected - got).abs().max() < CLOSE * max(1.0, float(expected.abs().max()))


@needs_compiler
def test_matrices_whose_rows_do_not_fall_into_groups_stay_beside_codes():
    model = packed_of({"hidden": 80, "tied": False}, Form(8, 32))
    assert type(model.decoder.blocks[0].mlp.part.down) is Linear and fits(model)
    for expected, got in both(model)[0]:
        assert (expected - got).abs().max() < CLOSE * max(1.0, float(expected.abs().max()))


def test_codes_of_one_product_lie_behind_each_other_once():
    model = packed_of({}, Form(4, 32))
    parts = model.decoder.blocks[0].attn.part.qkv.parts
    at = parts[0].codes.data_ptr()
    for part in parts:
        assert part.codes.data_ptr() == at
        at += part.codes.numel()
    assert model.embed.tokens.codes.data_ptr() == model.head.codes.data_ptr()
