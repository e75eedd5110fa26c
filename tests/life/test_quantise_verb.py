"""A model in fewer bits: the folder, what it costs, and when it is refused."""

import json
import shutil

import pytest
import torch

import yantai
from yantai.adapt.packed import Form
from yantai.adapt.quantize import PackedLinear, columns_of, packed_modules, quantize
from yantai.base.errors import ModelFileError, NumericsError, UsageError
from yantai.evaluate.text_loss import text_loss
from yantai.families.packed_folder import ENTRY
from yantai.infer.engine import Engine
from yantai.infer.generate import generate_ids, prepare
from yantai.infer.request import Request
from yantai.infer.settings import Generation
from yantai.life.evaluate_rows import evaluate_rows
from yantai.life.finetune import finetune
from yantai.life.quantize import _refuse, quality, quantise
from yantai.life.settings import Evaluate, Quantize
from yantai.text.document import DocumentReader
from yantai.text.village import Village
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Finetune, Pretrain


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small model that has learned a little."""
    folder = tmp_path_factory.mktemp("run")
    stories = [story.text for story in Village(seed=5).stories(200, "en")]
    (folder / "book.txt").write_text("\n".join(stories[:180]), encoding="utf-8")
    (folder / "held.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in stories[180:]), encoding="utf-8"
    )
    pretrain(
        Pretrain(
            data=(folder / "book.txt",), out=folder / "run", size="nano", layers=2, vocab_size=600,
            context=128, steps=60, batch=8, threads=1,
        )
    )  # fmt: skip
    return folder


def recipe(run, out, **changes):
    given = {"model": str(run / "run" / "model"), "out": out, "data": (run / "held.jsonl",)}
    return Quantize(**given | {"threads": 1} | changes)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_report_is_about_the_folder_that_is_written(run, tmp_path, bits):
    shown = []
    report = quantise(recipe(run, tmp_path / "small", bits=bits, rest="float32"), shown.append)
    packed = yantai.load(tmp_path / "small", dtype="float32")
    plain = yantai.load(run / "run" / "model", dtype="float32")
    assert any(isinstance(each, PackedLinear) for _, each in packed_modules(packed.network))
    for model, name in ((plain, "before"), (packed, "after")):
        found = text_loss(model, DocumentReader([run / "held.jsonl"])).report()["bits_per_byte"]
        assert report["loss"][name]["value"] == pytest.approx(found, rel=1e-5)
    far = report["divergence"]["value"]
    assert 0 < far < (0.002 if bits == 8 else 0.2)
    assert report["same_prediction"]["value"] > (0.97 if bits == 8 else 0.8)
    assert report["bits_a_weight"] < (8.6 if bits == 8 else 7.5)
    size = [(folder / "model.safetensors").stat().st_size for folder in
            (tmp_path / "small", run / "run" / "model")]  # fmt: skip
    assert size[0] < size[1] * (0.30 if bits == 8 else 0.26)
    assert "bits a weight" in "".join(shown)
    kept = json.loads((tmp_path / "small" / "quality.json").read_text())
    assert kept["loss"] == report["loss"]


def test_a_packed_model_writes_scores_and_goes_on(run, tmp_path):
    quantise(recipe(run, tmp_path / "small"), str)
    model = yantai.load(tmp_path / "small")
    assert model.generate("One morning", max_new_tokens=5).startswith("One morning")
    assert len(model.score("Ivan was glad.")) > 2
    ids = torch.arange(5, 25)[None]
    assert torch.isfinite(model.logits(ids)).all()


def test_what_loses_too_much_is_not_written(run, tmp_path):
    """An outlier in each group of each matrix leaves nothing of the other weights."""
    model = yantai.load(run / "run" / "model", dtype="float32")
    with torch.no_grad():
        for name, module in model.network.named_modules():
            if name.endswith("part.down"):
                module.weight[:, ::32] *= 300.0
    model.save(tmp_path / "spoiled")
    settings = Quantize(
        model=str(tmp_path / "spoiled"), out=tmp_path / "small", bits=4, threads=1,
        data=(run / "held.jsonl",), max_loss_increase=0.001,
    )  # fmt: skip
    with pytest.raises(NumericsError, match="too much is lost; nothing was written") as caught:
        quantise(settings, str)
    assert "down" in str(caught.value)
    assert not (tmp_path / "small").exists()


def test_a_few_large_columns_are_caught_though_the_loss_does_not_rise(run, tmp_path):
    """They spoil the groups that they are in, in eight bits, too."""
    model = yantai.load(run / "run" / "model", dtype="float32")
    with torch.no_grad():
        for block in model.network.decoder.blocks:
            mlp = block.mlp.part
            mlp.down.weight[:, ::40] *= 100.0
            mlp.up.parts[-1].weight[::40] /= 100.0  # what it computes stays the same
    model.save(tmp_path / "spoiled")
    settings = recipe(run, tmp_path / "small", model=str(tmp_path / "spoiled"), max_loss_increase=9)
    with pytest.raises(
        NumericsError, match=r"down: the matrix is too far off.* at most 5%"
    ) as told:
        quantise(settings, str)
    assert told.value.report["worst_matrices"] and not (tmp_path / "small").exists()
    quantise(settings.model_copy(update={"max_matrix_error": 1.0}), str)
    assert (tmp_path / "small" / "quality.json").is_file()


def test_the_verdict_says_which_of_before_and_after_is_lower(run):
    models = [yantai.load(run / "run" / "model", dtype="float32") for _ in range(2)]
    with torch.no_grad():
        models[1].network.decoder.norm.weight.mul_(3.0)
    texts = list(DocumentReader([run / "held.jsonl"]))
    for before, after, lower in ((*models, "before"), (*reversed(models), "after")):
        loss = quality(before, after, texts, 0)["loss"]
        assert loss["difference"]["verdict"] == f"{lower} is lower"
        values = {name: loss[name]["value"] for name in ("before", "after")}
        assert min(values, key=values.__getitem__) == lower


def test_groups_that_fit_nowhere_are_refused_and_others_are_counted(run, tmp_path):
    network = yantai.load(run / "run" / "model").network
    sizes = {size for size in columns_of(network).values() if size % 32 == 0}
    with pytest.raises(UsageError, match=rf"group: .* in rows of {min(sizes)}.*got 1024") as told:
        quantise(recipe(run, tmp_path / "small", bits=4, group=1024), str)
    assert told.value.code == "E203" and f"give --group {max(sizes)}" in str(told.value)
    shown, size = [], max(sizes)
    report = quantise(
        recipe(run, tmp_path / "small", bits=4, group=size, max_loss_increase=9), shown.append
    )
    forms = [module.form for _, module in packed_modules(yantai.load(tmp_path / "small").network)]
    few = sum(form.group == size for form in forms)
    assert report["groups"][str(size)] >= few - 1 and report["groups"]["32"] > 0  # a tied head
    assert f": {size} in {report['groups'][str(size)]}, 32 in " in "".join(shown)
    kept = json.loads((tmp_path / "small" / "quality.json").read_text())
    assert kept["groups"] == report["groups"]


@pytest.mark.parametrize(
    ("form", "advice"),
    [
        (Form(8, 64), ["a smaller --group"]),
        (Form(8, 32), []),
        (Form(4, 32), ["--bits 8"]),
        (Form(4, 64), ["--bits 8", "a smaller --group"]),
    ],
)
def test_a_refusal_advises_what_there_is(tmp_path, form, advice):
    settings = Quantize(model="m", out=tmp_path, bits=form.bits, max_loss_increase=1.0)
    forms = {"inside": form, "embed.tokens": form if form.bits == 8 else Form(8, 64)}
    for rise, more, last in (
        (2.0, ["--calibrate"] if form.bits == 4 else [], "--max-loss-increase"),
        (0.0, [], "--max-matrix-error"),
    ):
        report = {"loss": {"difference": {"value": rise}, "before": {"value": 1.0}}}
        with pytest.raises(NumericsError) as told:
            _refuse(settings, report, {"inside": 0.9, "embed.tokens": 0.01}, forms)
        assert told.value.do == ", or ".join([*advice, *more, last])


def test_what_has_no_effect_or_would_replace_the_model_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match="calibrate: has no effect in 8 bits"):
        quantise(recipe(run, tmp_path / "small", calibrate=(run / "book.txt",)), str)
    shutil.copytree(run / "run" / "model", tmp_path / "m")
    own = recipe(run, tmp_path / "x" / ".." / "m", model=str(tmp_path / "m"))
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="is the model itself"):
        quantise(own, str)
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


def test_others_may_read_what_is_written(run, tmp_path):
    quantise(recipe(run, tmp_path / "small"), str)
    for folder in (tmp_path / "small", run / "run" / "model"):
        modes = {path.stat().st_mode for path in folder.iterdir()}
        assert len(modes) == 1  # weights like everything else


def test_without_a_text_its_own_run_is_read(run, tmp_path):
    report = quantise(recipe(run, tmp_path / "small", data=()), str)
    assert report["text"] == "the texts of its own run"
    assert report["pieces"] > 5 and report["divergence"]["low"] is not None  # pages of one book


def test_calibration_lowers_what_four_bits_cost(run, tmp_path):
    costs = []
    for name, texts in (("plain", ()), ("calibrated", (run / "book.txt",))):
        settings = recipe(run, tmp_path / name, bits=4, calibrate=texts)
        costs.append(quantise(settings, str)["divergence"]["value"])
    assert costs[1] < costs[0]


def test_a_packed_model_is_not_packed_again(run, tmp_path):
    quantise(recipe(run, tmp_path / "small"), str)
    with pytest.raises(UsageError, match="packed already"):
        quantise(recipe(run, tmp_path / "again", model=str(tmp_path / "small")), str)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quant_method": "gptq"}, "weights of a method that is not read; expected yantai"),
        ({"quant_method": "yantai", "inner": {"bits": 3, "group": 32}}, "no form of codes"),
        ({"quant_method": "yantai", "inner": {"bits": 8, "group": 33}}, "no form of codes"),
        ("codes", "weights of a method"),
        ({"inner": {"bits": 4, "group": 32}}, "wrong shape or type|missing|extra|method"),
    ],
)
def test_a_folder_that_says_something_else_is_refused(run, tmp_path, change, said):
    quantise(recipe(run, tmp_path / "small"), str)
    path = tmp_path / "small" / "config.json"
    config = json.loads(path.read_text())
    config[ENTRY] = config[ENTRY] | change if isinstance(change, dict) else change
    path.write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=said):
        yantai.load(tmp_path / "small")


def test_transformers_refuses_the_folder_instead_of_misreading_it(run, tmp_path):
    import transformers

    quantise(recipe(run, tmp_path / "small"), str)
    with pytest.raises(Exception, match=r"(?i)quantization|yantai"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small")


def test_a_packed_model_is_saved_as_it_is_and_does_not_learn(run, tmp_path):
    quantise(recipe(run, tmp_path / "small", bits=4), str)
    model = yantai.load(tmp_path / "small", dtype="float32")
    model.save(tmp_path / "copy")
    ids = torch.arange(5, 25)[None]
    again = yantai.load(tmp_path / "copy", dtype="float32")
    assert torch.equal(again.logits(ids), model.logits(ids))
    with pytest.raises(UsageError, match="packed weights do not learn"):
        pretrain(
            Pretrain(
                data=(run / "book.txt",), out=tmp_path / "run", from_=tmp_path / "small", steps=1,
                threads=1,
            )
        )  # fmt: skip


def test_how_it_does_its_job_is_compared(tmp_path):
    rows = [{"text": f"{word} day {n}", "label": label} for n in range(30)
            for word, label in (("good", "yes"), ("bad", "no"))]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    finetune(
        Finetune(
            model="scratch", task="classify", data=tmp_path / "rows.jsonl", out=tmp_path / "run",
            size="nano", steps=10, pretrain_minutes=0, vocab_size=400, threads=1,
        ),
        str,
    )  # fmt: skip
    shown = []
    settings = Quantize(
        model=str(tmp_path / "run" / "model"), out=tmp_path / "small", threads=1,
        rows=tmp_path / "rows.jsonl", data=(tmp_path / "rows.jsonl",), max_loss_increase=1,
    )  # fmt: skip
    report = quantise(settings, shown.append)
    found = evaluate_rows(
        Evaluate(model=tmp_path / "small", data=(tmp_path / "rows.jsonl",)),
        yantai.load(tmp_path / "small", dtype="float32"), str,
    )  # fmt: skip
    assert report["task"]["n"] == 60 and report["task"]["task"] == "classify"
    then, now = (report["task"][key]["accuracy"]["value"] for key in ("before", "after"))
    assert now == pytest.approx(found["metrics"]["accuracy"]["value"], abs=0.02)
    assert then >= 0.5
    assert f"accuracy {then:.4f}" in "".join(shown)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [0, 8, 4])
def test_many_at_once_differ_from_one_by_one_only_where_two_tokens_are_as_likely(run, bits):
    """In bfloat16 and in codes: many rows are rounded where one alone is not."""
    model = yantai.load(run / "run" / "model", dtype="bfloat16")
    if bits:
        quantize(model.network, Form(bits, 32))
    stories = [story.text for story in Village(seed=5).stories(232, "en")][200:]
    prompts = [model.tokenizer.prompt(text[: 20 + 3 * number])[:60]
               for number, text in enumerate(stories)]  # fmt: skip
    settings = Generation(max_new_tokens=40)
    engine = Engine(prepare(model.network), slots=32)
    try:
        requests = [Request(ids, settings) for ids in prompts]
        engine.submit_all(requests)
        together = [request.wait(120) for request in requests]
    finally:
        engine.close()
    differing = 0
    for ids, found in zip(prompts, together, strict=True):
        alone = generate_ids(model.network, [ids], settings)[0][len(ids) :]
        place = next((at for at, pair in enumerate(zip(alone, found, strict=True))
                      if pair[0] != pair[1]), None)  # fmt: skip
        if place is None:
            continue
        differing += 1
        logits = model.logits([*ids, *alone[:place]])[0, -1].float()
        assert {alone[place], found[place]} <= set(logits.topk(4).indices.tolist())
        assert (logits[alone[place]] - logits[found[place]]).abs() < 0.05
    assert differing < len(prompts) / 2
