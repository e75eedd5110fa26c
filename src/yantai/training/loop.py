"""The training loop.

Knows: a model, a task, batches, optimisers, a folder. Knows nothing of text or of families: what
to predict is the task's business, how a model is written is `export`'s.

`Run.train` reads like a page. Everything random in a step is a function of (seed, step), so what
was interrupted after any step goes on with the same bits.
"""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from yantai.base.device import MemoryWatch, mix_seed
from yantai.base.errors import Interrupted, NumericsError, StorageError
from yantai.base.log import MetricsFile, ProgressLine, counted, duration, say
from yantai.core.face import Model
from yantai.data.batch import Batch
from yantai.data.loader import Loader
from yantai.tasks.task import Task
from yantai.training.nudge import Nudge
from yantai.training.optim import Average, Optimizer, clip_gradients
from yantai.training.pace import VALIDATIONS, mean_without_the_longest, seconds_left, validations_by
from yantai.training.plan import Peak, Work
from yantai.training.recipe import Training
from yantai.training.schedule import factor
from yantai.training.signals import listen
from yantai.training.state import Progress, check_same_run, gather, load_tensors, to_arrays
from yantai.training.store import Store
from yantai.training.watch import first_bad, stop_on_nonfinite

Report = Callable[[int, float], None]


@dataclass(frozen=True)
class Outcome:
    """What a finished run says of itself."""

    steps: int
    tokens: int
    seconds: float
    loss: float
    best_loss: float | None
    best_score: float | None  # by what decides: a score, or minus the loss
    tokens_per_second: float
    peak_memory_bytes: int  # of the training: what the process held before is not counted


class _Rewind(Exception):  # noqa: N818 - a way back, not an error
    """Go back to the last checkpoint and leave out all that was learned since."""


