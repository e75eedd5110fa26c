"""Rules on logits: equal to transformers' own processors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList
from transformers.generation import logits_process as theirs

from yantai.infer.row import Row
from yantai.infer.sample import adjust, penalise_said, pick
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
    chain = LogitsProcessorList()
    if penalty != 1.0:
        chain.append(theirs.RepetitionPenaltyLogitsProcessor(penalty))
    if ngram:
        chain.append(theirs.NoRepeatNGramLogitsProcessor(ngram))
    if heat != 1.0:
        chain.append(theirs.TemperatureLogitsWarper(heat))
    if k is not None:
        chain.append(theirs.TopKLogitsWarper(k))
    if p is not None and p < 1.0:
        chain.append(theirs.TopPLogitsWarper(p))
    if floor is not None:
        chain.append(theirs.MinPLogitsWarper(floor))
    expected = chain(torch.tensor([seen]), logits[None].clone())[0]
    chosen = Generation(
        temperature=heat,
        top_k=k,
        top_p=p,
        min_p=floor,
        repetition_penalty=penalty,
        no_repeat_ngram_size=ngram,
    )
    assert torch.allclose(adjust(logits.clone(), seen, chosen), expected, atol=1e-6)


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
    draws = torch.tensor([pick(logits, chosen, generator) for _ in range(6000)])
    shares = torch.bincount(draws, minlength=4) / 6000
    assert torch.allclose(shares, logits.softmax(-1), atol=0.02)


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
