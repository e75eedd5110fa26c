"""Guesses change when tokens are read, never which; they rest where they do not pay."""

import time

import pytest
import torch
from test_engine import VOCAB, prompts, small

from yantai.adapt.packed import Form
from yantai.adapt.quantize import quantize
from yantai.infer import engine as engines
from yantai.infer.engine import Engine
from yantai.infer.generate import generate_ids
from yantai.infer.guesses import FIRST_REST, MOST, TRIED, Echo, Worth
from yantai.infer.native.step import native_step
from yantai.infer.request import Request
from yantai.infer.settings import Generation

KINDS = {
    "llama": {},
    "window": {"window": 7},
    "qwen3": {"qk_norm": True},
    "gpt2": {"position": "learned", "norm": "layer", "activation": "gelu_tanh", "gated": False,
             "biases": ("mlp", "out", "qkv")},
}  # fmt: skip


def compiled(model):
    step = native_step(model)
    if step is None:
        pytest.skip("there is no compiler on this machine")
    return step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_behind_each_other_have_the_logits_of_one_at_a_time(kind, dtype):
    model = small(dtype, **KINDS[kind])
    step = compiled(model)
    ids = prompts(1, 60)[0][:40]
    for padding in (0, 5):
        caches = [model.new_cache(1, 128, dtype=dtype, device="cpu") for _ in range(2)]
        for cache in caches:
            cache.filled = padding
        alone = torch.cat([step([id], caches[0], [padding]) for id in ids])
        parts = [step.read(ids[at : at + 8], caches[1], padding) for at in range(0, len(ids), 8)]
        assert torch.equal(torch.cat(parts), alone)
        assert torch.equal(caches[0].store, caches[1].store)


@pytest.mark.parametrize("bits", [8, 4])
def test_and_of_codes(bits):
    model = small(dim=64, head_dim=32, hidden=64)
    quantize(model, Form(bits, 32))
    step = compiled(model)
    ids = prompts(1, 60)[0][:8]
    caches = [model.new_cache(1, 64, dtype=torch.float32, device="cpu") for _ in range(2)]
    alone = torch.cat([step([id], caches[0], [0]) for id in ids])
    assert torch.equal(step.read(ids, caches[1], 0), alone)


@pytest.fixture
def always(monkeypatch):
    """Guess whenever there is a guess."""
    monkeypatch.setattr(engines.Worth, "is_tried", property(lambda self: True))


@pytest.mark.parametrize(
    "drawn", [{}, {"temperature": 0.7, "seed": 3}, {"repetition_penalty": 1.3}], ids=str
)
def test_what_is_said_is_the_same_with_guesses(always, drawn):
    """A model that repeats itself, and one that is made to draw; ends and lengths, too."""
    model = small()
    compiled(model)
    engine = Engine(model, slots=3)
    settings = Generation(max_new_tokens=120, **drawn)
    for ids in ([5, 6, 7] * 20, [8] * 30, prompts(1, 40)[0] * 4):
        for stops in (frozenset(), frozenset({1, 17})):
            steps = engine.steps
            found = engine.submit(Request(ids, settings, stops)).wait(60)
            assert found == generate_ids(model, [ids], settings, stops)[0][len(ids) :]
            if not drawn and not stops:
                assert engine.steps - steps < len(found)
            plain = engine.submit(Request(ids, settings, stops, guesses=False)).wait(60)
            assert plain == found
    assert engine.guessed > 0
    # what was guessed wrong is in no cache: the whole conversation is sent again
    again = [*ids, *found, 3, 4, 5]
    request = engine.submit(Request(again, settings))
    assert request.wait(60) == generate_ids(model, [again], settings)[0][len(again) :]
    assert request.reused >= len(ids)
    engine.close()


def test_another_may_join_in_the_middle(always):
    model = small()
    compiled(model)
    engine = Engine(model, slots=3)
    settings = Generation(max_new_tokens=300)
    first = engine.submit(Request([5, 6, 7] * 20, settings))
    while engine.guessed < 20:
        assert not first.reason
        time.sleep(0.001)
    second = engine.submit(Request([9, 8] * 10, settings))
    for request, ids in ((first, [5, 6, 7] * 20), (second, [9, 8] * 10)):
        assert request.wait(60) == generate_ids(model, [ids], settings)[0][len(ids) :]
    engine.close()


def test_an_echo_finds_the_newest_and_longest_run():
    echo = Echo([1, 2, 3, 4, 5, 9, 2, 3, 7, 8, 1, 2, 3])
    assert echo.guess(3) == [4, 5, 9]  # behind 1 2 3, though 2 3 was newer
    echo.follow([*echo.ids, 6])
    assert echo.guess() == []
    echo.follow([*echo.ids, 2, 3])
    assert echo.guess(2) == [6, 2]
    assert Echo([4]).guess() == [] and Echo([]).guess() == []
    dice = torch.Generator().manual_seed(0)
    ids = torch.randint(3, (200,), generator=dice).tolist()
    step_by_step, whole = Echo(ids[:10]), Echo(ids)
    for place in range(11, 201):
        step_by_step.follow(ids[:place])
    assert step_by_step.guess() == whole.guess() and len(whole.guess()) <= MOST
    assert VOCAB > 9


def test_guesses_rest_when_they_do_not_pay_and_longer_each_time():
    worth = Worth()
    assert not worth.is_tried
    worth.plain(1.0)
    rests = []
    for _ in range(3):
        assert worth.is_tried
        for _ in range(TRIED):
            worth.guessed(1, 1.5)
        rest = 0
        while not worth.is_tried:
            worth.plain(1.0)
            rest += 1
        rests.append(rest)
    assert rests == [FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST]
    for _ in range(5 * TRIED):
        assert worth.is_tried
        worth.guessed(3, 1.5)
