"""One contract for every family of the table: a new row is tested before its author writes a test.

The oracle is `transformers` on tiny random models.
"""

import json
import warnings

import pytest
import torch
import transformers

from yantai.base.errors import ModelFileError, UsageError
from yantai.core.config import ModelConfig
from yantai.families.folder import load_folder, save_folder
from yantai.families.table import FAMILIES
from yantai.infer.generate import generate_ids, prepare
from yantai.infer.settings import Generation

VOCAB = 97
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHARED = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    **SPECIAL,
}
SCALINGS = [
    {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0},
    {
        "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0,
        "original_max_position_embeddings": 512,
    },
    {
        "rope_type": "yarn", "rope_theta": 1_000.0, "factor": 4.0, "beta_fast": 20.0,
        "original_max_position_embeddings": 1024, "mscale": 0.8, "mscale_all_dim": 1.2,
        "truncate": False,
    },
    {
        "rope_type": "llama3", "rope_theta": 5_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
    },
]  # fmt: skip
REFERENCE = {
    "llama": [
        lambda: transformers.LlamaConfig(**SHARED),
        lambda: transformers.LlamaConfig(
            **SHARED | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}
        ),
        *(
            lambda rope=rope: transformers.LlamaConfig(**SHARED, rope_parameters=rope)
            for rope in SCALINGS
        ),
    ],
    "mistral": [lambda: transformers.MistralConfig(**SHARED, sliding_window=9, head_dim=8)],
    "qwen2": [lambda: transformers.Qwen2Config(**SHARED)],
    "qwen3": [lambda: transformers.Qwen3Config(**SHARED, head_dim=16, tie_word_embeddings=True)],
    "gpt2": [
        lambda: transformers.GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=4096, **SPECIAL
        )
    ],
}
CASES = [(name, number) for name in FAMILIES for number in range(len(REFERENCE[name]))]


def oracle(name, number):
    torch.manual_seed(number)
    config = REFERENCE[name][number]()
    config._attn_implementation = "sdpa"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def pair(request, tmp_path_factory):
    """The oracle's model, its folder, and ours read from it."""
    name, number = request.param
    theirs = oracle(name, number)
    folder = tmp_path_factory.mktemp(name)
    theirs.save_pretrained(folder)
    ours, family, _ = load_folder(folder)
    assert family.name == name
    return theirs, ours, family, folder


def test_every_family_has_an_oracle():
    assert set(REFERENCE) == set(FAMILIES)


def test_logits_are_equal_over_thousands_of_positions(pair):
    theirs, ours, _, _ = pair
    ids = torch.randint(3, VOCAB, (2, 2500), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = theirs(ids).logits, ours(ids)
        assert (expected - got).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
        expected, got = theirs.double()(ids).logits, ours.double()(ids)
        assert (expected - got).abs().max() <= 1e-9
    theirs.float()
    ours.float()


def test_gradients_are_equal(pair):
    theirs, ours, family, _ = pair
    ids = torch.randint(3, VOCAB, (2, 60), generator=torch.Generator().manual_seed(1))
    theirs.double().zero_grad()
    theirs.train(False)(ids).logits.pow(2).sum().backward()
    ours.double().zero_grad()
    ours(ids).pow(2).sum().backward()
    named = dict(theirs.named_parameters())
    gradients = {name: item.grad for name, item in ours.named_parameters()}
    for row, index in family.rows(set(gradients), ours.config.layers):
        for name, gradient in row.write(gradients, index).items():
            expected = named[name].grad
            assert (gradient - expected).norm() <= 1e-4 * expected.norm(), name
    theirs.float()
    ours.float()


def test_greedy_ids_are_equal_cached_and_uncached(pair):
    theirs, ours, _, _ = pair
    theirs.double()
    prepare(ours.double())
    for length in (1, 5, 40):
        prompt = torch.randint(
            3, VOCAB, (1, length), generator=torch.Generator().manual_seed(length)
        )
        expected = theirs.generate(prompt, max_new_tokens=60, do_sample=False)[0].tolist()
        settings = Generation(max_new_tokens=60)
        for cached in (True, False):
            rows = generate_ids(ours, prompt.tolist(), settings, frozenset({2}), cached=cached)
            assert rows[0] == expected
    theirs.float()
    ours.float()


@pytest.mark.parametrize(
    "options", [{"no_repeat_ngram_size": 2}, {"repetition_penalty": 1.3}, {"max_length": 30}]
)
def test_penalties_mean_what_they_mean_there(pair, options):
    theirs, ours, _, _ = pair
    prompt = torch.randint(3, VOCAB, (1, 6), generator=torch.Generator().manual_seed(4))
    limits = {} if "max_length" in options else {"max_new_tokens": 40}
    expected = theirs.double().generate(prompt, do_sample=False, **limits, **options)[0].tolist()
    chosen = Generation(**limits, **options)
    got = generate_ids(prepare(ours.double()), prompt.tolist(), chosen, frozenset({2}))[0]
    theirs.float()
    ours.float()
    assert got == expected


def test_what_we_write_transformers_opens_with_the_same_logits(pair, tmp_path):
    theirs, ours, family, _ = pair
    save_folder(ours.float(), family, tmp_path, special=SPECIAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reread = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(3, VOCAB, (1, 100))
    with torch.no_grad():
        assert torch.equal(reread(ids).logits, theirs.float()(ids).logits)
    assert set(reread.state_dict()) == set(theirs.state_dict())


def test_config_survives_both_directions(pair):
    _, ours, family, _ = pair
    theirs = family.write_config(ours.config)
    again = family.read_config(json.loads(json.dumps(theirs)), "config.json")
    assert again == ours.config


def test_missing_extra_and_misshapen_tensors_are_named(pair, tmp_path):
    from safetensors.torch import load_file, save_file

    _, ours, family, _ = pair
    save_folder(ours.float(), family, tmp_path, special=SPECIAL)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    for change, wanted in (
        ({key: value for key, value in tensors.items() if key != name}, "missing"),
        (tensors | {"surprise": torch.zeros(2)}, "surprise"),
        (tensors | {name: torch.zeros(3, 5)}, "shape"),
    ):
        save_file({key: value.contiguous() for key, value in change.items()}, path)
        with pytest.raises((ModelFileError, IndexError), match=wanted):
            load_folder(tmp_path)


def test_a_model_outside_the_family_is_refused_by_the_field(pair):
    _, ours, family, _ = pair
    odd = ours.config.model_copy(update={"softcap": 15.0})
    with pytest.raises(UsageError, match="softcap"):
        family.write_config(ModelConfig(**odd.model_dump()))
