"""A model for other programs: the file, the folder, and what their use costs."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers

import yantai
from yantai.base.errors import ModelFileError, StorageError, UsageError
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.families.labels import judging
from yantai.families.table import family_named
from yantai.infer.language_model import LanguageModel
from yantai.life.export import APART, FILE_APART, export
from yantai.life.quantize import quantise
from yantai.life.settings import Export, Quantize
from yantai.text.village import Village
from yantai.training.network import with_labels
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Pretrain
from yantai.training.sizes import model_fields


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small model that has learned a little."""
    folder = tmp_path_factory.mktemp("run")
    book = "\n".join(story.text for story in Village(seed=5).stories(60, "en"))
    (folder / "book.txt").write_text(book, encoding="utf-8")
    pretrain(
        Pretrain(
            data=(folder / "book.txt",), out=folder / "run", size="nano", layers=1, dim=64, heads=2,
            vocab_size=500, context=64, steps=20, batch=8, threads=1,
        )
    )  # fmt: skip
    return folder


def recipe(run, out, **changes):
    return Export(**{"model": str(run / "run" / "model"), "out": out} | changes)


def test_a_file_says_what_it_costs(run, tmp_path):
    shown = []
    whole = export(recipe(run, tmp_path / "a" / "m.gguf", type="F32"), shown.append)
    assert whole["loss"]["difference"]["value"] == pytest.approx(0, abs=1e-6)
    assert whole["same_prediction"]["value"] == 1.0
    few = export(recipe(run, tmp_path / "few.gguf", type="Q4_0"), shown.append)
    assert few["bytes"] < 0.4 * whole["bytes"]
    assert few["divergence"]["value"] > 1e-5
    assert "bits per byte" in "".join(shown) and "the texts of its own run" in "".join(shown)
    model, again = yantai.load(run / "run" / "model"), yantai.load(tmp_path / "a" / "m.gguf")
    assert model.generate("The", max_new_tokens=8) == again.generate("The", max_new_tokens=8)


def test_a_folder_opens_in_transformers(run, tmp_path):
    report = export(recipe(run, tmp_path / "plain", to="folder", type="F32"), lambda text: None)
    assert report["type"] == "F32"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    model = yantai.load(run / "run" / "model", dtype="float32")
    ids = torch.arange(20, 50)[None]
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, model.logits(ids), atol=1e-4, rtol=0)
    export(recipe(run, tmp_path / "half", to="folder"), lambda text: None)
    stored = json.loads((tmp_path / "half" / "config.json").read_text())
    assert stored["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5", "bart", "bert to classify"])
def test_a_folder_is_opened_again_and_compared(name, tokenizer, tmp_path):
    family, _, judges = name.partition(" ")
    rules = family_named(family)
    config = ModelConfig(
        **model_fields("nano", family)
        | {"vocab_size": tokenizer.vocab_size, "layers": 1, "max_positions": 64}
    )  # fmt: skip
    network = build(config, seed=2)
    if judges:
        network = with_labels(
            network, ("a", "b"), rules, job="classify", several=False, dropout=None, seed=0
        )
        rules = judging(rules, "classify")
    LanguageModel(network, rules, tokenizer, start_id=0).save(tmp_path / "model")
    settings = Export(
        model=str(tmp_path / "model"), out=tmp_path / "plain", to="folder", type="F32"
    )
    shown = []
    assert export(settings, shown.append)["apart"] < 1e-5
    assert "opened again: logits within" in shown[0]
    rounded = settings.model_copy(update={"out": tmp_path / "half", "type": "BF16"})
    assert 1e-5 < export(rounded, str)["apart"] < 0.1


def test_a_folder_that_answers_otherwise_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setitem(APART, "BF16", 1e-7)
    with pytest.raises(ModelFileError, match="would answer otherwise than the model"):
        export(recipe(run, tmp_path / "plain", to="folder"), str)


