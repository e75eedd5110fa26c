"""Tokens drawn by the compiled part are those that torch draws by the same numbers."""

import math

import pytest
import torch

from yantai.infer.native import draw as native
from yantai.infer.native.draw import Ask, draw_rows, likeliest_rows
from yantai.infer.row import Row, next_tokens
from yantai.infer.sample import chances, place_of
from yantai.infer.settings import Generation

ROWS = 40


@pytest.fixture(autouse=True)
def compiled():
    if draw_rows([Ask(torch.zeros(3), Generation(), 0.5)]) is None:
        pytest.skip("there is no compiler here")


def logits_of(kind, vocab, dice):
    spread = {"flat": 0.01, "usual": 3.0, "sure": 30.0}[kind]
    found = torch.randn(vocab, generator=dice) * spread
    found[torch.randperm(vocab, generator=dice)[: vocab // 3]] = -torch.inf  # as a grammar does
    return found


@pytest.mark.parametrize("kind", ["flat", "usual", "sure"])
@pytest.mark.parametrize("vocab", [2, 257, 4000])
@pytest.mark.parametrize("asked", [
    {"temperature": 1.0}, {"temperature": 0.3}, {"temperature": 2.0, "top_k": 7},
    {"top_k": 5000}, {"top_p": 0.9}, {"top_p": 0.01, "temperature": 0.7}, {"min_p": 0.05},
    {"top_k": 50, "top_p": 0.95, "min_p": 0.02, "temperature": 0.8},
])  # fmt: skip
def test_it_draws_what_torch_draws(kind, vocab, asked):
    dice = torch.Generator().manual_seed(vocab)
    settings, other, drawn = Generation(**asked), 0, []
    for _ in range(ROWS):
        logits, chance = logits_of(kind, vocab, dice), float(torch.rand((), generator=dice))
        ask = Ask(logits, settings, chance)
        drawn += draw_rows([ask])
        other += drawn[-1] != place_of(chance, chances(logits, settings))
        assert math.isfinite(logits[drawn[-1]])
    assert other <= 1  # where a sum is rounded otherwise just at the chance
    assert len(set(drawn)) > 1 or vocab == 2 or kind == "sure" or settings.top_p == 0.01


def test_rows_beside_each_other_change_nothing_and_odd_ones_say_so():
    dice = torch.Generator().manual_seed(0)
    settings = [Generation(temperature=heat) for heat in (0.5, 1.0, 1.5)]
    asked = [Ask(logits_of("usual", 999, dice), settings[n % 3], n / 50) for n in range(50)]
    asked[7].logits[3] = torch.nan
    asked[8].logits[3] = torch.inf
    asked[9].logits[:] = -torch.inf
    together = draw_rows(asked)
    assert together == [draw_rows([ask])[0] for ask in asked]
    assert [place for place, token in enumerate(together) if token < 0] == [7, 8, 9]


@pytest.mark.parametrize("chance", [0.0, 1 - 2.0**-53])
def test_the_ends_of_what_may_be_drawn(chance):
    logits = torch.full((1000,), -torch.inf)
    logits[300:700] = torch.linspace(0, 1, 400)
    assert draw_rows([Ask(logits, Generation(temperature=1.0), chance)]) == [
        300 if chance == 0 else 699
    ]


def test_what_is_not_for_it_is_left_to_torch(monkeypatch):
    settings = Generation(temperature=1.0)
    assert draw_rows([Ask(torch.zeros(8).double(), settings, 0.5)]) is None
    assert draw_rows([Ask(torch.zeros(16)[::2], settings, 0.5)]) is None
    monkeypatch.setattr(native, "library", lambda source: None)
    assert draw_rows([Ask(torch.zeros(8), settings, 0.5)]) is None


@pytest.mark.parametrize("there", [True, False])
def test_rows_of_a_batch_say_what_each_says_alone(monkeypatch, there):
    """Greedy ones, drawn ones and ones with rules, and with the compiled part or without."""
    if not there:
        monkeypatch.setattr(native, "library", lambda source: None)
    kinds = [
        {}, {"temperature": 1.0, "seed": 3}, {"top_p": 0.5, "seed": 4}, {"repetition_penalty": 1.3},
        {"temperature": 0.7, "presence_penalty": 1.0, "seed": 5}, {"temperature": 1.0, "seed": 6},
    ]  # fmt: skip
    together, alone = (
        [Row([1, 2], Generation(max_new_tokens=30, **kind)) for kind in kinds] for _ in range(2)
    )
    dice = torch.Generator().manual_seed(1)
    for _ in range(30):
        logits = torch.randn(len(kinds), 500, generator=dice) * 2
        known = next_tokens(logits, together)
        for own, row, other, token in zip(logits, together, alone, known, strict=True):
            row.choose(own, token)
            other.choose(own)
    assert [row.ids for row in together] == [row.ids for row in alone]


@pytest.mark.parametrize("vocab", [1, 15, 16, 17, 1000])
def test_the_likeliest_is_the_one_that_torch_finds(vocab):
    dice = torch.Generator().manual_seed(vocab)
    for _ in range(50):
        logits = torch.randint(-3, 4, (5, vocab), generator=dice).float()  # with many ties
        logits[1, vocab // 2] = torch.nan
        logits[2] = -torch.inf
        assert likeliest_rows(logits) == logits.argmax(dim=1).tolist()
    wide = torch.randn(3, vocab).double()
    assert likeliest_rows(wide) == wide.argmax(dim=1).tolist()


@pytest.mark.parametrize("asked", [
    {"temperature": 1e-46}, {"temperature": 1e-40}, {"top_p": 1e-50}, {"min_p": 1.0},
    {"temperature": 1e-46, "top_p": 0.9},
    {"temperature": 1e-300, "top_p": 1e-300, "top_k": 2**63 + 5},
])  # fmt: skip
@pytest.mark.parametrize("flushed", [False, True])
def test_what_float32_cannot_tell_draws_the_likeliest(asked, flushed):
    """Divided by such a number all were none, and the search for a place had no end."""
    torch.set_flush_denormal(flushed)
    try:
        dice = torch.Generator().manual_seed(1)
        settings = Generation(**asked)
        logits = torch.randn(16, 32_000, generator=dice)
        best = logits.argmax(dim=1).tolist()
        rows = [Ask(own, settings, number / 16) for number, own in enumerate(logits)]
        assert draw_rows(rows) == best
        assert [place_of(ask.chance, chances(ask.logits, settings)) for ask in rows] == best
    finally:
        torch.set_flush_denormal(False)
