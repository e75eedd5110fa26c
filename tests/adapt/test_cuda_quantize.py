"""Weights in eight or four bits on a GPU: the same codes, the same logits, the same folders."""

import pytest
import torch
from test_quantize import FORMS, IDS, dequantised, model

import yantai
from yantai.adapt.packed import Form, pack, unpack
from yantai.adapt.quantize import input_squares, packed_modules, quantize
from yantai.families.table import family_named
from yantai.infer.generate import prepare
from yantai.infer.language_model import LanguageModel
from yantai.life.quantize import quantise
from yantai.life.settings import Quantize
from yantai.text.village import Village

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def matrix(rows=256, columns=512):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_codes_are_those_of_the_cpu(form):
    weight, cost = matrix(), torch.rand(512, generator=torch.Generator().manual_seed(1))
    for importance in (None, cost):
        codes, scales = pack(weight, form, importance)
        found = pack(weight.to(DEVICE), form, importance)
        assert found[0].device.type == found[1].device.type == DEVICE
        assert torch.equal(unpack(*found, form, torch.float32).cpu(),
                           unpack(found[0].cpu(), found[1].cpu(), form, torch.float32))  # fmt: skip
        same = (scales == found[1].cpu()).flatten()
        if form.bits == 8:
            assert same.all() and torch.equal(codes, found[0].cpu())
        else:  # of two scales that are as good, another order of the sum may prefer the other
            groups = [each.unflatten(1, (-1, form.group // 2)).flatten(0, 1)
                      for each in (codes, found[0].cpu())]  # fmt: skip
            assert same.float().mean() > 0.999 and torch.equal(groups[0][same], groups[1][same])


@pytest.mark.parametrize(
    "changes", [{}, {"tied": False, "biases": ("qkv", "out", "mlp")}, {"hidden": 100}], ids=str
)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_packed_model_computes_what_its_codes_stand_for(form, changes):
    packed = model(**changes).to(DEVICE)
    quantize(packed, form)
    plain, packed = dequantised(packed, **changes), prepare(packed)
    with torch.inference_mode():
        expected = plain(IDS)
        got = packed(IDS.to(DEVICE)).float().cpu()
        again = prepare(packed.to(torch.bfloat16))(IDS.to(DEVICE)).float().cpu()
    size = float(expected.abs().max())
    assert float((got - expected).abs().max()) < 1e-4 * size
    assert float((again - expected).abs().max()) < 0.1 * size
    assert {each.scales.dtype for _, each in packed_modules(packed)} == {torch.bfloat16}


def test_what_is_read_decides_scales_there_too():
    found = []
    for place in ("cpu", DEVICE):
        read = model().to(place)
        with input_squares(read) as importance, torch.no_grad():
            read(IDS.to(place))
        found.append({name: each.cpu() for name, each in importance.items()})
        quantize(read, Form(4, 32), importance=importance)
    for name, square in found[0].items():
        assert torch.allclose(square, found[1][name], rtol=1e-4), name


@pytest.mark.parametrize("made_on", ["cpu", DEVICE])
def test_a_packed_folder_opens_on_both(tokenizer, tmp_path, made_on):
    network = model(vocab_size=tokenizer.vocab_size).to(made_on)
    quantize(network, Form(4, 32))
    ends = frozenset({tokenizer.eos_id})
    LanguageModel(network, family_named("llama"), tokenizer, ends).save(tmp_path / "small")
    here, there = (yantai.load(tmp_path / "small", device=place) for place in ("cpu", DEVICE))
    assert next(there.network.buffers()).device.type == DEVICE
    one, other = here.logits(IDS), there.logits(IDS).cpu()
    assert float((one - other).abs().max()) < 1e-4 * float(one.abs().max())
    texts = [each.generate(["One morning", "x"], max_new_tokens=16) for each in (here, there)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("bits", [8, 4])
def test_the_report_of_a_quantisation(tokenizer, tmp_path, bits):
    stories = [story.text for story in Village(seed=5).stories(12, "en")]
    (tmp_path / "held.txt").write_text("\n\n".join(stories), encoding="utf-8")
    network = model(vocab_size=tokenizer.vocab_size)
    ends = frozenset({tokenizer.eos_id})
    LanguageModel(network, family_named("llama"), tokenizer, ends).save(tmp_path / "whole")
    reports = [
        quantise(
            Quantize(
                model=str(tmp_path / "whole"), out=tmp_path / place, bits=bits, device=place,
                data=(tmp_path / "held.txt",), threads=1, rest="float32", max_loss_increase=1.0,
                calibrate=(tmp_path / "held.txt",) if bits == 4 else (),
            ),
            str,
        )
        for place in ("cpu", DEVICE)
    ]  # fmt: skip
    for name in ("before", "after"):
        values = [each["loss"][name]["value"] for each in reports]
        assert values[0] == pytest.approx(values[1], rel=1e-3)
    assert reports[0]["bits_a_weight"] == reports[1]["bits_a_weight"]
    for folder in ("cpu", DEVICE):  # what was made here opens there, as its probes say
        for place in ("cpu", DEVICE):
            yantai.load(tmp_path / folder, device=place, dtype="float32", probes=True)
