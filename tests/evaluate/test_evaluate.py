"""Loss over windows equals the direct sum; intervals hold what they should; verdicts are honest."""

import math

import numpy as np
import pytest
import torch

from yantai.base.errors import DataError, UsageError
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.evaluate.compare import paired_ratio_difference, proportion, ratio
from yantai.evaluate.text_loss import text_loss
from yantai.families.table import FAMILIES
from yantai.infer.language_model import LanguageModel
from yantai.text.document import Document
from yantai.training.sizes import model_fields

TEXTS = ["One morning the baker woke late.", "面包师傅今天起晚了。", "x", "a longer text " * 30]


@pytest.fixture(scope="module")
def model(tokenizer):
    fields = model_fields("nano", "qwen3") | {"vocab_size": tokenizer.vocab_size}
    core = build(ModelConfig(**fields | {"max_positions": 512}), table="gpt2")
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return LanguageModel(core, FAMILIES["qwen3"], tokenizer)


def documents(texts):
    return [Document(text, str(number), "test", 1) for number, text in enumerate(texts)]


def test_bits_per_byte_are_the_scores_of_every_token_over_raw_bytes(model):
    report = text_loss(model, documents(TEXTS)).report()
    direct = [-score.log_probability for text in TEXTS for score in model.score(text)]
    size = sum(len(text.encode()) for text in TEXTS)
    assert report["tokens"] == len(direct)
    assert report["bytes"] == size
    assert report["loss"] == pytest.approx(sum(direct) / len(direct), rel=1e-5)
    assert report["bits_per_byte"] == pytest.approx(sum(direct) / math.log(2) / size, rel=1e-5)
    assert report["perplexity"] == pytest.approx(math.exp(report["loss"]))
    low, high = (report["intervals"]["bits_per_byte"][key] for key in ("low", "high"))
    assert low <= report["bits_per_byte"] <= high
    blind = math.log(model.network.config.vocab_size)  # all entries alike
    assert report["intervals"]["perplexity"]["chance"] == pytest.approx(math.exp(blind))
    chance = report["intervals"]["bits_per_byte"]["chance"]
    assert chance == pytest.approx(blind * len(direct) / math.log(2) / size)


@pytest.mark.parametrize(("context", "stride"), [(16, 8), (16, 16), (16, 1), (9, 5)])
def test_sliding_windows_score_each_token_once_with_the_context_they_promise(
    model, context, stride
):
    text = TEXTS[3]
    got = text_loss(model, documents([text]), context=context, stride=stride)
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode(text)]
    total, scored, start = 0.0, 0, 0
    while scored < len(ids) - 1:
        part = ids[start : start + context + 1]
        logs = model.logits(part[:-1])[0].log_softmax(-1)
        for place in range(scored - start, len(part) - 1):
            total -= float(logs[place, part[place + 1]])
        scored = start + len(part) - 1
        start += stride
    assert sum(got.tokens) == len(ids) - 1
    assert sum(got.losses) == pytest.approx(total, rel=1e-4)


def test_more_context_is_not_a_different_sum_of_tokens(model):
    counts = {sum(text_loss(model, documents(TEXTS), context=c).tokens) for c in (8, 64, 512)}
    assert len(counts) == 1


def test_what_cannot_be_scored_is_said(model):
    with pytest.raises(UsageError, match="longer than the model's"):
        text_loss(model, documents(TEXTS), context=4096)
    with pytest.raises(DataError, match="no text"):
        text_loss(model, [])


def test_wilson_intervals_cover_as_they_promise():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        estimate = proportion(int(generator.binomial(60, 0.85)), 60)
        covered += estimate.low <= 0.85 <= estimate.high
    assert 0.93 <= covered / 1000 <= 0.98
    assert proportion(0, 0).high == 1.0
    assert proportion(5, 5).low > 0.5


def test_bootstrap_intervals_cover_as_they_promise():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        tops = generator.normal(3.0, 1.0, 80)
        estimate = ratio(tops, np.ones(80), seed=trial)
        covered += estimate.low <= 3.0 <= estimate.high
    assert 0.89 <= covered / 200 <= 0.99


def test_no_difference_is_said_where_none_is_shown():
    generator = np.random.default_rng(2)
    base = generator.normal(3.0, 1.0, 50)
    same = paired_ratio_difference(base, base + generator.normal(0, 0.1, 50), np.ones(50))
    assert same["verdict"] == "no difference shown"
    lower = paired_ratio_difference(base - 0.5, base, np.ones(50))
    assert lower["verdict"] == "the first is lower"
    assert (
        paired_ratio_difference(base + 0.5, base, np.ones(50))["verdict"] == "the second is lower"
    )
    named = paired_ratio_difference(base + 0.5, base, np.ones(50), names=("after", "before"))
    assert named["verdict"] == "before is lower"
    assert "no difference shown" in paired_ratio_difference([1.0], [2.0], [1.0])["verdict"]
