"""Before an hour is spent: is this machine fit, can this recipe run, can these files be read?

Knows: what to look at and what is worth saying. Every finding is a line with a level (ok, note,
problem); a problem makes the exit status 2.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from yantai.base.config import build, lines_of_yaml, read_yaml
from yantai.base.device import (
    available_memory_bytes,
    choose_device,
    choose_dtype,
    describe_machine,
    has_fast_bfloat16,
    prepare_process,
    product_speed,
)
from yantai.base.errors import UsageError, YantaiError
from yantai.base.log import counted
from yantai.core.cost import count
from yantai.core.native.roads import kernels
from yantai.families.adapter import is_adapter
from yantai.families.folder import CONFIG
from yantai.families.hub import local_folder
from yantai.families.table import family_named
from yantai.infer.opening import load
from yantai.life.doctor_memory import memory_of
from yantai.life.doctor_rows import examine_rows
from yantai.life.settings import Doctor
from yantai.life.tune import middle_of_search
from yantai.text.compression import script_of
from yantai.text.document import DocumentReader
from yantai.training.network import model_config
from yantai.training.recipe import Finetune, Pretrain
from yantai.training.setup import fill_in

Finding = tuple[str, str]
MEMORY = ("size", "model", "batch", "context")
"""What decides how much memory is taken, the strongest first."""
TABLES = (".csv", ".tsv", ".parquet")


def doctor(settings: Doctor, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai doctor`.

    Raises:
        UsageError: something was found that would stop or spoil the run; it is in the list.
    """
    findings = _machine()
    what = local_folder(settings.what) if settings.what is not None else None
    if what is not None:
        if not what.exists():
            raise UsageError("E206", what, "no such file or folder")
        if what.is_file() and what.suffix in (".yaml", ".yml"):
            findings += _guard(_recipe, what, settings)
        elif what.suffix.lower() in TABLES:
            line = "rows are examined by a recipe that says what they teach (verb finetune)"
            findings.append(("problem", f"{what}: {line}: yantai doctor recipe.yaml"))
        elif what.suffix == ".bin" or (what / CONFIG).is_file() or is_adapter(what):
            findings += _guard(_model, what, settings)
        else:
            findings += _guard(_data, what, settings)
    for level, line in findings:
        emit(f"{level:8}{line}\n")
    report = {"findings": [{"level": level, "line": line} for level, line in findings]}
    problems = [line for level, line in findings if level == "problem"]
    if problems:
        raise UsageError(
            "E203", what or "machine", f"{counted(len(problems), 'problem')}: {problems[0]}"
        ).with_report(report)
    return report


def _guard(
    check: Callable[[Path, Doctor], list[Finding]], what: Path, settings: Doctor
) -> list[Finding]:
    try:
        return check(what, settings)
    except YantaiError as error:
        return [("problem", f"[{error.code}] {error}")]


def _machine() -> list[Finding]:
    device = choose_device()
    threads = prepare_process()
    facts = describe_machine(device)
    findings = [
        ("ok", f"{facts['processor']}, {facts['cores']} cores, {threads} threads"),
        ("ok", f"Python {facts['python']}, torch {facts['torch']}, device {device.type}"),
    ]
    wide, narrow = (product_speed(kind, device) / 1e9 for kind in (torch.float32, torch.bfloat16))
    chosen = "bfloat16" if has_fast_bfloat16(device) else "float32"
    line = f"products: float32 {wide:,.0f} GFLOP/s, bfloat16 {narrow:,.0f} GFLOP/s"
    findings.append(("ok", f"{line}; training runs in {chosen}"))
    taken = kernels(choose_dtype("auto", device), device)
    findings.append(("ok", f"compiled parts: {taken}"))
    if taken == "torch" and device.type == "cpu":
        findings.append(
            ("note", "training runs on torch's own kernels; g++ or clang++ gives faster")
        )
    free = available_memory_bytes(device)
    findings.append(("ok" if free > 2e9 else "note", f"{free / 1e9:.1f} GB of memory free"))
    disk = shutil.disk_usage(Path.cwd()).free
    findings.append(("ok" if disk > 5e9 else "note", f"{disk / 1e9:.0f} GB of disk free here"))
    return findings


