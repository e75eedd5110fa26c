"""What scratch means where nothing was said: reads first or not, how often, how it looks."""

import json

import pytest
import torch

from yantai.core.first_sight import HEARD
from yantai.data.labelled import Labelled
from yantai.families.folder import load_folder
from yantai.life.beginning import UNREAD_DROPOUT, UNREAD_EPOCHS, begin, body_of, settled
from yantai.life.jobs import JOBS
from yantai.life.rows import Parts
from yantai.training.recipe import Finetune

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
    return settled(settings, JOBS[settings.task](settings), Parts(rows, [], []))


def test_little_text_is_judged_unread_much_is_read_first(tmp_path):
    little, much = chosen(tmp_path, 999_999), chosen(tmp_path, 1_000_000)
    assert (little.pretrain_minutes, little.epochs, little.dropout) == (0, UNREAD_EPOCHS, 0.1)
    assert (much.pretrain_minutes, much.epochs, much.dropout) == (None, None, 0)


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


def test_an_unread_body_hears_the_mean_of_a_text(tmp_path):
    """What the last attention adds on every place is a multiple of the mean of what it reads."""
    settings, job = settings_for(tmp_path), JOBS["classify"](settings_for(tmp_path))
    job.learn(FEW, tmp_path)
    parts = Parts(FEW, FEW, [])
    settings = settled(settings, job, parts)
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


def test_documents_beside_the_rows_are_read_once_the_rows_ten_times(tmp_path):
    more = tmp_path / "more.txt"
    more.write_text("It rained in the village and the road was wet. " * 2_000, encoding="utf-8")
    settings = settings_for(tmp_path, pretrain_on=(more,), batch=16)
    job = JOBS["classify"](settings)
    body_of(settings, job, Parts(FEW, [], []))
    own = sum(len(row.text) for row in FEW)
    recipe = json.loads((tmp_path / "body/recipe.json").read_text())["settings"]
    assert recipe["tokens"] == (10 * own + more.stat().st_size) // 4
