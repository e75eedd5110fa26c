"""The verbs on a GPU: what is trained, scored, packed and served there holds on the CPU too."""

import json
import re
import signal
import subprocess
import sys
import time

import openai
import pytest
import torch
from test_jobs import USES, rows_of

import yantai
from yantai.cli import main
from yantai.life.finetune import finetune
from yantai.life.settings import Tune
from yantai.life.tune import tune
from yantai.text.village import Village
from yantai.training.recipe import Finetune

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous"),
]
SMALL = {"size": "nano", "vocab_size": 600, "threads": 1, "context": 128, "device": DEVICE}


def verb(*words):
    """What a verb says for a program; it must end well."""
    return main([*map(str, words), "--json"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts, rows, and a run of the verb pretrain."""
    folder = tmp_path_factory.mktemp("life")
    stories = [story.text for story in Village(seed=5).stories(120, "en")]
    for name, texts in (("book", stories[:100]), ("held", stories[100:])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for task in ("chat", "prefer", "classify"):
        rows = "".join(json.dumps(row) + "\n" for row in rows_of(task))
        (folder / f"{task}.jsonl").write_text(rows, encoding="utf-8")
    done = verb(
        "pretrain", "--data", folder / "book.jsonl", "--out", folder / "run", "--size", "nano",
        "--layers", 1, "--vocab-size", 600, "--context", 128, "--steps", 20, "--batch", 8,
        "--device", DEVICE,
    )  # fmt: skip
    assert done == 0
    return folder


def device_of(run):
    """As the receipt says."""
    return json.loads((run / "receipt.json").read_text())["machine"]["device"]


def test_a_run_holds_and_its_model_is_that_of_the_cpu(folder, capsys):
    assert verb("verify", folder / "run") == 0
    capsys.readouterr()
    here, there = (yantai.load(folder / "run" / "model", device=place, dtype="float32", probes=True)
                   for place in ("cpu", DEVICE))  # fmt: skip
    ids = torch.arange(5, 60)
    one, other = here.logits(ids), there.logits(ids).cpu()
    assert float((one - other).abs().max()) < 1e-3 * float(one.abs().max())
    found = {}
    for place in ("cpu", DEVICE):
        words = ("evaluate", folder / "run" / "model", "--data", folder / "held.jsonl")
        assert verb(*words, "--device", place, "--dtype", "float32") == 0
        found[place] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["cpu"]["loss"] == pytest.approx(found[DEVICE]["loss"], rel=1e-4)
    words = ("generate", folder / "run" / "model", "--prompt", "One morning")
    assert verb(*words, "--max-new-tokens", 12, "--device", DEVICE) == 0


def test_a_run_goes_on_where_it_was_stopped(folder, tmp_path, capsys):
    words = ["pretrain", "--data", folder / "book.jsonl", "--size", "nano", "--layers", 1,
             "--vocab-size", 600, "--context", 128, "--batch", 4, "--device", DEVICE,
             "--dtype", "float32"]  # fmt: skip
    assert verb(*words, "--out", tmp_path / "run", "--steps", 6) == 0
    more = ("--steps", 12, "--resume", "--allow-change", "steps")
    assert verb(*words, "--out", tmp_path / "run", *more) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["step"] for line in lines) == 12
    capsys.readouterr()


def test_packed_and_exported(folder, tmp_path, capsys):
    model = folder / "run" / "model"
    for bits in (8, 4):
        small = tmp_path / f"small{bits}"
        words = ("quantize", model, "--out", small, "--bits", bits, "--data", folder / "held.jsonl")
        assert verb(*words, "--device", DEVICE, "--max-loss-increase", 1) == 0
        assert json.loads((small / "receipt.json").read_text())["machine"]["device"] == DEVICE
        assert yantai.load(small, device="cpu", probes=True).generate("One", max_new_tokens=4)
        assert yantai.load(small, device=DEVICE, probes=True).generate("One", max_new_tokens=4)
        assert verb("verify", small) == 0
    assert verb("export", model, "--out", tmp_path / "m.gguf", "--type", "F32") == 0
    file = yantai.load(tmp_path / "m.gguf", device=DEVICE)
    ids = torch.arange(5, 40)
    whole = yantai.load(model, device=DEVICE, dtype="float32")
    assert torch.allclose(file.logits(ids), whole.logits(ids), atol=1e-3)
    capsys.readouterr()


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("task", ["classify", "chat", "prefer"])
def test_a_task_is_learned(folder, tmp_path, task, lora, capsys):
    settings = Finetune(
        model=str(folder / "run" / "model"), task=task, data=folder / f"{task}.jsonl",
        out=tmp_path / "run", steps=4, batch=2, lora=lora, seed=1, threads=1, device=DEVICE,
        **({"lora_rank": 4} if lora else {}),
    )  # fmt: skip
    finetune(settings, str)
    assert device_of(tmp_path / "run") == DEVICE
    here, there = (yantai.load(tmp_path / "run" / "model", device=place, dtype="float32",
                               probes=True) for place in ("cpu", DEVICE))  # fmt: skip
    assert USES[task](here) == USES[task](there)
    words = ("evaluate", tmp_path / "run" / "model", "--data", folder / f"{task}.jsonl")
    if task != "prefer":
        assert verb(*words, "--device", DEVICE) == 0
    if task == "classify":
        words = ("predict", tmp_path / "run" / "model", "--data", folder / f"{task}.jsonl")
        assert verb(*words, "--out", tmp_path / "out.jsonl", "--device", DEVICE) == 0
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(rows_of(task))
    capsys.readouterr()


@pytest.mark.parametrize(
    ("task", "family"),
    [("translate", "t5"), ("summarize", "bart"), ("translate", "gru-seq2seq"), ("tag", "bert"),
     ("span", "bert"), ("embed", "bert"), ("classify", "lstm")],
)  # fmt: skip
def test_every_shape_learns_from_the_beginning(tmp_path, task, family):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(task)))
    given = SMALL | {"context": 192 if task != "embed" else 128}
    finetune(
        Finetune(model="scratch", task=task, data=data, out=tmp_path / "run", family=family,
                 pretrain_minutes=0, steps=3, batch=2, **given),
        str,
    )  # fmt: skip
    model = yantai.load(tmp_path / "run" / "model", device=DEVICE, dtype="float32", probes=True)
    assert USES[task](model) is not None
    yantai.load(tmp_path / "run" / "model", device="cpu", dtype="float32", probes=True)


def test_trials_are_run_in_processes_of_their_own(folder, tmp_path):
    pytest.importorskip("optuna", reason="optuna is not installed")
    recipe = tmp_path / "recipe.yaml"
    lines = [f"{name}: {value}" for name, value in SMALL.items()]
    lines += ["verb: finetune", "task: classify", "model: scratch", "pretrain_minutes: 0",
              "steps: 2", "batch: 2", f"data: {folder / 'classify.jsonl'}",
              "search: {rate: [1.0e-3, 3.0e-3]}"]  # fmt: skip
    recipe.write_text("\n".join(lines))
    report = tune(
        Tune(recipe=recipe, out=tmp_path / "tuning", trials=2, workers=2, finalists=1, seeds=1,
             prune=False),
        str,
    )  # fmt: skip
    assert report["trials"] == 2


def test_the_doctor_knows_the_device(folder, capsys):
    assert verb("doctor") == 0
    assert verb("doctor", folder / "run" / "model") == 0
    lines = [
        row["line"] for row in json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    ]
    assert any(f"device {DEVICE}" in line for line in lines)
    assert any("parameters" in line for line in lines)


@pytest.mark.parametrize("kind", ["float32", "auto"])
def test_a_server_answers_and_ends(folder, tmp_path, kind):
    command = [sys.executable, "-m", "yantai.cli", "serve", str(folder / "run" / "model"), "--port",
               "0", "--device", DEVICE, "--dtype", kind, "--threads", "1"]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = process.stdout.readline()
        found = re.match(r"page (http://127\.0\.0\.1:\d+)/", line)
        assert found, line + (tmp_path / "log").read_text()
        client = openai.OpenAI(base_url=f"{found[1]}/v1", api_key="-", max_retries=0)
        asked = {"model": "run", "prompt": "One morning", "temperature": 0, "max_tokens": 12}
        first = client.completions.create(**asked, logprobs=2)
        assert first.usage.completion_tokens == 12
        said = "".join(
            part.choices[0].text
            for part in client.completions.create(**asked, stream=True)
            if part.choices
        )
        assert said == first.choices[0].text
        if kind == "float32":
            model = yantai.load(folder / "run" / "model", device="cpu", dtype=kind)
            assert "One morning" + said == model.generate("One morning", max_new_tokens=12)
        talk = [{"role": "user", "content": "Who are you?"}]
        chat = client.chat.completions.create(
            model="run", messages=talk, max_tokens=8, temperature=1.0, top_p=0.9, seed=1, n=2
        )
        assert len(chat.choices) == 2
        vector = client.embeddings.create(model="run", input="One morning").data[0].embedding
        assert sum(each**2 for each in vector) == pytest.approx(1, abs=1e-3)
    finally:
        process.send_signal(signal.SIGTERM)
        until = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.kill()
        process.communicate()
    assert process.returncode == 0
