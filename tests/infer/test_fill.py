"""Blanks: where the control tokens go, and how an answer is put back."""

import pytest
import torch

from yantai.base.errors import UsageError
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.families.table import family_named
from yantai.infer import fill as module
from yantai.infer.fill import fill
from yantai.infer.language_model import LanguageModel
from yantai.infer.reader import encode_rows
from yantai.text.tokenizer import MASK, SPANS, Tokenizer
from yantai.text.village import Village

STORIES = [row["text"] for row in Village(seed=3).documents(200)]
SIZES = {
    "dim": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8, "hidden": 32,
    "max_positions": 64, "gated": False, "activation": "relu",
}  # fmt: skip


def model_of(shape, *specials):
    tokenizer = Tokenizer.train(STORIES, 800, specials=specials)
    config = ModelConfig(vocab_size=tokenizer.vocab_size + 3, shape=shape, **SIZES)
    start = tokenizer.pad_id if shape == "encoder-decoder" else None
    network = build(config, seed=1, table="gpt2")
    ends = frozenset({tokenizer.eos_id})
    return LanguageModel(network, family_named("t5"), tokenizer, ends, start)


@pytest.fixture(scope="module")
def encoder():
    return model_of("encoder", MASK)


@pytest.fixture(scope="module")
def restorer():
    return model_of("encoder-decoder", *SPANS)


def test_an_encoder_puts_the_likeliest_token_into_each_blank(encoder, monkeypatch):
    tokenizer, seen = encoder.tokenizer, []
    (walk,), (mill,) = tokenizer.encode(" the"), tokenizer.encode(" and")

    def logits(ids):
        seen.append(ids)
        found = torch.zeros(1, len(ids), encoder.network.config.vocab_size)
        places = [place for place, id in enumerate(ids) if id == tokenizer.mask_id]
        found[0, :, tokenizer.mask_id] = 9.0  # a control token is never chosen
        found[0, :, -1] = 8.0  # nor a row that no token has
        found[0, places[0], walk] = found[0, places[1], mill] = 5.0
        return found

    monkeypatch.setattr(encoder, "logits", logits)
    assert fill(encoder, "One ___ baker ___ bread.") == "One the baker and bread."
    mask = tokenizer.mask_id
    assert seen == [
        [tokenizer.bos_id, *tokenizer.encode("One"), mask, *tokenizer.encode(" baker"), mask,
         *tokenizer.encode(" bread."), tokenizer.eos_id]
    ]  # fmt: skip


def test_an_answer_of_spans_is_put_back_by_its_sentinels(restorer, monkeypatch):
    tokenizer = restorer.tokenizer
    first, second = tokenizer.span_ids[:2]
    seen = []

    def generate_ids(network, prompts, settings, ends, *, sources):
        seen.append(sources[0])
        answer = [second, *tokenizer.encode(" baked"), first, *tokenizer.encode(" day the")]
        return [[*prompts[0], *answer, tokenizer.eos_id]]

    monkeypatch.setattr(module, "generate_ids", generate_ids)
    assert fill(restorer, "One ___ baker ___ bread.") == "One day the baker baked bread."
    assert [id for id in seen[0] if id in tokenizer.span_ids] == [first, second]


def test_real_networks_fill_something(encoder, restorer, rewriter):
    for model in (encoder, restorer, rewriter):
        text = fill(model, "One ___ the baker.")
        assert text.startswith("One") and text.endswith(" the baker.")
        assert "___" not in text


@pytest.fixture(scope="module")
def rewriter():
    return model_of("encoder-decoder", MASK)


def test_of_what_an_infilling_model_writes_as_much_is_taken_as_fits(rewriter, monkeypatch):
    """It would write two words and then go its own way; the text goes on after the second."""
    tokenizer, seen = rewriter.tokenizer, []
    words = tokenizer.encode(" day the old man")
    two = len(tokenizer.encode(" day the"))

    def generate_ids(network, prompts, settings, ends, *, sources):
        seen.append((list(prompts[0]), sources[0]))
        return [[*prompts[0], *words, tokenizer.eos_id]]

    def log_chance(model, memory, row, ending):
        taken = ending[: ending.index(tokenizer.encode(" baker")[0])]
        return 0.0 if taken == words[:two] else -1.0

    monkeypatch.setattr(module, "generate_ids", generate_ids)
    monkeypatch.setattr(module, "_log_chance", log_chance)
    assert fill(rewriter, "One ___ baker.") == "One day the baker."
    ((prompt, source),) = seen
    bos, mask = [tokenizer.bos_id], tokenizer.mask_id
    assert prompt == rewriter.first_ids() + bos + tokenizer.encode("One")
    end = [*tokenizer.encode(" baker."), tokenizer.eos_id]
    assert source == bos + tokenizer.encode("One") + [mask, *end]


def test_chances_of_an_ending_are_those_of_its_tokens(rewriter):
    source, row, ending = [5, 6, 7], [3, 4], [9, 8, 2]
    logits = rewriter.logits(source, row + ending)[0].log_softmax(-1)
    expected = sum(float(logits[1 + place, id]) for place, id in enumerate(ending))
    memory = encode_rows(rewriter.network, [source])
    found = module._log_chance(rewriter, memory, row, ending)
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_filled_is_an_error(encoder, restorer, tokenizer):
    with pytest.raises(UsageError, match="no blank"):
        fill(encoder, "One day.")
    with pytest.raises(UsageError, match="sentinels"):
        fill(restorer, "___ " * 101)
    with pytest.raises(UsageError, match="mask token"):
        fill(model_of("encoder"), "One ___.")
    with pytest.raises(UsageError, match="decoder"):
        fill(model_of("decoder"), "One ___.")
    with pytest.raises(UsageError, match="guesses"):
        fill(encoder, "One ___.", max_new_tokenz=3)
    with pytest.raises(UsageError, match="did you mean"):
        fill(restorer, "One ___.", max_new_tokenz=3)
    with pytest.raises(UsageError, match="num_return_sequences"):
        fill(restorer, "One ___.", num_beams=3, num_return_sequences=2)
    with pytest.raises(UsageError, match="context"):
        fill(encoder, "One ___ day. " * 40)


def test_the_callers_text_comes_back_letter_for_letter(encoder, restorer, rewriter):
    odd = "Paris  is\tthe ☃ ___ of 天气…  yes"
    for model, options in (
        (encoder, {}),
        (restorer, {"max_length": 20}),
        (rewriter, {"num_beams": 2}),
    ):
        text = fill(model, odd, **options)
        assert text.startswith("Paris  is\tthe ☃") and text.endswith(" of 天气…  yes")
