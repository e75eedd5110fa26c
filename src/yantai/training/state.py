"""Everything that a run needs to go on as if it had never stopped.

Knows: a model's weights, an optimiser's memory, counters, the plan. Randomness is not here: order,
dropout and first weights are functions of (seed, step). What the clock decided is.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from yantai.base.errors import UsageError
from yantai.training.optim import Average, Optimizer
from yantai.training.plan import Horizon
from yantai.training.store import TENSORS, Checkpoint
from yantai.training.watch import SpikeWatch

# a difference in these may change the last bits, and is told; in others it blocks
SOFT = ("torch", "threads", "processor", "device", "kernels")
# budgets of time may differ: what was decided is in the plan; what was compiled is in "kernels"
FREE = (
    "resume", "allow_change", "save_minutes", "save_every", "keep", "tensorboard", "out", "compile",
)  # fmt: skip


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        tokens: training tokens read.
        seconds: wall time of all sessions.
        best_score, best_loss, best_step: the best validation so far, by its score.
        horizon: the plan.
        spikes: what the watch remembers.
    """

    horizon: Horizon
    spikes: SpikeWatch
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_score: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "best_score": self.best_score,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "horizon": self.horizon.state(),
            "spikes": self.spikes.state(),
            "fingerprint": self.fingerprint,
        }

    def load(self, state: dict[str, Any]) -> None:
        """From JSON."""
        for name in ("step", "tokens", "seconds", "best_score", "best_loss", "best_step"):
            setattr(self, name, state[name])
        self.horizon.decisions = [list(pair) for pair in state["horizon"]["decisions"]]
        self.spikes.load(state["spikes"])


def gather(model: nn.Module, optimizer: Optimizer, average: Average | None) -> dict[str, Tensor]:
    """Every tensor of the state by name: the very tensors, so that loading copies into them."""
    tensors = {f"weight.{name}": item.detach() for name, item in model.named_parameters()}
    tensors |= optimizer.tensors()
    return tensors | (average.tensors() if average is not None else {})


def to_arrays(tensors: dict[str, Tensor]) -> dict[str, NDArray[np.generic]]:
    """The tensors' numbers where numpy can see them; on a CPU the same memory, not a copy."""
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}


@torch.no_grad()
def load_tensors(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """Copy a verified checkpoint into the tensors of a state built from the same recipe."""
    path: Path = checkpoint.folder / TENSORS
    with safe_open(path, framework="pt") as file:
        stored = set(file.keys())
        if stored != set(tensors):
            odd = sorted(stored ^ set(tensors))[0]
            raise UsageError(
                "E205",
                path,
                f"the checkpoint and the recipe differ in {odd!r}",
                do="give the settings that the run was saved with",
            )
        for name, tensor in tensors.items():
            saved = file.get_tensor(name)
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                raise UsageError(
                    "E205",
                    f"{path}:{name}",
                    "the checkpoint and the recipe differ",
                    expected=f"{tensor.dtype} {list(tensor.shape)}",
                    got=f"{saved.dtype} {list(saved.shape)}",
                    do="give the settings that the run was saved with",
                )
            tensor.copy_(saved)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(field, old, new) wherever two fingerprints differ, nested tables by dotted paths."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = differences(before, after)
            found += [(f"{key}.{name}", was, now) for name, was, now in inner]
        elif before != after:
            found.append((key, before, after))
    return found


def check_same_run(old: dict[str, Any], new: dict[str, Any], allowed: tuple[str, ...]) -> list[str]:
    """Compare the saved run with the one that wants to go on.

    Returns:
        Warnings: differences that may change the last bits, and those that were allowed.

    Raises:
        UsageError: E205, listing every other difference as `field: old -> new`.
    """
    warnings, blocking = [], []
    for path, before, after in differences(old, new):
        name = path.rsplit(".", 1)[-1]
        if name in FREE:
            continue
        line = f"{path}: {before} -> {after}"
        if name in SOFT:
            warnings.append(f"{line} (the last bits may differ)")
        elif name in allowed or path in allowed:
            warnings.append(f"{line} (allowed)")
        else:
            blocking.append((name, line))
    if blocking:
        flags = " ".join(f"--allow-change {name}" for name, _ in blocking)
        raise UsageError(
            "E205",
            "--resume",
            f"the run was saved with other settings ({'; '.join(line for _, line in blocking)})",
            do=f"give the old settings, or {flags}",
        )
    return warnings
