"""A training run of 3,000 parameters that is built in 10 ms, and what it ends on."""

import hashlib
import json

import numpy as np
import torch

from yantai.base.files import new_folder, write_json
from yantai.base.log import CLOCK_COLUMNS
from yantai.core.config import ModelConfig
from yantai.core.cost import count
from yantai.core.initialise import build
from yantai.data.batch import Row, collate
from yantai.data.loader import Loader
from yantai.tasks.causal import Causal
from yantai.training.loop import Run
from yantai.training.optim import Average, Optimizer
from yantai.training.plan import Horizon, Peak, work_of
from yantai.training.recipe import Training
from yantai.training.state import Progress, gather
from yantai.training.store import Store
from yantai.training.watch import SpikeWatch

VOCAB, LENGTH = 24, 8


class Rows:
    """Rows that count upwards, which is quickly learned; poisoned ones hold noise."""

    def __init__(self, rows=12, poisoned=()):
        self.rows, self.poisoned = rows, set(poisoned)

    def rows_in_epoch(self, epoch):
        return self.rows

    def row(self, epoch, index):
        number = epoch * self.rows + index
        ids = (np.arange(LENGTH + 1) + number) % VOCAB
        if number in self.poisoned:
            ids = np.random.default_rng(number).integers(0, VOCAB, LENGTH + 1)
        documents = np.repeat([0, 1], LENGTH // 2)
        return Row(ids[:-1], ids[1:], documents, np.arange(LENGTH), f"row {number}")


def model_config(**changes):
    fields = {
        "vocab_size": VOCAB,
        "dim": 16,
        "layers": 1,
        "heads": 2,
        "kv_heads": 2,
        "head_dim": 8,
        "hidden": 16,
        "max_positions": LENGTH,
        "dropout": 0.1,
    }
    return ModelConfig(**(fields | changes))


def tiny_run(folder, *, rows=None, batch=2, accumulate=2, config=None, ema=0.9, **changes):
    """A `Run` in a folder; `changes` are fields of `Training`."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    given = {"steps": 12, "save_every": 4, "valid_every": 6, "warmup": 2, "context": LENGTH}
    given |= {"on_spike": "skip"}
    given |= {"accumulate": accumulate, "batch": batch, "ema": ema}
    settings = Training(**(given | changes))
    model = build(config or model_config(), seed=settings.seed)
    model.train()
    optimizer = Optimizer(
        model, settings.optimizer, rate=0.01, matrix_rate=0.02, weight_decay=settings.weight_decay
    )
    said = []

    def export(name):
        with new_folder(folder / name) as temporary:
            digest = hashlib.sha256()
            for item in model.parameters():
                digest.update(item.detach().numpy().tobytes())
            write_json(temporary / "weights.json", {"sha256": digest.hexdigest()})

    loader = Loader([rows or Rows()], batch, accumulate=accumulate)
    run = Run(
        model=model,
        task=Causal(),
        loader=loader,
        valid=[collate([Rows().row(0, 0), Rows().row(0, 5)])],
        settings=settings,
        optimizer=optimizer,
        average=Average(model, ema) if ema else None,
        progress=Progress(
            Horizon(steps=settings.steps),
            SpikeWatch(sigmas=settings.spike_sigmas),
            fingerprint={"settings": settings.model_dump(mode="json")},
        ),
        store=Store(folder / "checkpoints", "tiny", keep=settings.keep, say=said.append),
        folder=folder,
        export=export,
        work=work_of(loader.batches(0), count(model, LENGTH)),
        peak=Peak(1e12),
        device=torch.device("cpu"),
    )
    run.said = said
    return run


def hashes(run):
    """Hash of every tensor of a run, its timeless state, its log and its exported models."""
    tensors = gather(run.model, run.optimizer, run.average)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().numpy().tobytes())
    state = run.progress.state()
    del state["seconds"]
    rows = run.metrics.rows()
    for row in rows:
        for column in CLOCK_COLUMNS:
            row.pop(column, None)
    exported = {
        name: (run.folder / name / "weights.json").read_text()
        for name in ("model", "last")
        if (run.folder / name).is_dir()
    }
    return {
        "tensors": digest.hexdigest(),
        "state": json.dumps(state, sort_keys=True),
        "log": json.dumps(rows),
        "exported": json.dumps(exported),
    }


class Killed(BaseException):
    """Stands for kill -9 inside one process: nothing is caught, nothing is tidied."""


def kill_at(run, step):
    """Let the run die when it asks for the batches of a step."""
    batches = run.loader.batches

    def dying(asked):
        if asked == step:
            raise Killed
        return batches(asked)

    run.loader.batches = dying
    return run