def test_what_cannot_be_written_is_refused(run, tmp_path):
    def refused(match, kind=UsageError, **changes):
        with pytest.raises(kind, match=match):
            export(recipe(run, tmp_path / "x", **changes), lambda text: None)

    (tmp_path / "x").mkdir()
    refused("is a folder")
    (tmp_path / "x").rmdir()
    refused("not a type of such folders", to="folder", type="Q8_0")
    packed = Quantize(model=str(run / "run" / "model"), out=tmp_path / "packed", bits=8, threads=1)
    quantise(packed, lambda text: None)
    refused("is packed", model=str(tmp_path / "packed"))
    other = yantai.load(run / "run" / "model", dtype="float32")
    with torch.no_grad():
        other.network.decoder.norm.weight.mul_(2)
    other.save(tmp_path / "other")
    probes = (run / "run" / "model" / "probes.json").read_text()
    (tmp_path / "other" / "probes.json").write_text(probes)
    refused("answers otherwise", ModelFileError, model=str(tmp_path / "other"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("to", "name"), [("gguf", "m.gguf"), ("folder", "plain")])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelFileError])
def test_what_was_not_compared_to_its_end_has_no_name(run, tmp_path, monkeypatch, to, name, error):
    def stopped(*arguments):
        if error is KeyboardInterrupt:
            raise error
        raise error("E410", "x", "planted")

    monkeypatch.setattr("yantai.life.export._apart", stopped)
    with pytest.raises(error):
        export(recipe(run, tmp_path / "o" / name, to=to), str)
    assert list((tmp_path / "o").iterdir()) == []


@pytest.mark.parametrize("verb", ["gguf", "folder", "quantize"])
def test_what_was_left_by_who_was_killed_goes(run, tmp_path, verb):
    living = tmp_path / f".tmp-{os.getppid()}-other.gguf"
    (tmp_path / ".tmp-999999999-m.gguf").write_text("half")
    (tmp_path / ".tmp-999999999-plain").mkdir()
    living.write_text("of somebody else")
    if verb == "quantize":
        model = str(run / "run" / "model")
        quantise(Quantize(model=model, out=tmp_path / "new", threads=1), str)
    else:
        export(recipe(run, tmp_path / "new", to=verb), str)
    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name, "new"]


def test_a_full_disk_says_how_much_a_file_needs(run, tmp_path, monkeypatch):
    whole = export(recipe(run, tmp_path / "m.gguf", type="F32"), str)
    fsync = os.fsync

    def full(descriptor):
        if ".tmp-" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"no space.* expected [\d,]+ bytes, got") as told:
        export(recipe(run, tmp_path / "again.gguf", type="F32"), str)
    needed = int(told.value.expected.removesuffix(" bytes").replace(",", ""))
    assert 0.5 * whole["bytes"] < needed <= whole["bytes"]
    assert told.value.where == str(tmp_path / "again.gguf")


def test_neither_the_model_nor_another_file_is_replaced(run, tmp_path):
    shutil.copytree(run / "run" / "model", tmp_path / "m")
    (tmp_path / "notes.gguf").write_text("my notes")
    for out, to in (("m", "folder"), ("notes.gguf", "gguf")):
        with pytest.raises(UsageError, match=r"is the model itself|is another file"):
            export(recipe(run, tmp_path / out, to=to, model=str(tmp_path / "m")), str)
    assert (tmp_path / "notes.gguf").read_text() == "my notes"
    assert yantai.load(tmp_path / "m", probes=True)


def test_a_folder_takes_probes_along(run, tmp_path):
    export(recipe(run, tmp_path / "plain", to="folder"), str)
    assert yantai.load(tmp_path / "plain", probes=True)
    (tmp_path / "plain" / "config.json").write_text(
        (tmp_path / "plain" / "config.json").read_text().replace("1e-06", "1e-05")
    )
    with pytest.raises(ModelFileError, match="not the file that was written"):
        yantai.load(tmp_path / "plain", probes=True)


def test_a_file_that_answers_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    monkeypatch.setitem(FILE_APART, "Q4_0", 1e-6)
    with pytest.raises(ModelFileError, match="nothing was written"):
        export(recipe(run, tmp_path / "m.gguf", type="Q4_0"), str)
    assert list(tmp_path.iterdir()) == []
