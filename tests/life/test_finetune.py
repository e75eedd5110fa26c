"""From a table of rows to a model that judges, and its score beside the floors."""

import csv
import json

import pytest
import torch
import transformers

import yantai
from yantai.base.errors import DataError, ModelFileError, UsageError
from yantai.data.examples import Example, ExampleRows
from yantai.families.folder import load_folder
from yantai.life.finetune import _filled, _rows_a_step, finetune, teach
from yantai.life.jobs import JOBS
from yantai.life.jobs.classify import ClassifyJob
from yantai.life.settings import Verify
from yantai.life.verify import verify
from yantai.text.village import Village
from yantai.training.receipt import digest_of_files
from yantai.training.recipe import Finetune

SMALL = {"size": "nano", "vocab_size": 600, "pretrain_minutes": 0, "threads": 1, "context": 128}


def rows_of_the_village(path, count=240):
    rows = [
        {"story": story.text, "mood": story.sentiment}
        for story in Village(seed=4).stories(count, "en")
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["story", "mood"])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def settings_for(tmp_path, **changes):
    fields = SMALL | {
        "model": "scratch", "task": "classify", "data": tmp_path / "rows.csv",
        "out": tmp_path / "run", "text_column": "story", "label_column": "mood", "epochs": 2,
    }  # fmt: skip
    return Finetune(**fields | changes)


def silent(text):
    pass


@pytest.mark.parametrize("changes", [{"task": "tag"}, {"label_separator": ","}])
def test_smooth_labels_are_for_one_of_many(tmp_path, changes):
    assert settings_for(tmp_path, label_smoothing=0.1).label_smoothing == 0.1
    with pytest.raises(ValueError, match="label_smoothing is for one target of many"):
        settings_for(tmp_path, label_smoothing=0.1, **changes)


def test_a_model_keeps_its_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="a model has its tokenizer"):
        settings_for(tmp_path, model="folder", token_kind="wordpiece")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [("bert", "wordpiece"), ("llama", "bpe")])