@dataclass
class Run:
    """One training run: its parts are built outside, the loop is here.

    Attributes:
        model: float32 weights; `compute_dtype` says what it multiplies in.
        task, loader: what is learned, from which batches.
        valid: validation batches; empty for none.
        judge: scores of the model on what was held out, high ones good; the first one decides.
        report: is told (step, score) of every validation, and may end the run by raising.
        settings: the recipe, with every None filled in.
        progress: where it stands.
        store: its checkpoints.
        export: writes the model as a folder of the given name below the run's.
        work, peak: for the share of the machine's limit.
    """

    model: Model
    task: Task
    loader: Loader
    valid: list[Batch]
    settings: Training
    optimizer: Optimizer
    average: Average | None
    progress: Progress
    store: Store
    folder: Path
    export: Callable[[str], None]
    work: Work
    peak: Peak
    device: torch.device
    board: Any = None
    judge: Callable[[Model], dict[str, float]] | None = None
    report: Report | None = None

    def __post_init__(self) -> None:
        self.metrics = MetricsFile(self.folder / "metrics.jsonl")
        self.line = ProgressLine()
        self.nudge = Nudge(self.model.embed, self.settings.adversarial)
        self.memory = MemoryWatch(self.device)
        tensors = gather(self.model, self.optimizer, self.average).values()
        self._held = sum(each.numel() * each.element_size() for each in tensors)
        self.storage_problem: StorageError | None = None
        self._last_save = time.monotonic()
        self._step_seconds: deque[float] = deque(maxlen=50)
        self._loss = float("nan")
        self._validating = self._saving = 0.0  # seconds the last one took

    def train(self) -> Outcome:
        """Step until the horizon; returns when the model is saved.

        Raises:
            Interrupted: a signal came; the state is saved.
            NumericsError: a number is not finite, or the loss jumped and the policy is to stop.
            StorageError: the last state could not be saved anywhere.
        """
        progress = self.progress
        self._clock = time.monotonic() - progress.seconds
        with listen() as signals:
            while progress.step < progress.horizon.at(progress.step):
                began = time.perf_counter()
                try:
                    row = self.step()
                except _Rewind:
                    self.resume(None)
                    continue
                if "passed_over" not in row:
                    self._step_seconds.append(time.perf_counter() - began)
                progress.seconds = time.monotonic() - self._clock
                self._ask_the_clock()
                if self._validation_due():
                    row |= self.validate()
                self._log(row)
                if self._save_due():
                    self.save()
                if signals:
                    self._stop_for(signals[0])
        return self._finish()

    def step(self) -> dict[str, Any]:
        """One optimiser step: forward, backward, check, clip, update."""
        progress, settings = self.progress, self.settings
        step = progress.step
        if step in progress.spikes.passed:
            return self._pass_over(step)
        batches = self.loader.batches(step)
        targets = sum(self.task.count(batch) for batch in batches)
        total = self._forward_backward(step, batches, targets)
        length = clip_gradients(self.model.parameters(), settings.clip)
        if self.device.type != "cpu" and step + 1 < progress.horizon.at(step):
            self.loader.read_ahead(step + 1)  # while the device computes
        loss, norm = float(total), float(length)
        stop_on_nonfinite(step, loss, norm, self.model, batches)
        share = factor(
            settings.schedule,
            step,
            progress.horizon.at(step),
            warmup=settings.warmup or 0,
            cooldown=settings.cooldown,
        )
        if self._may_update(step, loss, batches):
            self.optimizer.step(share, step)
            if self.average is not None:
                self.average.update(step)
        self.optimizer.zero_gradients()
        progress.step += 1
        progress.tokens += sum(batch.token_count for batch in batches)
        self._loss = loss
        return {
            "step": progress.step,
            "loss": loss,
            "gradient_norm": norm,
            "rate_factor": share,
            "tokens": progress.tokens,
            "epoch": round(self.loader.epoch_of(step), 4),
        }

    def _pass_over(self, step: int) -> dict[str, Any]:
        """A step that was found harmful: its rows are not learned, and the log says so."""
        self.progress.step += 1
        return {
            "step": self.progress.step,
            "passed_over": True,
            "tokens": self.progress.tokens,
            "epoch": round(self.loader.epoch_of(step), 4),
        }

    def _forward_backward(self, step: int, batches: list[Batch], targets: int) -> torch.Tensor:
        """Gradients of the mean over all targets of the step, however it is cut into batches."""
        total, passes = torch.zeros((), dtype=torch.float64, device=self.device), self.nudge.passes
        for number, around in enumerate(passes):
            for micro, batch in enumerate(batches, number * len(batches)):
                torch.manual_seed(mix_seed(self.settings.seed, "dropout", step, micro))
                with around():
                    loss = self.task.loss_sum(self.model, batch.to(self.device)) / max(1, targets)
                    (loss / len(passes)).backward()
                if not number:
                    total += loss.detach()
        return total

    def _may_update(self, step: int, loss: float, batches: list[Batch]) -> bool:
        """Apply the spike policy."""
        policy, watch = self.settings.on_spike, self.progress.spikes
        if policy == "off" or not watch.is_spike(loss, step):
            return True
        rows = "; ".join(name for batch in batches for name in batch.names[:2])
        say(f"step {step}: the loss jumped to {loss:.4f}; policy {policy}; rows: {rows}")
        if policy == "stop":
            raise NumericsError(
                "E602", f"step {step}", "the loss jumped", got=f"{loss:.4f} (rows: {rows})"
            )
        found = self.store.newest() if policy == "rewind" else None
        watch.leave_out(step, since=found.step if found is not None else None)
        if found is not None:
            self.optimizer.zero_gradients()
            raise _Rewind
        return False

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean loss a target over the validation batches, and scores; a better model is exported.

        The first score says which is better, or the loss where there is none.
        """
        began = time.perf_counter()
        with self._averaged():
            self.model.eval()
            sums = [self.task.loss_sum(self.model, batch.to(self.device)) for batch in self.valid]
            targets = sum(self.task.count(batch) for batch in self.valid)
            loss = sum(map(float, sums)) / max(1, targets)
            stop_on_nonfinite(self.progress.step, loss, 0.0, self.model, self.valid[:1])
            scores = self.judge(self.model) if self.judge is not None else {}
            self.model.train()
            score, best = next(iter(scores.values()), -loss), self.progress.best_score
            better = best is None or score > best
            if better and self._guard_storage(lambda: self.export("model")):
                self.progress.best_score, self.progress.best_loss = score, loss
                self.progress.best_step = self.progress.step
        self._validating = time.perf_counter() - began
        if self.report is not None:
            self.report(self.progress.step, score)
        return {"valid_loss": loss} | {f"valid_{name}": value for name, value in scores.items()}

    @contextlib.contextmanager
    def _averaged(self) -> Generator[None]:
        if self.average is None:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def save(self) -> None:
        """Write a checkpoint; a full disk is told, survived, and tried again later."""
        bad = first_bad(gather(self.model, self.optimizer, self.average).items())
        if bad is not None:
            name, index, value = bad
            raise NumericsError(
                "E601", f"step {self.progress.step}, {name}{index}", "not finite", got=value
            )
        self._guard_storage(self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        began = time.monotonic()
        self.metrics.sync()
        tensors = to_arrays(gather(self.model, self.optimizer, self.average))
        self.store.save(self.progress.step, tensors, self.progress.state())
        self._last_save = time.monotonic()
        self._saving = self._last_save - began
        self.storage_problem = None

    def _guard_storage(self, write: Callable[[], None]) -> bool:
        try:
            write()
        except StorageError as error:
            say(f"error[{error.code}] {error}; training goes on, the older state stands")
            self.storage_problem = error
            self._last_save = time.monotonic()
            return False
        return True

    def resume(self, allowed: tuple[str, ...] | None) -> None:
        """Load the newest good checkpoint, if there is one.

        Args:
            allowed: fields that may differ from the saved run; None when a run rewinds itself.
        """
        found = self.store.newest()
        if found is None:
            self.metrics.cut_after(0)
            return
        state = found.state()
        if allowed is not None:
            for line in check_same_run(state["fingerprint"], self.progress.fingerprint, allowed):
                say(f"note: {line}")
        load_tensors(found, gather(self.model, self.optimizer, self.average))
        self.progress.load(state)
        self.metrics.cut_after(self.progress.step)
        known = [row["loss"] for row in self.metrics.rows() if "loss" in row]
        self._loss = known[-1] if known else self._loss
        say(f"resuming at step {self.progress.step}")

    def _ask_the_clock(self) -> None:
        horizon, progress = self.progress.horizon, self.progress
        if horizon.seconds is None or len(self._step_seconds) < 6:
            return
        typical = mean_without_the_longest(self._step_seconds)
        validating = self._validating or typical * len(self.valid) / 2
        steps = min(horizon.at(progress.step), horizon.seconds / typical)
        pace = typical + validating / (self.settings.valid_every or steps / VALIDATIONS)
        planned = bool(horizon.decisions)
        reserve = validating + 2 * self._saving + typical
        horizon.decide(progress.step, progress.seconds, pace, reserve)
        if horizon.decisions and not planned:
            say(
                f"plan: {counted(horizon.at(progress.step), 'step')} in {duration(horizon.seconds)}"
            )

    def _validation_due(self) -> bool:
        step, horizon = self.progress.step, self.progress.horizon.at(self.progress.step)
        every = self.settings.valid_every
        before, now = (validations_by(each, horizon, every) for each in (step - 1, step))
        return bool(self.valid) and now > before

    def _save_due(self) -> bool:
        if self.settings.save_every is not None:
            return self.progress.step % self.settings.save_every == 0
        return time.monotonic() - self._last_save >= self.settings.save_minutes * 60

    def _log(self, row: dict[str, Any]) -> None:
        step, horizon = row["step"], self.progress.horizon.at(row["step"])
        steps = 1 / fmean(self._step_seconds) if self._step_seconds else 0.0  # a second
        speed, share = steps * self.work.tokens, steps * self.work.flops / self.peak.flops
        row |= {
            "seconds": round(self.progress.seconds, 3),
            "tokens_per_second": round(speed),
            "share_of_peak": round(share, 4),
        }
        with contextlib.suppress(StorageError):  # the row waits for a later one
            self.metrics.append(row)
        if self.board is not None:
            for name in ("loss", "valid_loss", "gradient_norm", "tokens_per_second"):
                if name in row:
                    self.board.add_scalar(name, row[name], step)
        known = horizon < 1_000_000_000
        validating = self._validating or len(self.valid) / max(steps, 1e-9) / 2
        every = self.settings.valid_every
        left = seconds_left(step, horizon, self._step_seconds, validating, every)
        best = self.progress.best_loss
        shown = (
            f"step {step:,}" + (f"/{horizon:,}" if known else ""),
            f"loss {self._loss:.4f}",
            f"valid {best:.4f}" if best is not None else "",
            f"{speed:,.0f} tok/s",
            f"{share:.0%} of peak" if share <= 1 else "",  # the machine was busy when it was taken
            f"{duration(left)} left" if known and steps else "",
        )
        self.line.show(" · ".join(part for part in shown if part), final=step == horizon)

    def _stop_for(self, number: int) -> None:
        self.save()
        if not self.valid or self.progress.best_step is None:
            with self._averaged():
                self._guard_storage(lambda: self.export("model"))
        name = signal.Signals(number).name
        if self.storage_problem is not None:
            raise self.storage_problem
        raise Interrupted(
            "E701", f"step {self.progress.step}", f"{name} came, the state is saved", do="--resume"
        )

    def _finish(self) -> Outcome:
        self.save()
        with self._averaged():
            if self.progress.best_step is None:
                self._guard_storage(lambda: self.export("model"))
            self._guard_storage(lambda: self.export("last"))
        if self.storage_problem is not None:
            raise self.storage_problem
        progress = self.progress
        progress.seconds = time.monotonic() - self._clock
        return Outcome(
            steps=progress.step,
            tokens=progress.tokens,
            seconds=progress.seconds,
            loss=self._loss,
            best_loss=progress.best_loss,
            best_score=progress.best_score,
            tokens_per_second=progress.tokens / max(progress.seconds, 1e-9),
            peak_memory_bytes=self.memory.peak_bytes() + self._held,
        )
