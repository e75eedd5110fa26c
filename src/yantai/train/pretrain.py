"""From documents to a trained model: tokenizer, shards, model, loop, folder, receipt.

Knows: the order of these stages and where their folders lie below the run's. Each stage is done
elsewhere; a stage that an interrupted run had finished is not done again.

    RUN/recipe.json  tokenizer/  tokens/train  tokens/valid  checkpoints/  metrics.jsonl
    RUN/model/ (best by validation)  last/  loss.svg  receipt.json
"""

import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yantai.base.device import (
    available_memory_bytes,
    choose_device,
    choose_dtype,
    describe_machine,
    fix_threads,
)
from yantai.base.errors import ResourceError, UsageError
from yantai.base.files import (
    FolderLock,
    new_folder,
    read_json,
    recover_folder,
    remove_temporaries,
    write_json,
)
from yantai.base.log import MetricsFile, duration, say
from yantai.core.config import ModelConfig
from yantai.core.cost import count, training_bytes
from yantai.core.initialise import build, build_meta
from yantai.core.model import Transformer
from yantai.data.batch import Batch, collate
from yantai.data.loader import Loader
from yantai.data.pack import RowSource, TextRows
from yantai.data.shards import Shards, write_shards
from yantai.families.folder import load_folder, save_folder
from yantai.families.rules import Family
from yantai.families.table import family_named
from yantai.tasks.causal import Causal
from yantai.text.chat import CHATML
from yantai.text.document import DocumentReader
from yantai.text.tokenizer import Tokenizer
from yantai.train.loop import Outcome, Run
from yantai.train.optim import Average, Optimizer
from yantai.train.plan import Horizon, Peak, energy_estimate, measure_peak
from yantai.train.plot import plot_loss
from yantai.train.receipt import file_hashes, receipt
from yantai.train.recipe import Pretrain, Training
from yantai.train.sizes import model_fields, size_named
from yantai.train.state import Progress
from yantai.train.store import Store
from yantai.train.watch import SpikeWatch

HELD_OUT_SHARE = 0.02
HELD_OUT_MINIMUM = 20


@dataclass
class Setup:
    """What a run starts from, whatever it learns.

    Attributes:
        model: float32 weights on the run's device.
        family: how the model folder is written.
        tokenizer: travels in the model folder; None for a run on bare ids.
        settings: with every None filled in from the size.
        parent: the hash of what the model was made from, for the chain.
        identity: facts that must not change over a resume, beside the settings.
    """

    model: Transformer
    family: Family
    tokenizer: Tokenizer
    settings: Training
    folder: Path
    parent: dict[str, Any]
    identity: dict[str, Any]


def pretrain(settings: Pretrain) -> dict[str, Any]:
    """Run `yantai pretrain`; returns what `--json` prints.

    Raises:
        YantaiError: see contracts; nothing that was there before is lost.
    """
    family = family_named(settings.family)
    settings = fill_in(settings)
    with FolderLock(settings.out):
        _begin(settings)
        device = choose_device(settings.device)
        fix_threads(settings.threads)
        tokenizer = _tokenizer(settings)
        train, valid = _shards(settings, tokenizer)
        if settings.from_ is not None:
            model, family, _ = load_folder(settings.from_, dtype=torch.float32, device=device)
        else:
            config = model_config(settings, family, tokenizer.vocab_size)
            model = build(config, seed=settings.seed, table=family.initial, device=device)

        setup = Setup(
            model=model,
            family=family,
            tokenizer=tokenizer,
            settings=settings,
            folder=settings.out,
            parent={"tokens": [shards.hash for shards in train], "tokenizer": tokenizer.hash},
            identity={"data": [shards.hash for shards in [*train, *valid]]},
        )
        assert settings.context is not None
        sources, held_out = _row_sources(train, valid, settings)
        return run_training(
            setup,
            Loader(
                sources,
                settings.batch or 1,
                accumulate=settings.accumulate,
                weights=settings.weights or None,
                seed=settings.seed,
            ),
            validation_batches(held_out, settings),
        )


def fill_in(settings: Any) -> Any:
    """Give every open setting the value of the size."""
    size = size_named(settings.size)
    open_fields = {
        "context": size.context,
        "batch": size.batch,
        "rate": size.rate,
        "matrix_rate": size.matrix_rate,
    }
    missing = {key: value for key, value in open_fields.items() if getattr(settings, key) is None}
    return settings.model_copy(update=missing)