def _recipe(path: Path, settings: Doctor) -> list[Finding]:
    values = read_yaml(path)
    try:
        return _of_recipe(path, values, settings)
    except UsageError as error:  # a setting that makes no sense: on which line is it?
        where = str(error.where).removeprefix(f"{path}:")
        at = lines_of_yaml(path).get(where.partition(".")[0])
        if at is None:
            raise
        line = str(error).removeprefix(f"{path}:")
        return [("problem", f"[{error.code}] {path}:{at}: {line}")]


def _of_recipe(path: Path, values: dict[str, Any], settings: Doctor) -> list[Finding]:
    if "search" in values:  # one that `tune` tries out; it is looked at with a value of each choice
        values = middle_of_search(path) | {"out": values.get("out", "out")}
    verb = values.pop("verb", "pretrain")
    if verb == "finetune":
        return _with_lines(path, examine_rows(build(Finetune, values, str(path)), str(path)))
    if verb != "pretrain":
        return [("note", f"{path}: recipes of the verb {verb!r} are not examined")]
    recipe = fill_in(build(Pretrain, values, str(path)))
    findings = [("ok", f"{path}: every key is known")]
    config = model_config(recipe, family_named(recipe.family), recipe.vocab_size)
    findings.append(memory_of(config, recipe))
    for name, rate in (("rate", recipe.rate), ("matrix_rate", recipe.matrix_rate)):
        if rate is not None and not 1e-6 <= rate <= 0.3:
            findings.append(("problem", f"{name} {rate} is far from sane (1e-6 to 0.3)"))
    if recipe.out.joinpath("recipe.json").exists() and not recipe.resume:
        findings.append(("problem", f"{recipe.out} holds a run already; use --resume"))
    findings = _with_lines(path, findings)
    for documents in (*recipe.data, *recipe.valid):
        findings += _data(documents, settings)
    return findings


def _with_lines(path: Path, findings: list[Finding]) -> list[Finding]:
    """What is said of a setting, behind the line of the recipe on which it stands."""
    lines = lines_of_yaml(path)
    return [(level, _with_line(path, lines, line)) for level, line in findings]


def _with_line(path: Path, lines: dict[str, int], finding: str) -> str:
    name = re.split(r"\W", finding, maxsplit=1)[0]
    settings = MEMORY if name == "memory" else (name,)
    at = next((lines[each] for each in settings if each in lines), None)
    return finding if at is None else f"{path}:{at}: {finding}"


def _data(path: Path, settings: Doctor) -> list[Finding]:
    """Read everything once: what is bad is named, what is there is counted."""
    reader = DocumentReader([path], text_field=settings.text_field)
    languages: dict[str, int] = {}
    size = longest = 0
    seen: set[int] = set()
    duplicates = 0
    for document in reader:
        language = script_of(document.text[:2000])
        languages[language] = languages.get(language, 0) + 1
        size += document.size_bytes
        longest = max(longest, document.size_bytes)
        mark = hash(document.text)
        duplicates += mark in seen
        seen.add(mark)
    total = sum(languages.values())
    shares = ", ".join(f"{count:,} {language}" for language, count in sorted(languages.items()))
    findings = [("ok", f"{path}: {counted(total, 'document')} ({shares}), {size / 1e6:.1f} MB")]
    if total == 0:
        findings.append(("problem", f"{path}: no document with text"))
    if duplicates:
        findings.append(("note", f"{path}: {duplicates:,} documents occur more than once"))
    for reason, number in reader.account.dropped.items():
        findings.append(("note", f"{path}: {number:,} rows left out: {reason}"))
    return findings


def _model(path: Path, settings: Doctor) -> list[Finding]:
    model = load(path)
    config = model.network.config
    cost = count(model.network, config.max_positions)
    findings = [
        (
            "ok",
            f"{path}: {model.family.name}, {cost.parameters / 1e6:.2f} M parameters, "
            f"context {config.max_positions:,}, vocabulary {config.vocab_size:,}",
        )
    ]
    if not model.has_tokenizer:
        findings.append(("note", f"{path}: no tokenizer; ids in, logits out"))
    elif model.tokenizer.chat_template is None:
        findings.append(("note", f"{path}: no chat template; `yantai chat` uses ChatML"))
    if not model.eos_ids:
        findings.append(("note", f"{path}: no end-of-text token; generation stops by length only"))
    return findings
