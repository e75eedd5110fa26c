"""What scratch means where nothing was said: reads first or not, how often, how it looks."""

import json

import pytest
import torch

from yantai.core.first_sight import HEARD
from yantai.data.labelled import Labelled
from yantai.data.pairs import Pair
from yantai.data.preferences import Preference
from yantai.data.questions import Question
from yantai.data.tagged import Tagged
from yantai.families.folder import load_folder
from yantai.life.beginning import (
    UNREAD_ADVERSARIAL,
    UNREAD_DROPOUT,
    UNREAD_EPOCHS,
    begin,
    body_of,
    settled,
)
from yantai.life.jobs import JOBS
from yantai.life.rows import Parts
from yantai.tasks.frame import Frame
from yantai.text.spans import Span
from yantai.text.tokenizer import Tokenizer
from yantai.training.recipe import Finetune
from yantai.training.run_folder import begin_run, settle_run
from yantai.training.setup import fill_in

FEW = [Labelled(f"word{n % 7} and word{n % 5}", ("ab"[n % 2],), f"rows.csv:{n}") for n in range(80)]


def settings_for(tmp_path, **changes):
    fields = {
        "model": "scratch", "task": "classify", "data": tmp_path / "rows.csv", "out": tmp_path,
        "size": "nano", "vocab_size": 300, "context": 64, "threads": 1, "family": "bert",
        "batch": 4,
    }  # fmt: skip
    return Finetune(**fields | changes)


def chosen(tmp_path, text_bytes=100, **changes):
    settings = settings_for(tmp_path, **changes)
    rows = [Labelled("a" * text_bytes, ("x",), "rows.csv:1")]
    return settled(settings, JOBS[settings.task](settings), Parts(rows, [], []), settings)


def test_little_text_is_judged_unread_much_is_read_first(tmp_path):
    little, much = chosen(tmp_path, 999_999), chosen(tmp_path, 1_000_000)
    assert (little.pretrain_minutes, little.epochs, little.dropout) == (0, UNREAD_EPOCHS, 0.1)
    assert little.adversarial == UNREAD_ADVERSARIAL
    assert (much.pretrain_minutes, much.epochs, much.dropout) == (None, None, 0)
    assert much.adversarial == chosen(tmp_path, 100, adversarial=0.0).adversarial == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pretrain_minutes": 1.0}, (1.0, None, 0)),
        ({"pretrain_on": ("more.txt",)}, (None, None, 0)),
        ({"task": "tag"}, (None, None, 0)),
        ({"model": "folder"}, (None, None, 0)),
        ({"steps": 9}, (0, None, UNREAD_DROPOUT)),
        ({"epochs": 2.0, "dropout": 0.3}, (0, 2.0, 0.3)),
        ({"dropout": 0.0}, (0, UNREAD_EPOCHS, 0.0)),
    ],
)
def test_what_is_said_holds(tmp_path, changes, expected):
    settings = chosen(tmp_path, **changes)
    assert (settings.pretrain_minutes, settings.epochs, settings.dropout) == expected


def test_who_judges_unread_is_small(tmp_path):
    """With the rates of its size, unless these were said."""
    rows = Parts([Labelled("a", ("x",), "rows.csv:1")], [], [])
    given = {"model": "scratch", "task": "classify", "data": "rows.csv", "out": tmp_path,
             "family": "bert"}  # fmt: skip
    job = JOBS["classify"](Finetune(**given))
    for changes, size in ({}, "nano"), ({"size": "micro"}, "micro"), ({"rate": 0.5}, "nano"):
        asked = Finetune(**given | changes)
        found = settled(fill_in(asked), job, rows, asked)
        expected = fill_in(Finetune(**given | {"size": size} | changes))
        for name in ("size", "rate", "matrix_rate", "context"):
            assert getattr(found, name) == getattr(expected, name), (changes, name)


def test_what_was_settled_is_in_the_recipe(tmp_path):
    """So that the recipe by itself gives the same run."""
    settings = settings_for(tmp_path)
    begin_run(settings)
    recipe = tmp_path / "recipe.json"
    run = json.loads(recipe.read_text())["run"]
    settle_run(chosen(tmp_path))
    kept = json.loads(recipe.read_text())
    again = Finetune(**{key: kept["settings"][key] for key in ("model", "task", "data", "out",
                        "dropout", "epochs", "adversarial", "pretrain_minutes")})  # fmt: skip
    assert kept["run"] == run and again.epochs == UNREAD_EPOCHS
    assert (again.dropout, again.adversarial) == (UNREAD_DROPOUT, UNREAD_ADVERSARIAL)
    settle_run(settings.model_copy(update={"resume": True}))  # that is not settled anew
    assert json.loads(recipe.read_text()) == kept


