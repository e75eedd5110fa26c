"""`yantai quantize`: weights in eight or four bits, and what that costs on the user's own text.

Knows: a model before and after, texts. Nothing is written if it loses more than was allowed.

    OUT/config.json  model.safetensors  tokenizer.json …  quality.json  receipt.json
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yantai.adapt.packed import BLOCK, Form
from yantai.adapt.quantize import (
    Packing,
    columns_of,
    input_squares,
    packed_modules,
    quantize,
    unpacked_error,
)
from yantai.base.abandoned import remove_abandoned
from yantai.base.device import prepare_process, tiny_is_zero
from yantai.base.errors import NumericsError, UsageError
from yantai.base.files import (
    check_replaceable,
    new_folder,
    read_json,
    refuse_itself,
    write_json,
)
from yantai.base.log import say
from yantai.evaluate.compare import bootstrap, interval_text, paired_ratio_difference, ratio
from yantai.evaluate.task_loss import task_loss
from yantai.evaluate.text_loss import text_loss
from yantai.families.folder import special_ids
from yantai.families.hub import local_folder
from yantai.families.packed_folder import is_packed, save_packed
from yantai.families.probes import write_probes
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load
from yantai.life.evaluate_rows import evaluate_rows
from yantai.life.remember import pages_of
from yantai.life.settings import Evaluate, Quantize
from yantai.text.document import Document, DocumentReader
from yantai.text.village import Village
from yantai.training.receipt import file_hashes, receipt

GROUPS = {8: 64, 4: 32}
PIECES, TOKENS = 64, 512
"""Pages of text at most, and tokens of each whose predictions are compared."""
MOST_PAGES = 100_000
WORST = 5
OFF = {8: 0.05, 4: 0.2}
"""How far a matrix may be off: a normal one is by 0.6 % in eight bits, by 10 % in four."""


@tiny_is_zero()
def quantise(settings: Quantize, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai quantize`.

    Raises:
        UsageError: the model is packed already, or no matrix of it can be so.
        NumericsError: E603, it loses more than was allowed.
    """
    if settings.calibrate and settings.bits == 8:
        raise UsageError("E203", "calibrate", "has no effect in 8 bits, whose scales are exact",
                         do="leave it out, or give --bits 4")  # fmt: skip
    check_replaceable(settings.out)
    prepare_process(settings.threads)
    folder = local_folder(settings.model)
    refuse_itself(settings.out, folder)
    remove_abandoned(settings.out.parent)
    before = load(folder, dtype="float32", device=settings.device, probes=True)
    if is_packed(before.network):
        raise UsageError("E203", "model", "is packed already", do="give the one it was made from")
    inner, outer = _forms(settings, before)
    texts, source = texts_of(settings.data, folder)
    importance = None
    if settings.calibrate:
        with input_squares(before.network) as importance:
            for ids in _rows(before, _pieces(DocumentReader(list(settings.calibrate)))):
                _predictions(before, ids)
    after = LanguageModel(
        copy.deepcopy(before.network), before.family, before.tokenizer, before.eos_ids,
        before.start_id,
    )  # fmt: skip
    weights = {name: module.weight for name, module in before.network.named_modules()
               if hasattr(module, "weight")}  # fmt: skip
    packing = quantize(after.network, inner, outer=outer, importance=importance)
    if not packing.packed:
        raise UsageError(
            "E203", "model", "no row of any matrix falls into groups of 32 columns",
            do="keep the model as it is",
        )  # fmt: skip
    errors = {name: unpacked_error(weights[name].detach(), module)
              for name, module in packed_modules(after.network)}  # fmt: skip
    report: dict[str, Any] = {
        "text": source,
        **_sizes(packing),
        **quality(before, after, texts, settings.seed),
    }
    if settings.rows is not None:
        report["task"] = _on_rows(settings, settings.rows, before, after)
    worst = sorted(errors, key=lambda name: -errors[name])[:WORST]
    report["worst_matrices"] = {name: round(errors[name], 5) for name in worst}
    emit(_told(report, packing))
    forms = {name: module.form for name, module in packed_modules(after.network)}
    _refuse(settings, report, errors, forms)
    _write(settings, folder, after, inner, outer, report)
    emit(f"{settings.out}\n")
    return {"model": str(settings.out), **report}


def _forms(settings: Quantize, model: LanguageModel) -> tuple[Form, Form]:
    """Of the matrices inside the blocks, and of embedding and head.

    Raises:
        UsageError: E203, rows of no matrix fall into the groups that were asked for.
    """
    group = settings.group
    forms = Form(settings.bits, group or GROUPS[settings.bits]), Form(8, group or GROUPS[8])
    rows = sorted({size for size in columns_of(model.network).values() if size % BLOCK == 0})
    if group is None or not rows or any(size % group == 0 for size in rows):
        return forms
    most = {size: max(each for each in range(BLOCK, min(size, group) + 1, BLOCK)
                      if size % each == 0) for size in rows}  # fmt: skip
    fitting = ", ".join(f"{each} in rows of {size:,}" for size, each in most.items())
    raise UsageError(
        "E203", "group", "the rows of no matrix fall into such groups",
        expected=f"at most {fitting}", got=group, do=f"give --group {max(most.values())}",
    )  # fmt: skip


