"""A model on a GPU says what it says on the CPU: every shape, every way of asking."""

import json
import re
import threading

import pytest
import torch

import yantai
from yantai.core.config import Labels, ModelConfig, RecurrentConfig
from yantai.core.initialise import build
from yantai.families.labels import judging
from yantai.families.table import family_named
from yantai.infer.engine import Engine
from yantai.infer.generate import generate_ids, prepare
from yantai.infer.language_model import LanguageModel
from yantai.infer.request import Request
from yantai.infer.settings import Generation
from yantai.tasks.tag import labels_of
from yantai.text.tokenizer import MASK, SPANS, Tokenizer
from yantai.text.village import Village

DEVICE = "cuda"
torch.backends.cudnn.allow_tf32 = False  # as `choose_device` has it: recurrent networks in float32
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # cuDNN lays weights end to end at each call; ours are matrices of their own
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous"),
]
SIZES = {
    "dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "hidden": 64,
    "max_positions": 256,
}  # fmt: skip
LAYERED = {
    "norm": "layer", "position": "learned", "gated": False, "kv_heads": 4,
    "biases": ("qkv", "out", "mlp"),
}  # fmt: skip
T5 = {
    "shape": "encoder-decoder", "position": "relative", "norm": "rms_wide", "scaled": ("head",),
    "kv_heads": 4,
}  # fmt: skip
BART = LAYERED | {"shape": "encoder-decoder", "norm_where": "after", "norm_embedding": True}
BERT = LAYERED | {"shape": "encoder", "norm_where": "after", "norm_embedding": True}
DECODERS = {
    "llama": {},
    "gpt2": LAYERED | {"activation": "gelu_tanh"},
    "qwen3": {"qk_norm": True, "biases": ("qkv",)},
    "window": {"window": 9},
    "lstm": {"kind": "lstm"},
    "gru": {"kind": "gru"},
    "rnn": {"kind": "rnn"},
}
PAIRS = {"t5": T5, "bart": BART, "gru": {"kind": "gru", "shape": "encoder-decoder"}}
FAMILIES = {"decoder": "llama", "encoder": "bert", "encoder-decoder": "t5"}
TEXTS = ["One morning Ivan", "The village baker was glad because", "你好", "x"]


def network_of(vocab, dtype=torch.float32, **changes):
    """Shaken, so that no two logits are near; the same numbers each time, on the CPU."""
    if "kind" in changes:
        given = {"vocab_size": vocab, "dim": 32, "hidden": 48, "layers": 2, "max_positions": 256}
        network = build(RecurrentConfig(**given | changes), seed=1, table="recurrent")
    else:
        config = ModelConfig(**{"vocab_size": vocab} | SIZES | changes)
        network = build(config, seed=1, table="gpt2")
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=dice) * 0.2)
    return network.to(dtype)


def both(tokenizer, job="", **changes):
    """A model on the CPU, and the same one on the device."""
    family = family_named(FAMILIES[changes.get("shape", "decoder")])
    start = tokenizer.pad_id if changes.get("shape") == "encoder-decoder" else None
    kind = judging(family, job) if job else family
    ends = frozenset({tokenizer.eos_id})
    networks = [network_of(tokenizer.vocab_size, **changes) for _ in range(2)]
    return [LanguageModel(network.to(place), kind, tokenizer, ends, start)
            for network, place in zip(networks, ("cpu", DEVICE), strict=True)]  # fmt: skip


