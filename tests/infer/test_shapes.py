"""`LanguageModel` of every shape: an encoder–decoder answers, an encoder only gives logits."""

import pytest
import torch

import yantai
from yantai.base.errors import ModelFileError, UsageError
from yantai.core.config import ModelConfig, RecurrentConfig
from yantai.core.initialise import build
from yantai.evaluate.text_loss import text_loss
from yantai.families.table import family_named
from yantai.infer.generate import generate_ids, steps
from yantai.infer.language_model import LanguageModel
from yantai.infer.settings import Generation

SIZES = {
    "dim": 32, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 8, "hidden": 64,
    "max_positions": 64, "gated": False, "activation": "relu",
}  # fmt: skip
T5 = {"shape": "encoder-decoder", "position": "relative", "norm": "rms_wide", "scaled": ("head",)}
BERT = {
    "shape": "encoder", "norm": "layer", "norm_where": "after", "norm_embedding": True,
    "position": "learned", "head": "transformed", "biases": ("head", "mlp", "out", "qkv"),
}  # fmt: skip


def built(tokenizer, family, seed=0, **changes):
    config = ModelConfig(vocab_size=tokenizer.vocab_size, **SIZES | changes)
    model = build(config, seed=3, table="gpt2", dtype=torch.float64)  # no two scores are near
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise * 0.2)
    ends = frozenset({tokenizer.eos_id})
    start = tokenizer.pad_id if config.shape == "encoder-decoder" else None
    return LanguageModel(model, family_named(family), tokenizer, ends, start)


@pytest.fixture(scope="module")
def answering(tokenizer):
    return built(tokenizer, "t5", **T5)


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return built(tokenizer, "bert", **BERT)


@pytest.fixture(scope="module")
def recurrent(tokenizer):
    config = RecurrentConfig(
        kind="gru", shape="encoder-decoder", vocab_size=tokenizer.vocab_size, dim=32, hidden=32,
        layers=1, max_positions=64,
    )  # fmt: skip
    model = build(config, seed=3, table="recurrent")
    ends = frozenset({tokenizer.eos_id})
    return LanguageModel(model, family_named("gru-seq2seq"), tokenizer, ends, tokenizer.pad_id)


@pytest.fixture(params=["answering", "recurrent"])
def pair(request):
    return request.getfixturevalue(request.param)


def test_an_answer_does_not_repeat_its_source(pair):
    prompt = "A long walk to the mill."
    answer = pair.generate(prompt, max_new_tokens=12)
    assert not answer.startswith(prompt)
    assert "".join(pair.stream(prompt, max_new_tokens=12)) == answer
    start = [[pair.start_id]]
    sources = [pair.tokenizer.prompt(prompt)]
    (ids,) = generate_ids(
        pair.network, start, Generation(max_new_tokens=12), pair.eos_ids, sources=sources
    )
    assert ids[0] == pair.start_id
    assert answer == pair.tokenizer.decode(ids, cut=ids[-1] not in pair.eos_ids)


def test_sources_of_different_length_do_not_disturb_each_other(pair):
    prompts = ["Short.", "A somewhat longer walk to the old mill by the river.", "天气很好。"]
    together = pair.generate(prompts, max_new_tokens=10)
    assert together == [pair.generate(prompt, max_new_tokens=10) for prompt in prompts]
    beams = pair.generate(prompts, max_new_tokens=10, num_beams=3)
    assert beams == [pair.generate(prompt, max_new_tokens=10, num_beams=3) for prompt in prompts]
    two = pair.generate("Short.", max_new_tokens=10, num_beams=3, num_return_sequences=2)
    assert len(two) == 2 and two[0] == beams[0]
    chosen = Generation(max_new_tokens=10, num_beams=3, num_return_sequences=2)
    sources = [pair.tokenizer.prompt("Short.")]
    rows = generate_ids(pair.network, [[pair.start_id]], chosen, pair.eos_ids, sources=sources)
    assert rows[0] != rows[1]  # two texts may look alike, where both are parts of characters


def test_forced_tokens_are_there(pair):
    prompt = ["A walk."]
    chosen = Generation(max_new_tokens=6, forced_first_id=77, forced_last_id=88)
    sources = [pair.tokenizer.prompt(text) for text in prompt]
    for beams in (1, 3):
        (ids,) = generate_ids(
            pair.network, [[pair.start_id]], chosen.model_copy(update={"num_beams": beams}),
            sources=sources,
        )  # fmt: skip
        assert ids[1] == 77
        assert len(ids) == 7 and ids[-1] == 88


def test_logits_need_what_the_decoder_reads(pair, tokenizer):
    source, target = tokenizer.encode("A walk to the mill."), [tokenizer.pad_id, 30, 40]
    logits = pair.logits(source, target)
    assert logits.shape == (1, 3, pair.network.config.vocab_size)
    padded = [[*source, 0, 0]]
    mask = torch.tensor([[1] * len(source) + [0, 0]])
    assert torch.allclose(pair.logits(padded, target, mask), logits, atol=1e-5)
    with pytest.raises(UsageError, match="decoder_ids"):
        pair.logits(source)


def test_saved_and_opened_it_answers_the_same(pair, tmp_path):
    expected = pair.generate("A walk.", max_new_tokens=10)
    pair.save(tmp_path / "model")
    again = yantai.load(tmp_path / "model")
    assert again.start_id == pair.start_id
    assert again.generate("A walk.", max_new_tokens=10) == expected


def test_it_has_no_score_and_no_running_text(pair):
    with pytest.raises(UsageError, match="decoder"):
        pair.score("A walk.")
    with pytest.raises(UsageError, match="decoder"):
        text_loss(pair, [])


def test_without_a_first_token_it_says_so(answering):
    bare = LanguageModel(answering.network, answering.family, answering.tokenizer)
    with pytest.raises(ModelFileError, match="decoder_start_token_id"):
        bare.generate("A walk.", max_new_tokens=3)


def test_an_encoder_gives_logits_and_continues_nothing(encoder):
    ids = encoder.tokenizer.encode("A walk to the mill.")
    assert encoder.logits(ids).shape == (1, len(ids), encoder.network.config.vocab_size)
    for ask in (encoder.generate, lambda text, **options: list(encoder.stream(text, **options))):
        with pytest.raises(UsageError, match="encoder"):
            ask("A walk", max_new_tokens=3)
    with pytest.raises(UsageError, match="encoder"):
        text_loss(encoder, [])
    with pytest.raises(UsageError, match="encoder"):
        generate_ids(encoder.network, [[5]], Generation(max_new_tokens=2))


def test_sources_belong_to_those_that_read_them(answering, tokenizer):
    chosen = Generation(max_new_tokens=2)
    with pytest.raises(UsageError, match="sources"):
        generate_ids(answering.network, [[2]], chosen)
    decoder = built(tokenizer, "gpt2")
    with pytest.raises(UsageError, match="sources"):
        generate_ids(decoder.network, [[2]], chosen, sources=[[5]])


def test_a_search_gives_nothing_out_before_its_end(answering):
    with pytest.raises(UsageError, match="num_beams"):
        list(steps(answering.network, [[2]], Generation(num_beams=2), sources=[[5]]))


def test_a_source_longer_than_its_positions_is_refused(tokenizer):
    model = built(tokenizer, "bart", **BERT | {"shape": "encoder-decoder", "head": "plain"})
    with pytest.raises(UsageError, match="context"):
        generate_ids(model.network, [[2]], Generation(max_new_tokens=2), sources=[[5] * 65])
