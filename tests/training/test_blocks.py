"""Blocks in compiled pieces, or as they are where that fails."""

import json
import os
import subprocess
import sys

import pytest
import torch

from yantai.text.village import Village
from yantai.training.blocks import arrange, compiles

CPU, GPU = torch.device("cpu"), torch.device("cuda")

# in a process of its own: under the tests every function of the core is wrapped in checks of shapes
SAME = """
import torch
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.core.mask import same_document
from yantai.training.blocks import arrange

torch.set_num_threads(1)

def make():
    config = ModelConfig(vocab_size=50, dim=32, layers=3, heads=2, kv_heads=1, head_dim=16,
                         hidden=48, max_positions=64)
    return build(config, seed=1, table="gpt2").train()

def loss(model, count):
    ids = torch.randint(0, 50, (3, 32), generator=torch.Generator().manual_seed(count))
    mask = same_document(torch.arange(32).expand(3, 32) * count // 32)
    return model.loss_sum(ids, ids.roll(-1, 1), mask, torch.arange(32).expand(3, 32)) / 96

ours, plain = make(), make()
assert arrange(ours, compiled=True, recompute=RECOMPUTE, trial=lambda: loss(ours, 1))
assert all(parameter.grad is None for parameter in ours.parameters())
torch._dynamo.config.error_on_recompile = True
for count in (1, 2, 5):
    for model in (ours, plain):
        model.zero_grad()
        loss(model, count).backward()
    assert abs(float(loss(ours, count) - loss(plain, count))) < 1e-5
    for (name, mine), (other, theirs) in zip(ours.named_parameters(), plain.named_parameters()):
        assert name == other and torch.allclose(mine.grad, theirs.grad, atol=1e-5), name
with torch.no_grad():
    assert torch.equal(loss(ours.eval(), 3), loss(plain.eval(), 3))
assert ours.state_dict().keys() == plain.state_dict().keys()
"""
AGAIN = """
import json, shutil, sys
from pathlib import Path
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Pretrain

folder = Path(sys.argv[1])
settings = {"size": "nano", "layers": 2, "dim": 32, "heads": 2, "batch": 4, "context": 48,
            "vocab_size": 500, "data": (folder / "stories.jsonl",), "steps": 4, "save_every": 2,
            "threads": 1, "dropout": 0.1, "compile": True, "dtype": "float32"}
pretrain(Pretrain(out=folder / "whole", **settings))
pretrain(Pretrain(out=folder / "cut", **settings))
shutil.rmtree(folder / "cut" / "checkpoints" / "step-000004")
shutil.rmtree(folder / "cut" / "last")
pretrain(Pretrain(out=folder / "cut", resume=True, **settings))
pretrain(Pretrain(out=folder / "plain", **settings | {"compile": False, "dropout": 0.0}))
pretrain(Pretrain(out=folder / "quick", **settings | {"dropout": 0.0}))
"""


def run(script, *arguments):
    found = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_give_the_loss_and_the_gradients_of_plain_ones(recompute):
    said = run(SAME.replace("RECOMPUTE", str(recompute)))
    assert "blocks compiled in" in said and "note:" not in said


@pytest.mark.slow
def test_a_compiled_run_goes_on_to_the_same_bits(tmp_path):
    rows = Village(seed=4).documents(100)
    text = "".join(json.dumps({"text": row["text"]}) + "\n" for row in rows)
    (tmp_path / "stories.jsonl").write_text(text)
    assert "note: blocks" not in run(AGAIN, str(tmp_path))
    one, other = (
        (tmp_path / name / "last" / "model.safetensors").read_bytes() for name in ("whole", "cut")
    )
    assert one == other
    receipts = {
        name: json.loads((tmp_path / name / "receipt.json").read_text())["facts"]
        for name in ("plain", "quick")
    }
    assert receipts["quick"]["predicted"]["kernels"].endswith("compiled blocks")
    assert not receipts["plain"]["predicted"]["kernels"].endswith("compiled blocks")
    assert receipts["quick"]["loss"] == pytest.approx(receipts["plain"]["loss"], abs=1e-4)


def test_what_cannot_be_compiled_is_called_as_it_is(some_model, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no compiler\nin this shell")

    model = some_model().train()
    ids = torch.arange(8)[None]
    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    assert not arrange(
        model, compiled=True, recompute=False, trial=lambda: model.loss_sum(ids, ids)
    )
    assert "blocks are not compiled, the run goes on without: RuntimeError: no compiler" in str(
        capsys.readouterr()
    )
    assert model.decoder.around is None and model.head.of_chunk is None


@pytest.mark.parametrize("recompute", [False, True])
def test_blocks_that_are_not_compiled_are_recomputed_where_that_is_asked(some_model, recompute):
    model = some_model().train()
    ids = torch.arange(8)[None]
    model.loss_sum(ids, ids).backward()
    expected = [each.grad.clone() for each in model.parameters()]
    assert not arrange(model, compiled=False, recompute=recompute, trial=lambda: None)
    assert (model.decoder.around is not None) == recompute
    model.zero_grad()
    model.loss_sum(ids, ids).backward()
    assert all(map(torch.equal, expected, (each.grad for each in model.parameters())))


def test_who_compiles():
    assert compiles(True, CPU, flops=0, seconds=None)
    assert not compiles(False, GPU, flops=1e20, seconds=None)
    assert not compiles(None, CPU, flops=1e20, seconds=None)


@pytest.mark.parametrize(
    "flops, seconds, expected",
    [(1e20, None, True), (1e12, None, False), (0, 600, True), (0, 20, False)],
)
def test_a_long_run_on_a_gpu_with_triton_compiles(flops, seconds, expected, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert compiles(None, GPU, flops=flops, seconds=seconds) == expected
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not compiles(None, GPU, flops=flops, seconds=seconds)