def test_from_rows_to_a_score(family, kind, tmp_path):
    rows = rows_of_the_village(tmp_path / "rows.csv")
    shown = []
    result = finetune(settings_for(tmp_path, family=family, token_kind=kind), shown.append)
    names = sorted({row["mood"] for row in rows})
    assert result["labels"] == names
    assert result["n"] == pytest.approx(len(rows) / 10, abs=len(names))
    for values in (result["metrics"], *result["floors"].values()):
        for each in values.values():
            assert each["low"] <= each["value"] <= each["high"]
    assert set(result["floors"]) == {"naive Bayes", "the commonest label"}
    kept = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert kept["n"] == result["n"]
    wrong = sum(map(sum, kept["confusion"])) - sum(
        row[at] for at, row in enumerate(kept["confusion"])
    )
    assert len(kept["worst"]) == min(20, wrong)
    assert kept["metrics"]["micro_f1"]["value"] == kept["metrics"]["accuracy"]["value"]
    assert "naive Bayes" in "".join(shown) and "chance" in "".join(shown)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(f"row: {each['row']}" in page for each in kept["worst"])

    tokenizer = json.loads((tmp_path / "run" / "model" / "tokenizer.json").read_text())
    assert tokenizer["model"]["type"].lower() == kind

    ours, _, _ = load_folder(tmp_path / "run" / "model")
    assert ours.config.head.names == tuple(names)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "run" / "model"
    ).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    place = 0 if ours.config.shape == "encoder" else -1
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, ours(ids)[:, place], atol=1e-5)

    links = verify(Verify(folder=tmp_path / "run"), silent)["links"]
    assert sum(link.endswith(": made from these rows") for link in links) == 2
    body = tmp_path / "run" / "body" / "model"
    assert sum(link.endswith(f": made from {body}") for link in links) == 2
    assert any(link.startswith(str(tmp_path / "run" / "body" / "tokens")) for link in links)

    model = yantai.load(tmp_path / "run" / "model", dtype="float32")
    reads = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    for text in [row["story"] for row in rows[:5]] + ["a", "\u597d\u3002"]:
        with torch.no_grad():
            asked = reads(text, return_tensors="pt", truncation=True)
            said = theirs(input_ids=asked["input_ids"]).logits.softmax(-1)[0]
        mine = list(yantai.classify(model, text).probabilities.values())
        torch.testing.assert_close(said, torch.tensor(mine), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_other_rows_or_another_body_break_the_chain(tmp_path):
    rows_of_the_village(tmp_path / "rows.csv", 60)
    finetune(settings_for(tmp_path, epochs=1), silent)
    folder, path = Verify(folder=tmp_path / "run"), tmp_path / "rows.csv"
    first = path.read_text()
    path.write_text(first.replace(" the ", " a ", 1))
    with pytest.raises(ModelFileError, match="not the rows that") as caught:
        verify(folder, silent)
    assert caught.value.code == "E409" and str(path) in str(caught.value)
    path.unlink()
    found = verify(folder, silent)
    assert f"{path}: the rows are no longer there" in found["notes"]
    assert not any("made from these rows" in link for link in found["links"])
    path.write_text(first)
    assert not verify(folder, silent)["notes"]
    body = tmp_path / "run" / "body" / "model"
    receipt = json.loads((tmp_path / "run" / "model" / "receipt.json").read_text())
    assert receipt["inputs"]["body_files"] == digest_of_files(body)
    (body / "config.json").write_text((body / "config.json").read_text() + " ")
    with pytest.raises(ModelFileError):
        verify(folder, silent)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    rows_of_the_village(tmp_path / "rows.csv", 120)
    whole = finetune(settings_for(tmp_path, steps=6, epochs=None, save_every=2), silent)
    part = settings_for(
        tmp_path, steps=6, epochs=None, save_every=2, out=tmp_path / "part", resume=True
    )
    finetune(part, silent)
    newest = sorted((tmp_path / "part" / "checkpoints").iterdir())[-1]
    for name in newest.iterdir():  # as if the last checkpoint had never been
        name.unlink()
    newest.rmdir()
    again = finetune(part, silent)
    models = [
        (tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("run", "part")
    ]
    assert models[0] == models[1]
    assert again["metrics"] == whole["metrics"]


def test_few_rows_are_not_over_in_a_handful_of_steps():
    rows = ExampleRows([Example.of_text([5] * 40, [True] * 40, str(n)) for n in range(240)], 80)
    assert rows.rows_in_epoch(0) == 120
    given = {"model": "scratch", "task": "chat", "data": "d.jsonl", "out": "o", "size": "nano"}
    assert _rows_a_step(Finetune(**given), rows, judges=False) == 7
    assert _rows_a_step(Finetune(**given, epochs=60), rows, judges=False) == 16
    assert _rows_a_step(Finetune(**given, accumulate=40), rows, judges=False) == 1
    assert _rows_a_step(Finetune(**given, minutes=5), rows, judges=False) == 16
    assert _rows_a_step(Finetune(**given), rows, judges=True) == 16


def test_one_class_is_refused(tmp_path):
    lines = ["story,mood"] + ["a day,glad"] * 30
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="one class only"):
        finetune(settings_for(tmp_path), silent)


def test_what_cannot_be_learned_is_said_before_anything_begins(tmp_path):
    with pytest.raises(UsageError, match="bert"):
        finetune(settings_for(tmp_path, family="berd"), silent)
    assert not (tmp_path / "run").exists()


def test_rates_are_those_of_the_family_that_learns(tmp_path):
    given = {"task": "classify", "data": "rows.csv", "out": tmp_path / "run"}
    rates = {}
    for name in ("bert", "llama"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": name}))
        read = Finetune(**given, model=str(folder))
        filled = _filled(read, JOBS[read.task](read))
        new = Finetune(**given, model="scratch", family=name)
        fresh = _filled(new, JOBS[new.task](new))
        rates[name] = (fresh.rate, fresh.matrix_rate)
        assert filled.rate == pytest.approx(fresh.rate / 3)
        assert filled.matrix_rate == pytest.approx(fresh.matrix_rate / 3)
        own = _filled(Finetune(**given, model=str(folder), rate=0.5), JOBS["classify"](read))
        assert (own.rate, own.matrix_rate) == (0.5, filled.matrix_rate)
    assert rates["bert"][0] < rates["llama"][0] and rates["bert"][1] < rates["llama"][1]


def test_a_jump_of_a_loss_is_left_out_where_thousands_of_tokens_are_learned(tmp_path):
    given = {"model": "scratch", "data": "rows.csv", "out": tmp_path / "run"}
    policies = {}
    for task in JOBS:
        said = Finetune(**given, task=task, on_spike="rewind")
        assert _filled(said, JOBS[task](said)).on_spike == "rewind"
        open_one = Finetune(**given, task=task)
        policies[task] = _filled(open_one, JOBS[task](open_one)).on_spike
    judging = {task for task, policy in policies.items() if policy == "off"}
    assert judging == {"classify", "tag", "span", "embed"}
    assert set(policies.values()) == {"off", "skip"}


def test_the_best_by_validation_is_kept_and_not_the_last(tmp_path, monkeypatch):
    rows_of_the_village(tmp_path / "rows.csv")
    seen = []

    def judged(job, rows, said):
        weights = {name: value.clone() for name, value in networks[-1].state_dict().items()}
        seen.append(weights)
        return {"accuracy": {2: 0.9}.get(len(seen), 0.1 * len(seen) / 10)}

    networks, predict = [], ClassifyJob.predict

    def asked(job, network, frame, rows):
        networks.append(network)
        return predict(job, network, frame, rows)

    monkeypatch.setattr(ClassifyJob, "scores", judged)
    monkeypatch.setattr(ClassifyJob, "predict", asked)
    settings = settings_for(tmp_path, epochs=None, steps=8, valid_every=2, dtype="float32")
    result = teach(settings).result
    assert len(seen) >= 4 and result["best_score"] == 0.9
    kept, _, _ = load_folder(tmp_path / "run" / "model")
    last, _, _ = load_folder(tmp_path / "run" / "last")
    for name, value in kept.state_dict().items():
        assert torch.equal(value, seen[1][name]), name
        assert torch.equal(last.state_dict()[name], seen[-1][name]), name
    assert any(not torch.equal(seen[1][name], seen[-1][name]) for name in seen[1])
