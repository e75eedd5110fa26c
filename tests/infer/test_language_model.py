"""The object people hold: batched = single, streamed = at once, saved = loaded."""

import math
from contextlib import closing
from copy import deepcopy

import pytest
import torch
from transformers import GenerationConfig

import yantai
from yantai.base.errors import DataError, ModelFileError, UsageError
from yantai.core.initialise import build
from yantai.families.table import FAMILIES
from yantai.infer.engine import Engine
from yantai.infer.generate import generate_ids
from yantai.infer.language_model import LanguageModel
from yantai.infer.settings import Generation
from yantai.infer.stops import cut_at_stop
from yantai.training.network import model_config
from yantai.training.recipe import Pretrain

PROMPTS = ["One morning", "The village baker was", "你好", "x"]


LIKE_ANOTHER = ("mistral", "qwen2", "rnn", "gru")
DECODERS = [
    pytest.param(name, marks=[pytest.mark.slow] if name in LIKE_ANOTHER else [])
    for name, family in sorted(FAMILIES.items())
    if family.fixed()["shape"] == "decoder"
]


@pytest.fixture(scope="module", params=DECODERS)
def model(request, tokenizer):
    family = FAMILIES[request.param]
    recipe = Pretrain(out="x", size="nano", family=family.name)
    config = model_config(recipe, family, tokenizer.vocab_size)
    core = build(config, table="gpt2" if family.in_transformers else family.initial, seed=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return LanguageModel(core, family, tokenizer, frozenset({tokenizer.eos_id}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.9, "seed": 3},
        {"top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 1},
    ],
)
def test_a_batch_gives_what_each_prompt_gives_alone(model, options):
    settings = Generation(max_new_tokens=24, **options)
    # what is drawn turns with the last bit of a float32 where a number falls on a border
    network = deepcopy(model.network).double() if settings.samples else model.network
    prompts = [model.tokenizer.prompt(text) for text in PROMPTS]
    rows = generate_ids(network, prompts, settings, model.eos_ids)
    # a row's draws belong to its place in the batch, so compare the first with itself alone
    alone = generate_ids(network, prompts[:1], settings, model.eos_ids)
    assert rows[0] == alone[0]
    if not settings.samples:
        for prompt, row in zip(prompts, rows, strict=True):
            assert generate_ids(network, [prompt], settings, model.eos_ids)[0] == row


def test_cached_and_uncached_batches_agree(model):
    settings = Generation(max_new_tokens=16, temperature=1.0, num_return_sequences=3)
    prompts = [model.tokenizer.prompt(text) for text in PROMPTS]
    rows = [
        generate_ids(model.network, prompts, settings, model.eos_ids, cached=cached)
        for cached in (True, False)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 12


def test_a_stream_is_the_text_and_stops_before_its_stop_texts(model):
    whole = model.generate("One morning", max_new_tokens=40, temperature=1.0, seed=5)
    pieces = list(model.stream("One morning", max_new_tokens=40, temperature=1.0, seed=5))
    assert "One morning" + "".join(pieces) == whole
    rest = whole.removeprefix("One morning")
    stop = rest[10:14]
    cut = model.generate("One morning", max_new_tokens=40, temperature=1.0, seed=5, stop=(stop,))
    assert cut == "One morning" + cut_at_stop(rest, (stop,))
    streamed = "".join(
        model.stream("One morning", max_new_tokens=40, temperature=1.0, seed=5, stop=(stop,))
    )
    assert "One morning" + streamed == cut


def test_seeds_decide_and_sequences_differ(model):
    options = {"max_new_tokens": 12, "temperature": 1.5, "num_return_sequences": 4}
    first, again = (model.generate("A", seed=7, **options) for _ in range(2))
    assert first == again
    assert len(set(first)) == 4
    assert model.generate("A", seed=8, **options) != first


def test_logits_with_padding_on_either_side(model):
    ids = torch.tensor([[5, 9, 30, 7]])
    plain = model.logits(ids)
    left = model.logits([[0, 0, 5, 9, 30, 7]], mask=torch.tensor([[0, 0, 1, 1, 1, 1]]))
    right = model.logits([[5, 9, 30, 7, 0]], mask=torch.tensor([[1, 1, 1, 1, 0]]))
    assert torch.allclose(left[:, 2:], plain, atol=2e-5)
    assert torch.allclose(right[:, :4], plain, atol=2e-5)


def test_a_score_is_the_log_probability_of_each_token(model):
    scores = model.score("One morning")
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode("One morning")]
    logits = model.logits(ids[:-1])[0].log_softmax(-1)
    assert [score.id for score in scores] == ids[1:]
    assert "".join(score.token for score in scores) == "One morning"
    for place, score in enumerate(scores):
        assert score.log_probability == pytest.approx(
            float(logits[place, ids[place + 1]]), abs=1e-4
        )
    assert all(score.log_probability < 0 for score in scores)


def test_saved_and_loaded_it_is_the_same_model(model, tmp_path):
    model.save(tmp_path / "m")
    again = yantai.load(tmp_path / "m")
    assert again.eos_ids == model._turn_ends()
    assert again.generate("One", max_new_tokens=8) == model.generate("One", max_new_tokens=8)
    narrow = yantai.load(tmp_path / "m", dtype="bfloat16")
    assert narrow.logits([3, 4]).dtype == torch.bfloat16


def test_all_that_ends_a_text_is_saved(tokenizer, tmp_path):
    config = model_config(Pretrain(out="x", size="nano"), FAMILIES["llama"], tokenizer.vocab_size)
    core = build(config, table="gpt2", seed=2)
    ends = frozenset({tokenizer.eos_id, 300, 301})
    LanguageModel(core, FAMILIES["llama"], tokenizer, ends).save(tmp_path / "model")
    turn = tokenizer.control["<|im_end|>"]
    assert yantai.load(tmp_path / "model").eos_ids == ends | {turn}
    theirs = GenerationConfig.from_pretrained(tmp_path / "model")
    assert set(theirs.eos_token_id) == ends | {turn}


def test_chat_streams_what_it_returns_and_forgets_oldest_first(model):
    talk = [{"role": "user", "content": "Who are you?"}]
    options = {"max_new_tokens": 20, "temperature": 1.0}
    assert "".join(model.chat(talk, stream=True, **options)) == model.chat(talk, **options)
    long = [
        {"role": role, "content": "many words of the village " * 8}
        for role in ("user", "assistant") * 6
    ][:-1]
    assert isinstance(model.chat(long, max_new_tokens=8), str)
    with pytest.raises(DataError, match="too long"):
        model.chat([{"role": "user", "content": "word " * 3000}])
    batch = model.chat_batch(
        [talk, [*talk, {"role": "assistant", "content": "I"}, *talk]], max_new_tokens=10
    )
    assert batch[0] == model.chat(talk, max_new_tokens=10)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda m: m.generate("x", max_new_tokens=9999), "do not fit"),
        (lambda m: m.generate("x", temprature=1.0), "did you mean 'temperature'"),
        (lambda m: m.score(""), "no tokens"),
        (lambda m: m.generate("x", temperature=-1), "greater than or equal to 0"),
    ],
)
def test_bad_arguments_are_value_errors_that_say_what(model, call, what):
    if what == "do not fit" and model.network.config.position == "none":
        pytest.skip("a state holds any length")
    with pytest.raises(UsageError, match=what) as caught:
        call(model)
    assert isinstance(caught.value, ValueError)