def _refuse(
    settings: Quantize,
    report: dict[str, Any],
    errors: Mapping[str, float],
    forms: Mapping[str, Form],
) -> None:
    """Too much of the loss, or of a matrix: a few outlying columns spoil all groups they are in.

    Raises:
        NumericsError: E603.
    """
    worst = max(errors, key=lambda name: errors[name])
    finer = _finer([form for form in forms.values() if form.bits == settings.bits])
    if settings.bits == 4 and not settings.calibrate:
        finer.append("--calibrate")
    rise = report["loss"]["difference"]["value"] / max(1e-9, report["loss"]["before"]["value"])
    if rise > settings.max_loss_increase:
        raise NumericsError(
            "E603", "loss", "too much is lost; nothing was written",
            expected=f"at most {settings.max_loss_increase:.3%} more", got=f"{rise:.3%}; the worst "
            f"matrix is {worst}, {errors[worst]:.0%} off",
            do=", or ".join([*finer, "--max-loss-increase"]),
        ).with_report(report)  # fmt: skip
    own = {name: settings.max_matrix_error or OFF[forms[name].bits] for name in errors}
    name = max(errors, key=lambda name: errors[name] / own[name])
    if errors[name] > own[name]:
        finer = _finer([forms[name]])
        raise NumericsError(
            "E603", name, "the matrix is too far off; nothing was written. A few columns that are "
            "much larger than the others spoil their groups", expected=f"at most {own[name]:.0%}",
            got=f"{errors[name]:.0%}", do=", or ".join([*finer, "--max-matrix-error"]),
        ).with_report(report)  # fmt: skip


def _finer(forms: Sequence[Form]) -> list[str]:
    """Settings that lose less than matrices of these forms have lost, as far as there are any."""
    found = ["--bits 8"] if any(form.bits < 8 for form in forms) else []
    if any(form.group > BLOCK for form in forms):
        found.append("a smaller --group")
    return found


def texts_of(data: Sequence[Path], folder: Path) -> tuple[list[Document], str]:
    """Pieces of what is given, of what a model's own run has read, or else of the village.

    Args:
        data: documents; none for the run's.
        folder: of the model.

    Returns:
        The pieces, and what to call them.
    """
    if data:
        return list(_pieces(DocumentReader(list(data)))), ", ".join(str(path) for path in data)
    recipe = folder.parent / "recipe.json"
    named = read_json(recipe).get("settings", {}).get("data") if recipe.is_file() else None
    paths = [Path(each) for each in named] if isinstance(named, list) else []
    if paths and all(path.exists() for path in paths):
        return list(_pieces(DocumentReader(paths))), "the texts of its own run"
    say("note: no text was given; the village's stories are read, give --data for your own")
    village = Village(seed=7)
    stories = [village.story(number, language).text for number in range(16) for language in
               ("en", "zh")]  # fmt: skip
    return [Document(text, f"story {n}", "village", 1) for n, text in enumerate(stories)], "village"


