"""Whole runs on a GPU: as on a CPU, to the same bits again, compiled."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

import yantai
from yantai.text.village import Village
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Pretrain

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product
STEPS = 12
SMALL = {
    "size": "nano", "layers": 2, "dim": 64, "heads": 2, "batch": 8, "context": 64,
    "vocab_size": 500, "threads": 1, "steps": STEPS, "device": "cuda",
}  # fmt: skip


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "stories.jsonl"
    rows = Village(seed=4).documents(150)
    path.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def any_kernels_afterwards():
    yield
    torch.use_deterministic_algorithms(False)


def run(out, stories, **changes):
    pretrain(Pretrain(**SMALL | {"data": (stories,), "out": out} | changes))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def weights(folder):
    model = yantai.load(folder, dtype="float32", device="cpu")
    return {name: tensor.clone() for name, tensor in model.network.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("family", ["qwen3", "bert", "t5", "gpt2"])
def test_losses_on_a_gpu_are_those_on_a_cpu(family, optimizer, stories, tmp_path):
    how = {"family": family, "optimizer": optimizer, "dtype": "float32"}
    how |= {"rate": 0.01} if optimizer == "sgd" else {}
    ours = run(tmp_path / "gpu", stories, **how)
    theirs = run(tmp_path / "cpu", stories, device="cpu", **how)
    assert len(ours) == STEPS and ours[-1] < ours[0]
    assert ours == pytest.approx(theirs, abs=1e-3 if optimizer != "muon" else 1e-2)


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "recompute": True}, {"ema": 0.9}])
def test_a_run_in_bfloat16_learns(changes, stories, tmp_path):
    losses = run(tmp_path / "run", stories, dtype="bfloat16", **changes)
    assert losses[-1] < losses[0] - 0.3
    answer = yantai.load(tmp_path / "run" / "model", device="cpu").generate("The", max_new_tokens=2)
    assert isinstance(answer, str)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("family", ["qwen3", "bert", "t5", "lstm"])
def test_a_run_that_lost_its_end_goes_on_to_the_same_bits(family, dtype, stories, tmp_path):
    how = {"family": family, "dtype": dtype, "save_every": 6, "deterministic": True}
    how |= {"heads": None, "optimizer": "adamw"} if family == "lstm" else {}
    how |= {"dropout": 0.1}
    run(tmp_path / "whole", stories, **how)
    expected = weights(tmp_path / "whole" / "last")
    run(tmp_path / "cut", stories, **how)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step-{STEPS:06}")
    shutil.rmtree(tmp_path / "cut" / "last")
    run(tmp_path / "cut", stories, resume=True, **how)
    got = weights(tmp_path / "cut" / "last")
    assert all(torch.equal(expected[name], got[name]) for name in expected)


COMPILED = """
import json, shutil, sys
from pathlib import Path
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Pretrain

folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
settings |= {"data": (Path(sys.argv[3]),), "save_every": 6}
for dtype in ("float32", "bfloat16"):
    for name in (True, False):
        pretrain(Pretrain(out=folder / f"{dtype}-{name}", compile=name, dtype=dtype, **settings))
settings |= {"compile": True, "dropout": 0.1, "deterministic": True, "dtype": "bfloat16"}
pretrain(Pretrain(out=folder / "whole", **settings))
pretrain(Pretrain(out=folder / "cut", **settings))
shutil.rmtree(folder / "cut" / "checkpoints" / "step-000012")
shutil.rmtree(folder / "cut" / "last")
pretrain(Pretrain(out=folder / "cut", resume=True, **settings))
"""


@pytest.mark.parametrize("family", ["qwen3", "t5"])
def test_compiled_runs_have_the_losses_of_plain_ones_and_go_on_to_the_same_bits(
    family, stories, tmp_path
):
    arguments = [str(tmp_path), json.dumps(SMALL | {"family": family}), str(stories)]
    found = subprocess.run(
        [sys.executable, "-c", COMPILED, *arguments],
        capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert "note: blocks" not in found.stdout + found.stderr
    for dtype, most in (("float32", 1e-3), ("bfloat16", 5e-2)):
        losses = []
        for name in (True, False):
            lines = (tmp_path / f"{dtype}-{name}" / "metrics.jsonl").read_text().splitlines()
            losses.append([row["loss"] for row in map(json.loads, lines) if "loss" in row])
        assert losses[0] == pytest.approx(losses[1], abs=most)
    one, other = (
        (tmp_path / name / "last" / "model.safetensors").read_bytes() for name in ("whole", "cut")
    )
    assert one == other
