"""The common frame of every training: begin a folder, predict, run the loop, write the receipt.

Knows: a model, batches, a folder. What is learned and from what is decided by `pretrain.py` and
`chat_tune.py`, which hand over a `Setup`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from yantai.adapt.lora import LoRA
from yantai.base.device import (
    available_memory_bytes,
    choose_device,
    choose_dtype,
    describe_machine,
    slower_together,
)
from yantai.base.errors import ResourceError, UsageError
from yantai.base.files import (
    new_folder,
    read_json,
    write_json,
)
from yantai.base.log import MetricsFile, counted, duration, say
from yantai.core.cost import Cost, count, training_bytes
from yantai.core.face import Model
from yantai.core.native.roads import kernels
from yantai.data.batch import Batch, collate
from yantai.data.loader import Loader
from yantai.data.pack import RowSource
from yantai.families.adapter import save_adapter
from yantai.families.folder import save_folder, special_ids
from yantai.families.probes import write_probes
from yantai.families.rules import Family
from yantai.tasks.causal import Causal
from yantai.tasks.task import Task
from yantai.text.tokenizer import Tokenizer
from yantai.training.blocks import arrange, compiles
from yantai.training.loop import Outcome, Report, Run
from yantai.training.optim import Average, Optimizer
from yantai.training.plan import (
    Horizon,
    Peak,
    Work,
    energy_estimate,
    measure_peak,
    work_of,
)
from yantai.training.plot import plot_loss
from yantai.training.receipt import file_hashes, receipt
from yantai.training.recipe import Training
from yantai.training.run_folder import write_recipe
from yantai.training.sizes import size_for, size_named
from yantai.training.state import Progress
from yantai.training.store import Store
from yantai.training.watch import SpikeWatch


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
        task: what is learned.
        judge: scores on what was held out; the first one decides which model is the best.
        stage: what the receipt calls this.
        start_id: what an encoder–decoder's decoder reads first.
        lora: what adapters are like, where they alone are learned and written.
        base: the model that these belong to.
        report: is told every validation.
    """

    model: Model
    family: Family
    tokenizer: Tokenizer
    settings: Training
    folder: Path
    parent: dict[str, Any]
    identity: dict[str, Any]
    task: Task = field(default_factory=Causal)
    judge: Callable[[Model], dict[str, float]] | None = None
    stage: str = "pretrain"
    start_id: int | None = None
    lora: LoRA | None = None
    base: str = ""
    report: Report | None = None


def fill_in(settings: Any, family: str | None = None) -> Any:
    """Give every open setting the value of the size, for a family; by default the recipe's.

    The number type becomes a name, so that a run goes on in the type that it began with.
    """
    size = size_for(settings.size, family or getattr(settings, "family", None))
    beside_muon = settings.optimizer == "muon" and size.rest_rate is not None
    open_fields: dict[str, Any] = {
        "context": size.context,
        "batch": size.batch,
        "rate": size.rest_rate if beside_muon else size.rate,
        "matrix_rate": size.matrix_rate,
        "on_spike": "skip",
    }
    missing = {key: value for key, value in open_fields.items() if getattr(settings, key) is None}
    dtype = choose_dtype(settings.dtype, choose_device(settings.device))
    missing |= {"dtype": str(dtype).removeprefix("torch.")}
    return settings.model_copy(update=missing)


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
    settings = settings.model_copy(update={"warmup": _warmup(settings)})
    setup.settings = settings
    cost = count(model, settings.context or 1)
    work = work_of(loader.batches(0), cost, passes=2 if settings.adversarial else 1)
    peak = measure_peak(model, loader.batch_size * (settings.context or 1), dtype, device)
    horizon = _horizon(settings, cost.parameters, work.tokens)
    predicted = _predict(setup, loader, cost, work, horizon, peak, dtype)
    _say_crowded(dtype, device)
    predicted["kernels"] = _arrange_blocks(setup, loader, work, horizon, device)
    run = _assemble(setup, loader, valid, work, peak, horizon, predicted["kernels"], device)
    if getattr(settings, "resume", False):
        run.resume(settings.allow_change)
        write_recipe(setup.folder, run.store.run_id, settings)  # only now are they accepted
    outcome = run.train()
    rows = MetricsFile(setup.folder / "metrics.jsonl").rows()
    plot_loss(rows, setup.folder, f"{setup.folder.name}: loss")
    return _report(setup, outcome, predicted, work, peak, device)


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


def _arrange_blocks(
    setup: Setup, loader: Loader, work: Work, horizon: Horizon, device: torch.device
) -> str:
    """Say how blocks are called; returns which compiled parts the run takes, in words."""
    settings, model = setup.settings, setup.model
    flops = work.flops * (horizon.steps or 0)
    wanted = compiles(settings.compile, device, flops=flops, seconds=horizon.seconds)
    batch = loader.batches(0)[0]
    compiled = arrange(
        model,
        compiled=wanted,
        recompute=settings.recompute,
        trial=lambda: setup.task.loss_sum(model, batch.to(device)),
    )
    taken = kernels(model.compute_dtype or torch.float32, device)
    return f"{taken}, compiled blocks" if compiled else taken