def model_config(settings: Pretrain, family: Family, vocab_size: int) -> ModelConfig:
    """The model of a size, with what the recipe changes."""
    fields = model_fields(settings.size, family.name)
    changed = {
        key: getattr(settings, key)
        for key in ("layers", "dim", "heads", "kv_heads", "hidden")
        if getattr(settings, key) is not None
    }
    fields |= changed
    if "heads" in changed or "dim" in changed:
        if fields["dim"] % fields["heads"]:
            raise UsageError("E203", "heads", "must divide dim", got=f"{fields['heads']} heads")
        fields["head_dim"] = fields["dim"] // fields["heads"]
        if "kv_heads" not in changed:
            fields["kv_heads"] = fields["heads"]
    if "dim" in changed and "hidden" not in changed:
        wide = 4 * fields["dim"]
        fields["hidden"] = -(-2 * wide // 3 // 64) * 64 if fields.get("gated", True) else wide
    fields |= {
        "vocab_size": vocab_size,
        "max_positions": max(fields["max_positions"], settings.context or 0),
        "dropout": settings.dropout,
        "softcap": settings.softcap,
        "tied": settings.tied,
    }
    try:
        return ModelConfig(**fields)
    except ValueError as error:
        first = error.errors(include_url=False)[0]  # ty: ignore[missing-attribute]
        raise UsageError("E203", "model", first["msg"].removeprefix("Value error, ")) from error


def _begin(settings: Pretrain) -> None:
    """Refuse to run over an existing run; tidy up after a crashed one."""
    recipe = settings.out / "recipe.json"
    if recipe.exists() and not settings.resume:
        raise UsageError(
            "E204",
            settings.out,
            "holds a run already",
            do="continue it with --resume, or choose another --out",
        )
    if not settings.data and not settings.resume:
        raise UsageError("E201", "--data", "no documents are named", do="give files or folders")
    remove_temporaries(settings.out)
    for name in ("model", "last", "tokenizer"):
        recover_folder(settings.out / name)
    if not recipe.exists():
        _write_recipe(settings.out, uuid.uuid4().hex[:12], settings)


def _write_recipe(folder: Path, run: str, settings: Training) -> None:
    """What a later --resume starts from; what was allowed once is not allowed for ever."""
    kept = settings.model_dump(mode="json", exclude={"resume", "allow_change"})
    write_json(folder / "recipe.json", {"run": run, "settings": kept})


def _tokenizer(settings: Pretrain) -> Tokenizer:
    """The one that was given, that of the model to continue, the run's own, or a new one."""
    own = settings.out / "tokenizer"
    source = settings.tokenizer or settings.from_ or (own if own.is_dir() else None)
    if source is not None:
        tokenizer = Tokenizer.load(source)
    else:
        say(f"training a tokenizer of {settings.vocab_size:,} entries")
        texts = (document.text for document in _reader(settings, settings.data))
        tokenizer = Tokenizer.train(texts, settings.vocab_size, settings.token_kind)
        tokenizer.chat_template = CHATML
    if not own.is_dir():
        with new_folder(own) as folder:
            tokenizer.save(folder)
    return tokenizer


def _reader(settings: Pretrain, paths: tuple[Path, ...]) -> DocumentReader:
    quarantine = settings.out / "quarantine" if settings.on_bad_row == "quarantine" else None
    return DocumentReader(
        list(paths),
        text_field=settings.text_field,
        policy=settings.on_bad_row,
        quarantine=quarantine,
        encoding=settings.encoding,
    )


def _shards(settings: Pretrain, tokenizer: Tokenizer) -> tuple[list[Shards], list[Shards]]:
    """Token shards of the training and validation documents; one set a path if weighted."""
    groups = [(path,) for path in settings.data] if settings.weights else [settings.data]
    train = [
        _shard(settings, tokenizer, paths, f"train-{number}" if settings.weights else "train")
        for number, paths in enumerate(groups)
    ]
    valid = [_shard(settings, tokenizer, settings.valid, "valid")] if settings.valid else []
    return train, valid


def _shard(settings: Pretrain, tokenizer: Tokenizer, paths: tuple[Path, ...], name: str) -> Shards:
    folder = settings.out / "tokens" / name
    if folder.is_dir():
        shards = Shards.open(folder)
        if shards.tokenizer_hash == tokenizer.hash:
            return shards
    reader = _reader(settings, paths)
    shards = write_shards(reader, tokenizer, folder, sources=reader.sources, account=reader.account)
    say(
        f"{name}: {shards.document_count:,} documents, {shards.token_count:,} tokens, "
        f"{shards.byte_count / max(1, shards.token_count):.2f} bytes a token"
    )
    return shards


def _row_sources(
    train: list[Shards], valid: list[Shards], settings: Pretrain
) -> tuple[list[RowSource], TextRows | None]:
    """Rows to train on, and rows to validate on: the given ones, or documents held out."""
    context, seed = settings.context or 1, settings.seed
    if valid:
        sources = [TextRows(shards, context, seed=seed) for shards in train]
        return list(sources), TextRows(valid[0], context, shuffle=False)
    first, rest = train[0], train[1:]
    chosen, held = hold_out(first.document_count, seed)
    if not len(held):
        say("note: too few documents to hold some out; RUN/model will be the last weights")
    sources = [TextRows(first, context, seed=seed, documents=chosen)]
    sources += [TextRows(shards, context, seed=seed) for shards in rest]
    rows = TextRows(first, context, documents=held, shuffle=False) if len(held) else None
    return list(sources), rows


def hold_out(documents: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Document numbers for training and for validation, a function of the seed."""
    if documents < HELD_OUT_MINIMUM:
        return np.arange(documents), np.arange(0)
    order = np.random.Generator(np.random.Philox(seed)).permutation(documents)
    size = max(1, int(documents * HELD_OUT_SHARE))
    return np.sort(order[size:]), np.sort(order[:size])


def validation_batches(rows: RowSource | None, settings: Training) -> list[Batch]:
    """The same batches for every validation: rows spread evenly over what was held out."""
    if rows is None:
        return []
    context, batch = settings.context or 1, settings.batch or 1
    total = rows.rows_in_epoch(0)
    wanted = min(total, max(1, settings.valid_tokens // context))
    indices = [round(number * total / wanted) for number in range(wanted)]
    chosen = [rows.row(0, min(index, total - 1)) for index in indices]
    return [collate(chosen[start : start + batch]) for start in range(0, len(chosen), batch)]


def run_training(setup: Setup, loader: Loader, valid: list[Batch]) -> dict[str, Any]:
    """Predict, train, compare, write the receipt; the common end of every kind of training."""
    settings, model = setup.settings, setup.model
    device = next(model.parameters()).device
    dtype = choose_dtype(settings.dtype, device)
    model.compute_dtype = dtype
    model.train()
    tokens_per_step = loader.batch_size * loader.accumulate * (settings.context or 1)
    settings = settings.model_copy(update={"warmup": _warmup(settings)})
    setup.settings = settings
    cost = count(model, settings.context or 1)
    peak = measure_peak(model, loader.batch_size * (settings.context or 1), dtype, device)
    horizon = _horizon(settings, cost.parameters, tokens_per_step)
    predicted = _predict(setup, loader, horizon, peak, dtype)
    run = _assemble(setup, loader, valid, cost, peak, horizon, device)
    if getattr(settings, "resume", False):
        run.resume(settings.allow_change)
        _write_recipe(setup.folder, run.store.run_id, settings)  # only now are they accepted
    outcome = run.train()
    rows = MetricsFile(setup.folder / "metrics.jsonl").rows()
    plot_loss(rows, setup.folder, f"{setup.folder.name}: loss")
    return _report(setup, outcome, predicted, cost, peak, device)


def _warmup(settings: Training) -> int:
    if settings.warmup is not None:
        return settings.warmup
    if settings.steps is not None:
        return max(1, min(100, settings.steps // 20))
    return 20


def _horizon(settings: Training, parameters: int, tokens_per_step: int) -> Horizon:
    if settings.minutes is not None:
        return Horizon(seconds=settings.minutes * 60)
    tokens = settings.tokens
    if tokens is None and settings.steps is None:
        size = getattr(settings, "size", "tiny")
        tokens = size_named(size).tokens * parameters
    if settings.steps is not None:
        return Horizon(steps=settings.steps)
    assert tokens is not None
    return Horizon(steps=max(1, round(tokens / tokens_per_step)))


def _predict(
    setup: Setup, loader: Loader, horizon: Horizon, peak: Peak, dtype: torch.dtype
) -> dict[str, Any]:
    """Say what the run will take, and refuse what cannot fit.

    Raises:
        ResourceError: the prediction is above the memory at hand.
    """
    settings, config = setup.settings, setup.model.config
    device = next(setup.model.parameters()).device
    cost = count(build_meta(config), settings.context or 1)
    copies = {"muon": 1, "sgd": 1}.get(settings.optimizer, 2) + (settings.ema is not None)
    memory = training_bytes(
        cost,
        config,
        batch=loader.batch_size,
        context=settings.context or 1,
        compute_bytes=dtype.itemsize,
        copies=copies,
    )
    if settings.recompute:
        memory = cost.parameters * 4 * (2 + copies) + memory // max(1, config.layers)
    free = available_memory_bytes(device)
    if memory > free:
        raise ResourceError(
            "E801",
            "memory",
            "the run does not fit",
            expected=f"at most {free / 1e9:.1f} GB free",
            got=f"{memory / 1e9:.1f} GB predicted",
            do="lower --batch, --context or --size, or give --recompute true",
        )
    tokens_per_step = loader.batch_size * loader.accumulate * (settings.context or 1)
    step_seconds = tokens_per_step * cost.training_flops / (0.65 * peak.flops)
    seconds = horizon.seconds or (horizon.steps or 0) * step_seconds
    steps = horizon.steps or max(1, int(seconds / step_seconds))
    energy = energy_estimate(seconds, device, torch.get_num_threads())
    say(
        f"model: {cost.parameters / 1e6:.2f} M parameters, {config.layers} × {config.dim}, "
        f"vocabulary {config.vocab_size:,}, {str(dtype).removeprefix('torch.')}\n"
        f"predicted: about {steps:,} steps of {tokens_per_step:,} tokens, {duration(seconds)}, "
        f"{memory / 1e6:,.0f} MB, {energy['watt_hours']:.1f} Wh "
        f"(peak of the products: {peak.flops / 1e9:,.0f} GFLOP/s)"
    )
    return {
        "parameters": cost.parameters,
        "memory_bytes": memory,
        "seconds": round(seconds, 1),
        "steps": steps,
        "watt_hours": energy["watt_hours"],
    }


def _assemble(
    setup: Setup,
    loader: Loader,
    valid: list[Batch],
    cost: Any,
    peak: Peak,
    horizon: Horizon,
    device: torch.device,
) -> Run:
    settings, model = setup.settings, setup.model
    optimizer = Optimizer(
        model,
        settings.optimizer,
        rate=settings.rate or 1e-3,
        matrix_rate=settings.matrix_rate or 0.02,
        weight_decay=settings.weight_decay,
    )
    machine = describe_machine(device)
    fingerprint = {
        "settings": settings.model_dump(mode="json"),
        "data": setup.identity,
        "tokenizer": setup.tokenizer.hash,
        "world_size": 1,
        **{key: machine[key] for key in ("torch", "threads", "processor", "device")},
    }
    board = None
    if settings.tensorboard:
        board = _open_board(setup.folder)
    run_id = read_json(setup.folder / "recipe.json")["run"]
    return Run(
        model=model,
        task=Causal(),
        loader=loader,
        valid=valid,
        settings=settings,
        optimizer=optimizer,
        average=Average(model, settings.ema) if settings.ema is not None else None,
        progress=Progress(
            horizon, SpikeWatch(sigmas=settings.spike_sigmas), fingerprint=fingerprint
        ),
        store=Store(setup.folder / "checkpoints", run_id, keep=settings.keep, say=say),
        folder=setup.folder,
        export=lambda name: export(setup, setup.folder / name),
        cost=cost,
        peak=peak,
        device=device,
        board=board,
    )


def _open_board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "E207", "tensorboard", "is not installed", do="pip install 'yantai[tensorboard]'"
        ) from error
    return SummaryWriter(folder / "tensorboard")


def export(setup: Setup, folder: Path) -> None:
    """Write the model folder, whole or not at all, with its part of the chain of hashes."""
    tokenizer = setup.tokenizer
    special = {
        f"{name}_token_id": id
        for name, id in (
            ("bos", tokenizer.bos_id),
            ("eos", tokenizer.eos_id),
            ("pad", tokenizer.pad_id),
        )
        if id is not None
    }
    with new_folder(folder) as temporary:
        save_folder(setup.model, setup.family, temporary, special=special)
        tokenizer.save(temporary)
        write_json(
            temporary / "receipt.json",
            {"stage": "model", "inputs": setup.parent, "outputs": file_hashes(temporary)},
        )


def _report(
    setup: Setup,
    outcome: Outcome,
    predicted: dict[str, Any],
    cost: Any,
    peak: Peak,
    device: torch.device,
) -> dict[str, Any]:
    """Compare with the prediction, write RUN/receipt.json, return the facts."""
    energy = energy_estimate(outcome.seconds, device, torch.get_num_threads())
    achieved = outcome.tokens_per_second * cost.training_flops
    facts = {
        "parameters": cost.parameters,
        "predicted": predicted,
        **asdict(outcome),
        "share_of_peak": round(achieved / peak.flops, 4),
        "energy": energy,
    }
    outputs = {
        f"{name}/{file}": digest
        for name in ("model", "last")
        for file, digest in file_hashes(setup.folder / name).items()
    }
    write_json(
        setup.folder / "receipt.json",
        receipt("pretrain", setup.settings, setup.parent, outputs, facts, device),
    )
    say(
        f"done: {outcome.steps:,} steps, {outcome.tokens:,} tokens in {duration(outcome.seconds)} "
        f"(predicted {duration(predicted['seconds'])}), peak memory "
        f"{outcome.peak_memory_bytes / 1e6:,.0f} MB, {energy['watt_hours']:.1f} Wh by estimate\n"
        f"model: {setup.folder / 'model'}"
    )
    return {"model": str(setup.folder / "model"), **facts}
