"""Rules on logits: equal to transformers' own processors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList
from transformers.generation import logits_process as theirs

from yantai.base.errors import NumericsError
from yantai.infer.native.draw import Ask
from yantai.infer.row import Row
from yantai.infer.sample import adjust, chances, draw, next_chance, penalise_said, place_of
from yantai.infer.settings import Generation


@given(
    st.integers(0, 2**31),
    st.sampled_from([0.3, 0.7, 1.0, 2.5]),
    st.sampled_from([None, 1, 5, 1000]),
    st.sampled_from([None, 0.1, 0.9, 1.0]),
    st.sampled_from([None, 0.05, 0.5]),
    st.sampled_from([1.0, 1.3]),
    st.sampled_from([0, 1, 2, 3]),
)
@settings(max_examples=150, deadline=None)
def test_adjusted_logits_are_those_of_transformers(seed, heat, k, p, floor, penalty, ngram):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, generator=generator) * 3
    seen = torch.randint(0, 40, (12,), generator=generator).tolist()
    chosen = Generation(
        temperature=heat,
        top_k=k,
        top_p=p,
        min_p=floor,
        repetition_penalty=penalty,
        no_repeat_ngram_size=ngram,
    )
    chain = LogitsProcessorList()
    if penalty != 1.0:
        chain.append(theirs.RepetitionPenaltyLogitsProcessor(penalty))
    if ngram:
        chain.append(theirs.NoRepeatNGramLogitsProcessor(ngram))
    expected = chain(torch.tensor([seen]), logits[None].clone())[0]
    adjusted = adjust(logits.clone(), seen, chosen)
    assert torch.allclose(adjusted, expected, atol=1e-6)
    assert torch.allclose(our_chances(adjusted, chosen), their_chances(expected, chosen), atol=1e-6)


def our_chances(logits, chosen):
    """Float[vocab]."""
    weights = chances(logits.clone(), chosen)
    return weights / weights.sum()


def their_chances(logits, chosen):
    """The same as transformers has it."""
    chain = LogitsProcessorList()
    if chosen.temperature not in (None, 1.0):
        chain.append(theirs.TemperatureLogitsWarper(chosen.temperature))
    if chosen.top_k is not None:
        chain.append(theirs.TopKLogitsWarper(chosen.top_k))
    if chosen.top_p is not None and chosen.top_p < 1.0:
        chain.append(theirs.TopPLogitsWarper(chosen.top_p))
    if chosen.min_p is not None:
        chain.append(theirs.MinPLogitsWarper(chosen.min_p))
    return chain(torch.tensor([[0]]), logits[None].clone())[0].softmax(-1)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"do_sample": False, "temperature": 0.7}, "contradict"),
        ({"temperature": 0.0, "top_k": 5}, "no effect"),
        ({"temperature": 0.0, "do_sample": True}, "greedy"),
        ({"max_new_tokens": 5, "max_length": 9}, "contradict"),
        ({"num_return_sequences": 2}, "sampling"),
        ({"stop": ("",)}, "empty stop"),
        ({"top_p": 1.5}, "less than or equal"),
        ({"temprature": 1.0}, "temprature"),
    ],
)
def test_settings_that_contradict_or_do_nothing_are_errors(fields, what):
    with pytest.raises(ValueError, match=what):
        Generation(**fields)


def test_asking_for_a_temperature_means_sampling_and_zero_is_greedy():
    assert Generation(temperature=0.7).samples
    assert Generation(top_k=5).samples
    assert not Generation().samples
    assert not Generation(temperature=0).samples


def test_drawn_tokens_have_their_probabilities():
    logits = torch.tensor([1.0, 2.0, 3.0, -torch.inf])
    generator = torch.Generator().manual_seed(0)
    chosen = Generation(do_sample=True)
    draws = torch.tensor([draw(Ask(logits, chosen, next_chance(generator))) for _ in range(6000)])
    shares = torch.bincount(draws, minlength=4) / 6000
    assert torch.allclose(shares, logits.softmax(-1), atol=0.02)


@pytest.mark.parametrize(
    "heat", [0.2, 1.0, 3.0]
)  # nearly sure, as a trained model, without opinion
@pytest.mark.parametrize("k", [None, 1, 50, 4999, 9000])
@pytest.mark.parametrize("p", [None, 0.01, 0.5, 0.9])
def test_few_are_kept_of_a_large_vocabulary_as_transformers_keep_them(heat, k, p):
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 3
    chosen = Generation(temperature=heat, top_k=k, top_p=p)
    assert torch.allclose(our_chances(logits, chosen), their_chances(logits, chosen), atol=1e-6)


def test_of_equal_tokens_only_so_many_are_kept_as_sum_to_p():
    same = torch.zeros(1000)
    assert int((our_chances(same, Generation(top_p=0.25)) > 0).sum()) == 250
    assert int((our_chances(same, Generation(top_k=3)) > 0).sum()) == 1000  # each equals the third


def test_a_chance_finds_the_place_where_the_running_sum_passes_it():
    dice = torch.Generator().manual_seed(0)
    for size in (1, 7, 256, 257, 3000):
        weights = torch.rand(size, generator=dice) * (torch.rand(size, generator=dice) < 0.3)
        weights[size // 2] = 0.5
        sums = weights.double().cumsum(0)
        for chance in [0.0, 1 - 2.0**-53, *torch.rand(200, generator=dice).tolist()]:
            found = place_of(chance, weights)
            assert weights[found] > 0
            below, wanted = float(sums[found] - weights[found]), chance * float(sums[-1])
            assert below - 1e-9 <= wanted <= float(sums[found]) + 1e-9


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_nothing_is_drawn_from_logits_that_are_not_finite(odd):
    logits = torch.tensor([0.0, odd, 1.0])
    for chosen in (Generation(temperature=1.0), Generation(top_p=0.5), Generation(top_k=2)):
        with pytest.raises(NumericsError, match="no token can be drawn"):
            draw(Ask(logits, chosen, 0.5))


def test_what_was_said_is_less_likely_once_and_each_time():
    logits = torch.arange(6, dtype=torch.float32)
    found = penalise_said(logits, [4, 2, 4, 4], presence=0.5, frequency=2.0)
    assert found.tolist() == [0.0, 1.0, 2.0 - 0.5 - 2.0, 3.0, 4.0 - 0.5 - 6.0, 5.0]
    assert penalise_said(logits, [4], 0.0, 0.0) is logits


def test_a_row_does_not_count_its_prompt_as_said():
    settings = Generation(max_new_tokens=3, presence_penalty=2.0)
    row = Row([5, 5, 5], settings)
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 4.5])
    assert [row.choose(logits) for _ in range(3)] == [5, 4, 3]
    assert row.ended == "length"


def test_a_bias_moves_a_token_in_and_another_out():
    logits = torch.tensor([0.0, 1.0, 2.0])
    settings = Generation(max_new_tokens=1)
    assert Row([0], settings).choose(logits) == 2
    assert Row([0], settings, bias={2: -100.0}).choose(logits) == 1
    assert Row([0], settings, bias={0: 100.0}).choose(logits) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_beside_the_likeliest_of_all_rows_chooses_as_it_does_alone(dtype):
    dice = torch.Generator().manual_seed(0)
    settings = Generation(max_new_tokens=1)
    moved = 0
    for _ in range(300):
        logits = torch.randint(-4, 5, (12,), generator=dice).to(dtype) / 2  # with many ties
        tokens = torch.randperm(12, generator=dice)[: int(torch.randint(1, 5, (), generator=dice))]
        added = torch.randint(-4, 5, tokens.shape, generator=dice).float() / 2
        bias = dict(zip(tokens.tolist(), added.tolist(), strict=True))
        row = Row([0], settings, bias=bias)
        assert row.takes_the_likeliest
        found = row.choose(logits, int(logits.argmax()))
        assert found == Row([0], settings, bias=bias).choose(logits)
        moved += found != int(logits.argmax())
    assert 30 < moved < 270
