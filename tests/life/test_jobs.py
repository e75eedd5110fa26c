"""Every job of the table, from rows to a score: small runs on the village."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import yantai
from yantai.base.errors import UsageError
from yantai.core.config import Labels
from yantai.data.questions import Question
from yantai.life.finetune import finetune
from yantai.life.jobs import JOBS
from yantai.life.jobs.span import SpanJob
from yantai.text.village import Village
from yantai.training.recipe import Finetune

SMALL = {"size": "nano", "vocab_size": 700, "pretrain_minutes": 0, "threads": 1, "epochs": 1}


def stories(count):
    return Village(seed=4).stories(count, "en")


def tagged(story):
    return {"text": story.text, "entities": [[s.start, s.end, s.label] for s in story.entities]}


def asked(story):
    first = {span.label: span for span in reversed(story.entities)}
    for label, span in first.items():
        answers = {"text": [story.text[span.start : span.end]], "answer_start": [span.start]}
        question = f"Which {label} is named first?"
        yield {"question": question, "context": story.text, "answers": answers}


def told(story):
    return [
        {"role": "user", "content": "Tell me: " + story.heading},
        {"role": "assistant", "content": story.summary},
    ]


def rows_of(task):
    found = list(stories(90))
    if task == "classify":
        return [{"text": story.text, "label": story.sentiment} for story in found]
    if task == "tag":
        return [tagged(story) for story in found]
    if task == "span":
        return [row for story in found for row in asked(story)][:120]
    if task == "chat":
        return [{"messages": told(story)} for story in found]
    if task == "prefer":
        others = [*found[1:], found[0]]
        return [
            {"prompt": told(one)[0]["content"], "chosen": one.summary, "rejected": other.summary}
            for one, other in zip(found, others, strict=True)
            if one.summary != other.summary
        ]
    if task == "embed":
        return [{"text": story.text, "target": story.summary} for story in found]
    return [{"text": story.text, "target": story.summary} for story in found]


USES = {
    "classify": lambda model: yantai.classify(model, "Ivan was glad.").label,
    "tag": lambda model: yantai.tag(model, "Ivan was glad."),
    "span": lambda model: yantai.answer(model, "Who?", "Ivan was glad.").text,
    "translate": lambda model: yantai.translate(model, "Ivan was glad.", max_new_tokens=8),
    "summarize": lambda model: yantai.summarize(model, ["Ivan was glad."], max_new_tokens=8),
    "chat": lambda model: model.chat([{"role": "user", "content": "Hi"}], max_new_tokens=8),
    "prefer": lambda model: model.chat([{"role": "user", "content": "Hi"}], max_new_tokens=8),
    "embed": lambda model: yantai.embed(model, ["Ivan", "Anna"]),
}
FAMILIES = {"classify": "gru", "summarize": "llama"}


def test_every_job_is_tried_here():
    assert set(USES) == set(JOBS)


@pytest.mark.slow
@pytest.mark.parametrize("task", USES)
def test_from_rows_to_a_score_and_to_use(task, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(task)))
    settings = Finetune(
        model="scratch", task=task, data=data, out=tmp_path / "run", family=FAMILIES.get(task),
        context=192, **SMALL,
    )  # fmt: skip
    report = finetune(settings, str)
    assert report["task"] == task and report["n"] >= 5
    assert report["floors"]
    for values in (report["metrics"], *report["floors"].values()):
        for each in values.values():
            assert each["low"] <= each["value"] <= each["high"]
    model = yantai.load(tmp_path / "run" / "model", dtype="float32")
    assert USES[task](model) is not None


@pytest.mark.parametrize(
    ("said", "answers", "refuses"),
    [(True, 1, True), (False, 0, False), (None, 1, False), (None, 0, True)],
)
def test_a_model_knows_whether_it_may_refuse_and_else_its_questions_do(said, answers, refuses):
    job = SpanJob(Finetune(model="-", task="span", data=Path("-"), out=Path("-")))
    head = SimpleNamespace(labels=Labels(names=("start", "end"), refuses=said))
    row = Question("Who?", "Ivan.", (("Ivan", 0),)[:answers], "a", "1", "rows:1")
    job.adopt(SimpleNamespace(network=SimpleNamespace(head=head)), [row])
    assert job.refuses is refuses


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "chat"])
def test_adapters_alone_are_written_and_open_with_their_model(task, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(task)))
    settings = Finetune(
        model="scratch", task=task, data=data, out=tmp_path / "run", family="llama", context=192,
        lora=True, lora_rank=4, **SMALL,
    )  # fmt: skip
    finetune(settings, str)
    folder = tmp_path / "run" / "model"
    assert not (folder / "model.safetensors").exists()
    size = (folder / "adapter_model.safetensors").stat().st_size
    body = yantai.load(tmp_path / "run" / "body" / "model", dtype="float32")
    assert size < sum(each.numel() for each in body.network.parameters()) * 4 / 4
    model = yantai.load(folder, dtype="float32")
    assert USES[task](model)
    ids = torch.arange(5, 25)[None]
    if task == "chat":
        assert not torch.equal(model.logits(ids), body.logits(ids))
    whole = tmp_path / "whole"
    model.save(whole)
    assert torch.equal(yantai.load(whole, dtype="float32").logits(ids), model.logits(ids))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["chat", "classify"])
def test_an_adapter_goes_on_learning_or_is_folded_in(task, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(task)))
    first = Finetune(
        model="scratch", task=task, data=data, out=tmp_path / "first", family="gpt2", context=192,
        lora=True, lora_rank=4, **SMALL,
    )  # fmt: skip
    finetune(first, str)
    begun = str(tmp_path / "first" / "model")
    again = {"model": begun, "task": task, "data": data, "threads": 1, "steps": 2, "context": 192}
    again |= {"optimizer": "adamw", "rate": 1e-5}
    finetune(Finetune(**again, out=tmp_path / "second", lora=True), str)
    finetune(Finetune(**again, out=tmp_path / "folded"), str)
    ids = torch.arange(5, 25)[None]
    one, two, folded = (
        yantai.load(tmp_path / name / "model", dtype="float32").logits(ids)
        for name in ("first", "second", "folded")
    )
    body = yantai.load(tmp_path / "first" / "body" / "model", dtype="float32").logits(ids)
    learned = (one - body).abs().max() if task == "chat" else one.abs().max()
    for further in (two, folded):  # by two small steps, not from the beginning
        assert 1e-6 < (further - one).abs().max() < learned / 5
    config = json.loads((tmp_path / "second" / "model" / "adapter_config.json").read_text())
    before = json.loads((tmp_path / "first" / "model" / "adapter_config.json").read_text())
    for key in ("r", "rank_pattern", "alpha_pattern", "target_modules"):
        assert config[key] == before[key]
    assert (tmp_path / "folded" / "model" / "model.safetensors").exists()
    with pytest.raises(UsageError, match="rank and targets"):
        finetune(Finetune(**again, out=tmp_path / "third", lora=True, lora_rank=8), str)
    if task == "classify":  # with other labels the head is new; the adapters still go on
        rows = [row | {"label": row["label"].upper()} for row in rows_of(task)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        finetune(Finetune(**again, out=tmp_path / "other", lora=True), str)
        before, after = (
            load_file(tmp_path / name / "model" / "adapter_model.safetensors")
            for name in ("first", "other")
        )
        for name, tensor in before.items():
            if "lora_" in name:
                assert (after[name] - tensor).abs().max() < 1e-4
