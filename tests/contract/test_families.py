"""One contract for every family of the table: a new row is tested before its author writes a test.

The oracle is `transformers` on tiny random models.
"""

import json
import warnings

import pytest
import torch
import transformers
from oracles import REFERENCE, SPECIAL, VOCAB

from yantai.base.errors import ModelFileError, UsageError
from yantai.core.config import ModelConfig
from yantai.core.mask import valid_keys
from yantai.families.folder import load_folder, save_folder
from yantai.families.table import FAMILIES
from yantai.infer.generate import generate_ids, prepare
from yantai.infer.settings import Generation

CLASSES = {
    "bert": transformers.AutoModelForMaskedLM,
    "roberta": transformers.AutoModelForMaskedLM,
    "t5": transformers.AutoModelForSeq2SeqLM,
    "mt5": transformers.AutoModelForSeq2SeqLM,
    "bart": transformers.AutoModelForSeq2SeqLM,
}
LIKE_ANOTHER = ("mistral", "qwen2", "roberta", "mt5")  # a row or two more than a family beside them
CASES = [
    pytest.param(
        (name, number),
        marks=[pytest.mark.slow] if number or name in LIKE_ANOTHER else [],
        id=f"{name}-{number}",
    )
    for name in REFERENCE
    for number in range(len(REFERENCE[name]))
]


def class_of(name):
    return CLASSES.get(name, transformers.AutoModelForCausalLM)


def answers(ids):
    """What a decoder reads beside a source."""
    return ids.flip(1)[:, ::2]


def their_logits(model, ids, **masks):
    if model.config.is_encoder_decoder:
        return model(input_ids=ids, decoder_input_ids=answers(ids), **masks).logits
    return model(ids, **masks).logits


def our_logits(model, ids):
    if model.config.shape == "encoder-decoder":
        return model(answers(ids), memory=model.encode(ids))
    return model(ids)


def generates(model):
    return model.config.shape != "encoder"


def oracle(name, number):
    torch.manual_seed(number)
    config = REFERENCE[name][number]()
    config._attn_implementation = "sdpa"
    model = class_of(name).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module", params=CASES)
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
    known = {name for name, family in FAMILIES.items() if family.in_transformers}
    assert set(REFERENCE) == known


def test_logits_are_equal_over_thousands_of_positions(pair):
    theirs, ours, _, _ = pair
    ids = torch.randint(3, VOCAB, (2, 2500), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = their_logits(theirs, ids), our_logits(ours, ids)
        assert (expected - got).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
        expected, got = their_logits(theirs.double(), ids), our_logits(ours.double(), ids)
        assert (expected - got).abs().max() <= 1e-9
    theirs.float()
    ours.float()


def test_gradients_are_equal(pair):
    theirs, ours, family, _ = pair
    ids = torch.randint(3, VOCAB, (2, 60), generator=torch.Generator().manual_seed(1))
    theirs.double().zero_grad()
    their_logits(theirs.train(False), ids).pow(2).sum().backward()
    ours.double().zero_grad()
    our_logits(ours, ids).pow(2).sum().backward()
    named = dict(theirs.named_parameters())
    gradients = {name: item.grad for name, item in ours.named_parameters()}
    for row, index in family.rows(set(gradients)):
        for name, gradient in row.write(gradients, index).items():
            expected = named[name].grad
            assert (gradient - expected).norm() <= 1e-4 * expected.norm(), name
    theirs.float()
    ours.float()


def generated(pair, prompt, options, *, cached=True):
    """(theirs, ours): ids of one prompt, in float64."""
    theirs, ours, _, _ = pair
    limits = {} if "max_length" in options else {"max_new_tokens": 40}
    chosen = Generation(**limits, **options)
    # its cache has too few layers for a decoder deeper than the encoder
    asked = {"do_sample": False, "use_cache": False, **limits, **options}
    theirs.double()
    prepare(ours.double())
    try:
        if ours.config.shape == "encoder-decoder":
            expected = theirs.generate(prompt, **asked)
            start = [[theirs.config.decoder_start_token_id]]
            sources = prompt.tolist()
            got = generate_ids(ours, start, chosen, frozenset({2}), sources=sources, cached=cached)
        else:
            expected = theirs.generate(prompt, **asked)
            got = generate_ids(ours, prompt.tolist(), chosen, frozenset({2}), cached=cached)
    finally:
        theirs.float()
        ours.float()
    start = 1 if ours.config.shape == "encoder-decoder" else prompt.shape[1]
    return tuple([whole(row, start) for row in rows] for rows in (expected.tolist(), got))


def whole(row, start):
    """Up to the end token: finished sequences are filled up there, with this or that."""
    new = row[start:]
    end = new.index(2) + 1 if 2 in new else len(new)
    return row[: start + end]


def prompt_of(length):
    generator = torch.Generator().manual_seed(length)
    return torch.randint(3, VOCAB, (1, length), generator=generator)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("length", [pytest.param(1, marks=SLOW), 5, pytest.param(40, marks=SLOW)])
def test_greedy_ids_are_equal_cached_and_uncached(pair, length):
    if not generates(pair[1]):
        pytest.skip("an encoder continues nothing")
    for cached in (True, False):
        expected, got = generated(pair, prompt_of(length), {}, cached=cached)
        assert got == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.3},
        {"max_length": 30},
        {"num_beams": 4, "num_return_sequences": 3},
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 3, "length_penalty": -0.5, "early_stopping": "never", "max_length": 20},
        {"num_beams": 2, "no_repeat_ngram_size": 2, "length_penalty": 0.0},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_there(pair, options):
    if not generates(pair[1]):
        pytest.skip("an encoder continues nothing")
    expected, got = generated(pair, prompt_of(6), options)
    assert got == expected


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(pair, side):
    _, ours, _, _ = pair
    ours.double()
    short = torch.randint(3, VOCAB, (1, 11), generator=torch.Generator().manual_seed(2))
    before = 5 if side == "left" else 0
    padded = torch.nn.functional.pad(short, (before, 5 - before))
    valid = torch.zeros(1, 16, dtype=torch.bool)
    valid[:, before : before + 11] = True
    place = (torch.arange(16)[None] - before).clamp_min(0)
    options = {"mask": valid_keys(valid), "positions": place}
    with torch.no_grad():
        if ours.config.shape == "encoder-decoder":
            target = answers(short)
            expected = ours(target, memory=ours.encode(short))
            got = ours(target, memory=ours.encode(padded, **options))
        else:
            expected = ours(short)
            got = ours(padded, **options)[:, before : before + 11]
    ours.float()
    assert (expected - got).abs().max() < 1e-9


def test_what_we_write_transformers_opens_with_the_same_logits(pair, tmp_path):
    theirs, ours, family, _ = pair
    save_folder(ours.float(), family, tmp_path, special=SPECIAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reread = class_of(family.name).from_pretrained(tmp_path)
    ids = torch.randint(3, VOCAB, (1, 100))
    with torch.no_grad():
        assert torch.equal(their_logits(reread, ids), their_logits(theirs.float(), ids))
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
    constant = {row.theirs for row in family.constants}
    name = next(name for name in sorted(tensors) if name not in constant)
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