def test_an_unread_body_hears_the_mean_of_a_text(tmp_path):
    """What the last attention adds on every place is a multiple of the mean of what it reads."""
    settings, job = settings_for(tmp_path), JOBS["classify"](settings_for(tmp_path))
    job.learn(FEW, tmp_path)
    parts = Parts(FEW, FEW, [])
    settings = settled(settings, job, parts, settings)
    body = body_of(settings, job, parts)
    begun = begin(settings, job, parts, body, torch.device("cpu"))
    part = begun.model.encoder.blocks[-1].attn.part
    seen = []
    hook = part.register_forward_hook(lambda module, given, result: seen.append((given, result)))
    with torch.no_grad():
        begun.model.eval().encode(torch.randint(100, (1, 20)))
    hook.remove()
    (given, result) = seen[0]
    added = result[0] if isinstance(result, tuple) else result
    mean = given[0].mean(dim=1, keepdim=True).expand_as(given[0])
    torch.testing.assert_close(added, HEARD * mean, atol=0.1 * HEARD, rtol=0)
    plain = load_folder(body)[0].encoder.blocks[-1].attn.part  # the body itself is as it was
    assert not torch.allclose(plain.out.weight, part.out.weight)
    assert begun.model.config.dropout == UNREAD_DROPOUT


@pytest.mark.parametrize(("task", "kind"), [("tag", "WordPiece"), ("classify", "BPE")])
def test_where_places_are_found_a_han_character_is_a_word(tmp_path, task, kind):
    settings = settings_for(tmp_path, task=task, pretrain_minutes=0)
    rows = [Tagged(f"安娜{n}在家。", (Span(0, 2, "person"),), f"rows.jsonl:{n}") for n in range(30)]
    body = body_of(settings, JOBS[task](settings), Parts(rows, [], []))
    assert json.loads((body / "tokenizer.json").read_text())["model"]["type"] == kind


@pytest.mark.parametrize(("kind", "lost"), [("bpe", 30), ("wordpiece", 0)])
def test_spans_that_no_tokens_spell_are_counted(tmp_path, capsys, kind, lost):
    settings = settings_for(tmp_path, task="tag")
    rows = [Tagged("今天安娜在家。", (Span(2, 4, "person"),), f"rows.jsonl:{n}") for n in range(30)]
    job = JOBS["tag"](settings)
    job.learn(rows, tmp_path)
    tokenizer = Tokenizer.train([row.text for row in rows], 300, kind)
    job.prepare(Frame(tokenizer, "encoder", 64), rows, rows[:5], 0)
    said = f"{lost} of 30 spans begin or end inside a token"
    assert (said in "".join(capsys.readouterr())) == (lost > 0)


@pytest.mark.parametrize(("kind", "lost"), [("bpe", 30), ("wordpiece", 0)])
def test_answers_that_no_tokens_spell_are_counted(tmp_path, capsys, kind, lost):
    settings = settings_for(tmp_path, task="span")
    rows = [
        Question("谁？", "今天安娜在家。", (("安娜", 2),), "a", str(n), f"rows.json:{n}")
        for n in range(30)
    ]
    rows.append(Question("Where?", "Ivan is at home.", (("home", 11),), "b", "31", "rows.json:31"))
    job = JOBS["span"](settings)
    job.learn(rows, tmp_path)
    tokenizer = Tokenizer.train([row.context for row in rows], 320, kind)
    job.prepare(Frame(tokenizer, "encoder", 64), rows, rows[:5], 0)
    said = f"{lost} of 31 answers begin or end inside a token"
    assert (said in "".join(capsys.readouterr())) == (lost > 0)


@pytest.mark.parametrize("task", ["embed", "prefer"])
def test_both_texts_of_a_pair_are_learned_as_long_as_they_are_read(tmp_path, task):
    settings = settings_for(tmp_path, task=task, model="folder")
    job, text = JOBS[task](settings), "One day the baker went to the mill. " * 4
    tokenizer = Tokenizer.train([text] * 20, 300)
    frame = Frame(tokenizer, "decoder", 64)
    if task == "embed":
        rows = [Pair(text, text, f"rows.csv:{n}") for n in range(9)]
    else:
        talk = ({"role": "user", "content": "Tell."}, {"role": "assistant", "content": text})
        rows = [Preference(talk, talk, f"rows.csv:{n}") for n in range(9)]
        job.reference = torch.nn.Linear(1, 1)
    length = len(tokenizer.encode(text))
    assert 32 < length < 60
    prepared = job.prepare(frame, rows, rows[:3], 0)
    assert prepared.train.truncated == 0 and prepared.train.length == 128
    for example in prepared.train.examples:
        assert min(example.border, len(example.ids) - example.border) > length


def test_documents_beside_the_rows_are_read_once_each_text_of_the_rows_ten_times(tmp_path):
    more = tmp_path / "more.txt"
    more.write_text("It rained in the village and the road was wet. " * 2_000, encoding="utf-8")
    settings = settings_for(tmp_path, pretrain_on=(more,), batch=16)
    job = JOBS["classify"](settings)
    body_of(settings, job, Parts(FEW, [], []))
    own = sum(map(len, {row.text for row in FEW}))
    recipe = json.loads((tmp_path / "body/recipe.json").read_text())["settings"]
    assert recipe["tokens"] == (10 * own + more.stat().st_size) // 4