def _pieces(documents: Iterable[Document]) -> Iterator[Document]:
    """Pages of documents, evenly from all of them when there are many."""
    every = [page for page in islice(pages_of(documents), MOST_PAGES) if page.text.strip()]
    yield from every[:: max(1, -(-len(every) // PIECES))]


def _rows(model: LanguageModel, texts: Iterable[Document]) -> Iterator[Tensor]:
    limit = min(TOKENS, model.length)
    for text in texts:
        ids = model.tokenizer.prompt(text.text)[:limit]
        if len(ids) > 1:
            yield torch.tensor([ids], device=next(model.network.parameters()).device)


@torch.inference_mode()
def _predictions(model: LanguageModel, ids: Tensor) -> Tensor:
    """ln p of everything at each place of a text, float32."""
    network = model.network
    if model.shape == "encoder-decoder":
        start = torch.tensor([model.first_ids()], device=ids.device)
        read = torch.cat((start, ids[:, :-1]), 1)
        logits = network(read, memory=network.encode(ids))
    else:
        logits = network(ids)
    if model.job == "classify":  # there is one place where a text is judged
        logits = logits[:, :1] if model.shape == "encoder" else logits[:, -1:]
    return logits[0].float().log_softmax(-1)


def _on_rows(
    settings: Quantize, rows: Path, before: LanguageModel, after: LanguageModel
) -> dict[str, Any]:
    """The metrics of the task that the models do, on the same rows."""
    asked = Evaluate(
        model=Path(settings.model), data=(rows,), task=settings.task, seed=settings.seed,
        text_column=settings.text_column, label_column=settings.label_column,
    )  # fmt: skip
    found = [evaluate_rows(asked, model, lambda text: None) for model in (before, after)]
    then, now = (each["metrics"] for each in found)
    return {"task": found[0]["task"], "n": found[0]["n"], "before": then, "after": now}


def _sizes(packing: Packing) -> dict[str, Any]:
    groups = {str(size): packing.groups[size] for size in sorted(packing.groups, reverse=True)}
    bits = round(packing.bits_a_weight, 3)
    return {"bits_a_weight": bits, "groups": groups, "left_as_they_are": packing.left}


def quality(
    before: LanguageModel, after: LanguageModel, texts: list[Document], seed: int
) -> dict[str, Any]:
    """Loss, divergence and equal predictions of two models of one tokenizer, with intervals."""
    found: dict[str, Any] = {"pieces": len(texts)}
    if not before.job:
        found["loss"] = _loss(before, after, texts, seed)
    far, same, places = [], [], []
    for ids in _rows(before, texts):
        mine, theirs = _predictions(before, ids), _predictions(after, ids)
        far.append(float((mine.exp() * (mine - theirs)).sum(-1).clamp_min(0).sum()))
        same.append(float((mine.argmax(-1) == theirs.argmax(-1)).sum()))
        places.append(len(mine))
    found["divergence"] = ratio(far, places, seed).as_dict()
    found["same_prediction"] = ratio(same, places, seed).as_dict()
    if before.job:  # what it judges has no loss without labels: how often it judges otherwise
        other = [1 - value / count for value, count in zip(same, places, strict=True)]
        rate = bootstrap(lambda rows: sum(other[row] for row in rows) / len(rows), len(other), seed)
        then, now = {"value": 1.0}, {"value": 1.0 + rate.value}
        found["loss"] = {"measure": "judged otherwise", "before": then, "after": now}
        found["loss"]["difference"] = rate.as_dict()
    return found


def _loss(
    before: LanguageModel, after: LanguageModel, texts: list[Document], seed: int
) -> dict[str, Any]:
    if before.shape == "decoder":
        scored = [text_loss(model, texts) for model in (before, after)]
        tops = [[value / log(2) for value in each.document_losses] for each in scored]
        bottoms, measure = scored[0].document_bytes, "bits per byte"
    else:
        asked = [task_loss(model, texts, seed=seed) for model in (before, after)]
        tops, bottoms, measure = [each.losses for each in asked], asked[0].targets, "nats a token"
    then, now = (ratio(each, bottoms, seed).as_dict() for each in tops)
    names = ("after", "before")
    difference = paired_ratio_difference(tops[1], tops[0], bottoms, seed, names=names)
    return {"measure": measure, "before": then, "after": now, "difference": difference}


def _told(report: dict[str, Any], packing: Packing) -> str:
    lines = [f"{report['bits_a_weight']:.2f} bits a weight; read: {report['text']}"]
    if len(packing.groups) > 1:
        several = [f"{size} in {number:,}" for size, number in report["groups"].items()]
        lines.append(f"columns that share a scale, and in how many matrices: {', '.join(several)}")
    lines += told_quality(report)
    for name, then in report.get("task", {}).get("before", {}).items():
        now = report["task"]["after"][name]
        lines.append(
            f"{report['task']['task']}, {report['task']['n']} rows: {name} {then['value']:.4f} "
            f"({interval_text(then)}) before, {now['value']:.4f} ({interval_text(now)}) after"
        )
    shown = ", ".join(f"{name} {error:.2%}" for name, error in report["worst_matrices"].items())
    lines.append(f"farthest from what they were: {shown}")
    if packing.left:
        lines.append(f"left as they are: {len(packing.left)}, such as {packing.left[0]}")
    return "\n".join(lines) + "\n"


def told_quality(report: dict[str, Any]) -> list[str]:
    """What `quality` found, for a person."""
    loss, lines = report["loss"], []
    if "low" in loss["before"]:
        lines.append(
            f"{loss['measure']}: {loss['before']['value']:.4f} before, "
            f"{loss['after']['value']:.4f} after: {loss['difference']['value']:+.4f} "
            f"({interval_text(loss['difference'], '+.4f')})"
        )
    far, same = report["divergence"], report["same_prediction"]
    lines.append(f"divergence of its predictions: {far['value']:.5f} nats ({interval_text(far)})")
    lines.append(f"the same likeliest token: {same['value']:.2%} ({interval_text(same, '.2%')})")
    return lines


def _write(
    settings: Quantize,
    folder: Path,
    model: LanguageModel,
    inner: Form,
    outer: Form,
    report: dict[str, Any],
) -> None:
    special = special_ids(model.tokenizer, model.shape, model.eos_ids, model.start_id)
    kind = {"bfloat16": torch.bfloat16, "float32": torch.float32}[settings.rest]
    with new_folder(settings.out) as temporary:
        save_packed(
            model.network.to(kind), model.family, temporary, inner, outer, special=special
        )  # fmt: skip
        model.tokenizer.save(temporary)
        write_probes(temporary, model.network, model.tokenizer, model.start_id)
        write_json(temporary / "quality.json", report)
        facts = {"bits_a_weight": report["bits_a_weight"], "loss": report["loss"]}
        inputs = {"model": str(folder), "files": file_hashes(folder)}
        device = next(model.network.parameters()).device
        made = receipt("quantize", settings, inputs, file_hashes(temporary), facts, device)
        write_json(temporary / "receipt.json", made)