def _say_crowded(dtype: torch.dtype, device: torch.device) -> None:
    """Tell whoever shares the machine with another program what that costs."""
    speeds = slower_together(dtype, device)
    if speeds is not None:
        together, alone = (f"{speed / 1e9:,.0f} GFLOP/s" for speed in speeds)
        say(
            f"note: another program has a core: {torch.get_num_threads()} threads wait for each "
            f"other ({together}; one alone: {alone}); end it, or pass --threads 1"
        )


def _predict(
    setup: Setup,
    loader: Loader,
    cost: Cost,
    work: Work,
    horizon: Horizon,
    peak: Peak,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Say what the run will take, and refuse what cannot fit.

    Raises:
        ResourceError: the prediction is above the memory at hand.
    """
    settings, config = setup.settings, setup.model.config
    device = next(setup.model.parameters()).device
    copies = {"muon": 1, "sgd": 1}.get(settings.optimizer, 2) + (settings.ema is not None)
    memory = training_bytes(
        cost,
        config,
        batch=loader.batch_size,
        context=settings.context or 1,
        compute_bytes=dtype.itemsize,
        copies=copies,
        on_gpu=device.type == "cuda",
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
    step_seconds = work.flops / (0.65 * peak.flops)
    seconds = horizon.seconds or (horizon.steps or 0) * step_seconds
    steps = horizon.steps or max(1, int(seconds / step_seconds))
    energy = energy_estimate(seconds, device, torch.get_num_threads())
    say(
        f"model: {cost.parameters / 1e6:.2f} M parameters, {config.layers} × {config.dim}, "
        f"vocabulary {config.vocab_size:,}, {str(dtype).removeprefix('torch.')}\n"
        f"predicted: about {counted(steps, 'step')} of {work.tokens:,} tokens, "
        f"{duration(seconds)}, {memory / 1e6:,.0f} MB, {energy['watt_hours']:.1f} Wh "
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
    work: Work,
    peak: Peak,
    horizon: Horizon,
    taken: str,
    device: torch.device,
) -> Run:
    settings, model = setup.settings, setup.model
    optimizer = Optimizer(
        model,
        settings.optimizer,
        rate=settings.rate or 1e-3,
        matrix_rate=settings.matrix_rate or 0.02,
        weight_decay=settings.weight_decay,
        products=model.compute_dtype or torch.float32,
    )
    machine = describe_machine(device)
    fingerprint = {
        "settings": settings.model_dump(mode="json"),
        "data": setup.identity,
        "tokenizer": setup.tokenizer.hash,
        "world_size": 1,
        "kernels": taken,
        **{key: machine[key] for key in ("torch", "threads", "processor", "device")},
    }
    board = None
    if settings.tensorboard:
        board = _open_board(setup.folder)
    run_id = read_json(setup.folder / "recipe.json")["run"]
    return Run(
        model=model,
        task=setup.task,
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
        work=work,
        peak=peak,
        device=device,
        board=board,
        judge=setup.judge,
        report=setup.report,
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
    special = special_ids(tokenizer, setup.model.config.shape, start_id=setup.start_id)
    with new_folder(folder) as temporary:
        if setup.lora is not None:
            save_adapter(setup.model, setup.family, setup.lora, temporary, base=setup.base)
        else:
            save_folder(setup.model, setup.family, temporary, special=special)
        tokenizer.save(temporary)
        write_probes(temporary, setup.model, tokenizer, setup.start_id)
        made = {"stage": "model", "inputs": setup.parent, "outputs": file_hashes(temporary)}
        task = getattr(setup.settings, "task", None)
        write_json(temporary / "receipt.json", made | ({"task": task} if task else {}))


def _report(
    setup: Setup,
    outcome: Outcome,
    predicted: dict[str, Any],
    work: Work,
    peak: Peak,
    device: torch.device,
) -> dict[str, Any]:
    """Compare with the prediction, write RUN/receipt.json, return the facts."""
    energy = energy_estimate(outcome.seconds, device, torch.get_num_threads())
    achieved = outcome.steps * work.flops / max(outcome.seconds, 1e-9)
    facts = {
        "parameters": predicted["parameters"],
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
        receipt(setup.stage, setup.settings, setup.parent, outputs, facts, device),
    )
    say(
        f"done: {counted(outcome.steps, 'step')}, {outcome.tokens:,} tokens in "
        f"{duration(outcome.seconds)} (predicted {duration(predicted['seconds'])}), memory of "
        f"the training {outcome.peak_memory_bytes / 1e6:,.0f} MB (predicted "
        f"{predicted['memory_bytes'] / 1e6:,.0f}), {energy['watt_hours']:.1f} Wh by estimate\n"
        f"model: {setup.folder / 'model'}"
    )
    return {"model": str(setup.folder / "model"), **facts}