def near(one, other, allowed=1e-4):
    one, other = one.float().cpu(), other.float().cpu()
    return float((one - other).abs().max()) <= allowed * max(1.0, float(one.abs().max()))


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_says_the_same(tokenizer, name):
    here, there = both(tokenizer, **DECODERS[name])
    assert next(there.network.parameters()).device.type == DEVICE
    assert near(*(model.logits(range(5, 45)) for model in (here, there)))
    asked = {"max_new_tokens": 24}
    assert there.generate(TEXTS, **asked) == here.generate(TEXTS, **asked)
    beams = asked | {"num_beams": 3, "num_return_sequences": 2}
    assert there.generate(TEXTS, **beams) == here.generate(TEXTS, **beams)
    prompts = [tokenizer.prompt(text) for text in TEXTS]
    plain = [generate_ids(there.network, prompts, Generation(**asked), there.eos_ids, cached=cached)
             for cached in (True, False)]  # fmt: skip
    assert plain[0] == plain[1]
    scores = [model.score("Ivan was glad. 你好") for model in (here, there)]
    for one, other in zip(*scores, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", PAIRS)
def test_an_encoder_decoder_says_the_same(tokenizer, name):
    here, there = both(tokenizer, **PAIRS[name])
    ids = torch.arange(5, 45)
    assert near(*(model.logits(ids, ids.flip(0)) for model in (here, there)))
    for asked in ({}, {"num_beams": 4}, {"temperature": 0.8, "top_p": 0.9, "seed": 3}):
        given = asked | {"max_new_tokens": 16}
        assert there.generate(TEXTS, **given) == here.generate(TEXTS, **given)
    if name != "gru":
        texts = [yantai.translate(model, TEXTS, max_new_tokens=8) for model in (here, there)]
        assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "drawn",
    [{"temperature": 1.0}, {"temperature": 0.8, "top_k": 12}, {"top_p": 0.8}, {"min_p": 0.05},
     {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3}],
    ids=str,
)  # fmt: skip
def test_what_is_drawn_depends_on_the_seed_alone(tokenizer, drawn):
    here, there = both(tokenizer)
    asked = {"max_new_tokens": 30, "seed": 5, "num_return_sequences": 3} | drawn
    first = there.generate(TEXTS, **asked)
    assert first == there.generate(TEXTS, **asked)
    assert first == here.generate(TEXTS, **asked)  # the numbers are drawn on the CPU
    assert first != there.generate(TEXTS, **asked | {"seed": 6})


def test_padding_on_either_side_changes_nothing(tokenizer):
    _, model = both(tokenizer)
    ids = torch.arange(5, 25)
    alone = model.logits(ids)[0]
    left = torch.cat((torch.zeros(6, dtype=torch.long), ids))
    mask = (torch.arange(26) >= 6).long()
    assert near(model.logits(left[None], mask=mask[None])[0, 6:], alone)
    assert near(model.logits(left.roll(-6)[None], mask=mask.roll(-6)[None])[0, :20], alone)


def test_a_stream_stops_where_a_text_says_so(tokenizer):
    here, there = both(tokenizer)
    whole = "".join(here.stream("One morning", max_new_tokens=40))
    stop = whole[len(whole) // 2 :][:3]
    texts = ["".join(model.stream("One morning", max_new_tokens=40, stop=(stop,)))
             for model in (here, there)]  # fmt: skip
    assert texts[0] == texts[1] == whole[: whole.index(stop)]
    talk = [{"role": "user", "content": "Who are you?"}]
    chats = [model.chat(talk, max_new_tokens=20) for model in (here, there)]
    assert chats[0] == chats[1]


@pytest.mark.parametrize("shape", ["decoder", "encoder", "encoder-decoder"])
def test_vectors_are_the_same(tokenizer, shape):
    changes = {"decoder": {}, "encoder": BERT, "encoder-decoder": T5}[shape]
    here, there = both(tokenizer, **changes)
    vectors = [yantai.embed(model, TEXTS) for model in (here, there)]
    assert vectors[1].device.type == "cpu" and near(*vectors)


@pytest.mark.parametrize("shape", ["decoder", "encoder", "encoder-decoder"])
def test_judgements_are_the_same(tokenizer, shape):
    changes = {"decoder": {}, "encoder": BERT, "encoder-decoder": T5}[shape]
    head = Labels(names=("bad", "good", "also"))
    found = [yantai.classify(model, TEXTS) for model in both(tokenizer, "classify", head=head,
                                                             **changes)]  # fmt: skip
    for one, other in zip(*found, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
    if shape == "encoder-decoder":
        return
    head = Labels(names=labels_of(["person"]), bias=True)
    found = [yantai.tag(model, TEXTS) for model in both(tokenizer, "tag", head=head, **changes)]
    assert found[0] == found[1]
    head = Labels(names=("start", "end"))
    found = [yantai.answer(model, ["Who is glad?"] * 4, [text + " ." for text in TEXTS])
             for model in both(tokenizer, "span", head=head, **changes)]  # fmt: skip
    for one, other in zip(*found, strict=True):
        assert (one.text, one.start) == (other.text, other.start)
        assert one.score == pytest.approx(other.score, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "specials"), [(BERT, (MASK,)), (T5, SPANS), (BART, (MASK,))],
    ids=["bert", "t5", "bart"],
)  # fmt: skip
def test_blanks_are_filled_alike(changes, specials):
    stories = [row["text"] for row in Village(seed=3).documents(100)]
    tokenizer = Tokenizer.train(stories, 600, specials=specials)
    given = {} if changes is BERT else {"max_new_tokens": 6}
    found = [yantai.fill(model, "Once upon a ___, there was a ___.", **given)
             for model in both(tokenizer, **changes)]  # fmt: skip
    assert found[0] == found[1] and "___" not in found[0]


# ---------------------------------------------------------------- the engine


def asked_of(count, vocab=90, most=60):
    dice = torch.Generator().manual_seed(3)
    sizes = torch.randint(1, most, (count,), generator=dice).tolist()
    prompts = [torch.randint(vocab, (size,), generator=dice).tolist() for size in sizes]
    drawn = {"temperature": 0.9, "top_k": 20, "repetition_penalty": 1.2}
    return [
        (ids, Generation(max_new_tokens=5 + 7 * (number % 5), seed=number,
                         **(drawn if number % 3 == 2 else {})))
        for number, ids in enumerate(prompts)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "gpt2", "lstm"])