def test_a_folder_without_a_tokenizer_takes_ids(model, tmp_path):
    bare = LanguageModel(model.network, model.family, None, frozenset())
    bare.save(tmp_path / "bare")
    again = yantai.load(tmp_path / "bare")
    assert math.isfinite(float(again.logits([1, 2, 3]).sum()))
    with pytest.raises(ModelFileError, match="no tokenizer"):
        again.generate("hello")


def test_a_tokenizer_beyond_the_embedding_is_refused(model, tokenizer, tmp_path):
    recipe, llama = Pretrain(out="x", size="nano"), FAMILIES["llama"]
    config = model_config(recipe, llama, tokenizer.vocab_size - 1)
    small = LanguageModel(build(config), llama, tokenizer)
    small.save(tmp_path / "m")
    with pytest.raises(ModelFileError, match="beyond the embedding"):
        yantai.load(tmp_path / "m")


def test_pickles_are_refused_unopened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt2", "vocab_size": 9, "n_embd": 8, '
        '"n_layer": 1, "n_head": 2, "n_positions": 8}'
    )
    with pytest.raises(ModelFileError, match="never opened"):
        yantai.load(tmp_path)


def test_a_chat_through_an_engine_says_the_same_and_reads_no_turn_twice(tokenizer):
    family = FAMILIES["llama"]
    config = model_config(Pretrain(out="x", size="nano"), family, tokenizer.vocab_size)
    model = LanguageModel(
        build(config, table="gpt2", seed=2), family, tokenizer, frozenset({tokenizer.eos_id})
    )
    asked = {"max_new_tokens": 12, "temperature": 0.8, "seed": 5, "stop": ["the"]}
    talk = [{"role": "user", "content": "Where is the mill, and who is the miller of the village?"}]
    read = []
    with closing(Engine(model.network, slots=1)) as engine:
        begun = engine._begun
        engine._begun = lambda request: read.append(found := begun(request)) or found
        for _ in range(2):
            plain = model.chat(talk, **asked)
            assert model.chat(talk, engine=engine, **asked) == plain
            talk += [{"role": "assistant", "content": plain}, {"role": "user", "content": "Why?"}]
    assert read[0].request.reused == 0
    assert read[1].request.reused >= len(read[0].request.ids)