def test_many_at_once_say_what_each_says_alone(name):
    model = prepare(network_of(90, **DECODERS[name]).to(DEVICE))
    engine = Engine(model, slots=8)
    asked = asked_of(32)
    requests = [engine.submit(Request(ids, settings, frozenset({1}))) for ids, settings in asked]
    found = [request.wait(240) for request in requests]
    for (ids, settings), new in zip(asked, found, strict=True):
        assert new == generate_ids(model, [ids], settings, frozenset({1}))[0][len(ids) :]
    assert engine.active == engine.waiting == 0
    engine.close()


def test_who_cancels_disturbs_nobody_and_what_was_read_is_not_read_again():
    model = prepare(network_of(90).to(DEVICE))
    engine = Engine(model, slots=4)
    begun = threading.Event()
    settings = Generation(max_new_tokens=120)
    gone = Request([3, 4, 5], settings, on_token=lambda token, logits: begun.set())
    engine.submit(gone)
    assert begun.wait(240)
    stays = engine.submit(Request([6, 7], Generation(max_new_tokens=30)))
    gone.cancel()
    gone.wait(240)
    assert gone.reason in ("cancelled", "length")
    alone = generate_ids(model, [[6, 7]], Generation(max_new_tokens=30))[0]
    assert stays.wait(240) == alone[2:]
    past = list(range(5, 60))
    few = Generation(max_new_tokens=6)
    first = engine.submit(Request(past, few)).wait(240)
    again = engine.submit(Request(past + first, few))
    assert again.wait(240) == generate_ids(model, [past + first], few)[0][len(past) + 6 :]
    assert again.reused >= len(past)
    engine.close()


SCHEMA = {
    "type": "object", "properties": {"name": {"type": "string", "maxLength": 8},
                                     "kind": {"enum": ["baker", "面包师"]}},
    "required": ["name", "kind"], "additionalProperties": False,
}  # fmt: skip


def test_texts_keep_to_their_grammar_and_bias_moves_them(tokenizer):
    grammar = pytest.importorskip("yantai.infer.grammar", exc_type=ImportError)
    ends = frozenset({tokenizer.eos_id})
    grammars = grammar.Grammars(tokenizer, ends)
    model = prepare(network_of(tokenizer.vocab_size).to(DEVICE))
    engine = Engine(model, slots=4)
    settings = Generation(max_new_tokens=120, temperature=1.0, seed=2)

    def ask(**how):
        return engine.submit(Request([5, 6], settings, ends, **how))

    walks = [ask(guide=grammars.guide("regex", "[ab]{3,9}c")),
             ask(guide=grammars.guide("json_schema", SCHEMA))]  # fmt: skip
    banned = ask(bias=dict.fromkeys(range(300, 400), -100.0))
    texts = [tokenizer.decode(walk.wait(240)) for walk in walks]
    assert re.fullmatch("[ab]{3,9}c", texts[0])
    assert json.loads(texts[1])["kind"] in ("baker", "面包师")
    assert not set(banned.wait(240)) & set(range(300, 400))
    engine.close()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gru"])
def test_in_bfloat16_logits_are_near_those_of_float32(tokenizer, name):
    changes = DECODERS[name]
    ids = torch.arange(5, 45)[None]
    wide = prepare(network_of(tokenizer.vocab_size, **changes))
    narrow = prepare(network_of(tokenizer.vocab_size, torch.bfloat16, **changes).to(DEVICE))
    with torch.inference_mode():
        expected, got = wide(ids), narrow(ids.to(DEVICE))
    assert got.dtype == torch.bfloat16 and near(expected, got, 0.1)
    engine = Engine(narrow, slots=8)
    asked = asked_of(16)
    for request in [engine.submit(Request(ids, settings)) for ids, settings in asked]:
        assert len(request.wait(240)) == request.settings.max_new_tokens
    engine.close()
