"""Time a Trainer's steps with more and more left out, to see what limits training."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import _TunerExitException

from gpuopt.callbacks.device_trace import DeviceTrace
from gpuopt.callbacks.trial_steps import TrialSteps, no_steps_because, without_recoveries
from gpuopt.errors import InputError
from gpuopt.measure.device_work import DeviceWork
from gpuopt.measure.pairs import abba_orders
from gpuopt.measure.step_parts import LADDER, MeasuredSteps, StepParts
from gpuopt.steps.batch_parts import picked, sample_count
from gpuopt.steps.batch_source import BatchSource
from gpuopt.steps.fit_state import FitState
from gpuopt.steps.fused_twin import fused_twin
from gpuopt.steps.shortened_step import OMITTED, ShortenedStep
from gpuopt.steps.trainer_parts import callbacks_of

__all__ = ["BottleneckProbe"]

_FEW = 4  # samples of which no half is taken
_MOST_STEPS = 100
_MOST_ATTEMPTS = 3
_TRACED_STEPS = 3
_PREFETCHED = 2  # batches that each loader process keeps ready by default


class BottleneckProbe(L.Callback):
    """Takes a fit over at its first batch, measures its steps in turns, and ends it.

    The Trainer's own loop takes the steps: whole ones, then with the batch from memory, on the
    device, without callbacks, optimizer, backward and forward pass. Rungs take turns in short
    blocks, so that a machine that drifts does so for all. The module is put back as it was. For
    Trainers with one device; checkpoints are not written meanwhile.

    Args:
        rounds: How often each rung is timed.
        block_s: About how long a block of steps lasts, in seconds.
        clock: Monotonic time in seconds.
        on_round: Called after each round with the rounds done.

    Attributes:
        measured: What was measured; None before.

    Raises:
        InputError: For fewer than 3 rounds.
    """

    def __init__(
        self,
        rounds: int = 8,
        block_s: float = 0.3,
        *,
        clock: Callable[[], float] = time.perf_counter,
        on_round: Callable[[int], None] | None = None,
    ) -> None:
        if rounds < 3:
            raise InputError(f"BottleneckProbe: rounds={rounds} tell no interval: give at least 3")
        self.measured: MeasuredSteps | None = None
        self._rounds = rounds
        self._block_s = block_s
        self._clock = clock
        self._on_round = on_round
        self._course: Iterator[None] | None = None
        self._undo = contextlib.ExitStack()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what cannot be measured.

        Raises:
            InputError: With the reason.
        """
        reason = no_steps_because(trainer, pl_module)
        if trainer.world_size > 1:
            reason = "several devices train together: give the Trainer one"
        if reason is not None:
            raise InputError(f"BottleneckProbe cannot measure here: {reason}")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on with the measurement before the first batch of each optimizer step."""
        if batch_idx % trainer.accumulate_grad_batches:
            return
        if self._course is None:
            self._course = _Course(self, trainer, pl_module, self._undo).run()
        if next(self._course, self) is self:
            self._end()
            raise _TunerExitException  # Lightning's own way to end a fit that was a search

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Put everything back when the fit fails."""
        self._end()

    def _end(self) -> None:
        self._course = None
        self._undo.close()


class _Course:
    """Leads through the measurement; each `yield` lets the Trainer take one optimizer step."""

    def __init__(
        self,
        probe: BottleneckProbe,
        trainer: L.Trainer,
        module: L.LightningModule,
        undo: contextlib.ExitStack,
    ) -> None:
        self._probe = probe
        self._trainer: Any = trainer
        self._module = module
        self._device = module.device
        state = FitState(trainer, module)
        undo.callback(state.restore)
        before = callbacks_of(trainer)
        undo.callback(self._set_callbacks, before)
        self._set_callbacks([c for c in before if not isinstance(c, Checkpoint)])
        self._source = BatchSource(trainer)
        undo.callback(self._source.give_back)
        self._step = ShortenedStep(trainer, module, probe, lambda: without_recoveries(trainer))
        undo.callback(self._step.restore)
        self._taker = TrialSteps(trainer, module)
        self._batches: dict[str, Any] = {}
        self._micro_batch_size = 0
        self._optimizers: dict[str, Any] = {}
        self._workers = _worker_count(trainer)
        self._samples = 0  # of real steps that were timed, and their number
        self._steps = 0

    def run(self) -> Iterator[None]:
        """Measure everything."""
        yield from self._begin()
        steps = 1
        self._set("in_memory")
        yield
        one_s = 0.0
        for _ in range(2):
            began_s = self._now()
            yield
            one_s = self._now() - began_s
        steps = max(1, min(_MOST_STEPS, round(self._probe._block_s / max(one_s, 1e-6))))
        rungs = [*self._batches_by_rung(), *self._optimizers, "loader"]
        seconds: dict[str, list[float]] = {rung: [] for rung in rungs}
        for done, order in enumerate(abba_orders(rungs, self._probe._rounds), 1):
            for rung in order:
                if rung == "loader":
                    seconds[rung].append(self._time_loader(steps))
                elif rung in self._optimizers:
                    seconds[rung].append((yield from self._time_optimizer(rung, steps)))
                else:
                    seconds[rung].append((yield from self._time(rung, steps)))
            if self._probe._on_round is not None:
                self._probe._on_round(done)
        works: list[DeviceWork | None] = [None, None]
        if self._device.type == "cuda":
            works = [(yield from self._trace("prepared")), (yield from self._trace("quiet"))]
        self._probe.measured = self._conclude(seconds, *works)

    # --- what the rungs train with -----------------------------------------------------------

    def _begin(self) -> Iterator[None]:
        """Take a batch and make its other forms; the first steps choose kernels."""
        # The larger of two: an epoch's last batch, and a window's, may be small.
        host = max(self._source.load(), self._source.load(), key=sample_count)
        self._step.leave_out(())
        yield
        yield
        count = sample_count(host)
        self._micro_batch_size = count
        ready = self._taker.on_device(host)
        smaller = count // 2 if count >= _FEW else 2 * count
        self._batches = {
            "in_memory": host,
            "on_device": move_data_to_device(host, self._device),
            "prepared": ready,
            "sized": picked(ready, [row % count for row in range(smaller)], count),
        }
        if self._device.type == "cpu":
            del self._batches["on_device"]  # there is nothing to copy
        optimizers = self._trainer.optimizers
        twin = fused_twin(optimizers[0]) if len(optimizers) == 1 else None
        if twin is not None:
            self._optimizers = {"optimizer": optimizers[0], "fused_optimizer": twin}

    def _batches_by_rung(self) -> list[str]:
        """List the rungs that can be told apart here, and the step with another batch size."""
        rungs = [rung for rung in LADDER if rung != "on_device" or rung in self._batches]
        return [*rungs, "sized"]

    def _set(self, rung: str) -> None:
        without = OMITTED["no_optimizer" if rung == "sized" else rung]
        forms = self._batches
        self._source.held = None if rung == "real" else forms.get(rung, forms["prepared"])
        self._step.leave_out(without)

    def _set_callbacks(self, callbacks: list[L.Callback]) -> None:
        self._trainer.callbacks = callbacks

    # --- timing ------------------------------------------------------------------------------

    def _time(self, rung: str, steps: int) -> Generator[None, None, float]:
        """Time a block; returns the seconds of a step, or of a sample where batches differ."""
        self._set(rung)
        if rung != "real":
            yield  # this step's batch was taken for the rung before
            began_s = self._now()
            for _ in range(steps):
                yield
            return (self._now() - began_s) / steps
        # What loader processes have prepared meanwhile would hide how fast they are.
        per_step = self._trainer.accumulate_grad_batches
        steps = max(steps, -(-self._workers // per_step))
        for _ in range(1 + -(-_PREFETCHED * self._workers // per_step)):
            yield
        for _ in range(_MOST_ATTEMPTS):
            begun_anew = self._source.begun_anew
            samples = self._source.samples
            began_s = self._now()
            for _ in range(steps):
                yield
            duration_s = self._now() - began_s
            if begun_anew == self._source.begun_anew:
                break
        samples = self._source.samples - samples
        self._samples, self._steps = self._samples + samples, self._steps + steps
        return duration_s / samples

    def _time_loader(self, steps: int) -> float:
        """Time the loader alone; returns seconds per sample."""
        steps = max(steps, self._workers)
        for _ in range(1 + _PREFETCHED * self._workers):
            self._source.load()
        began_s, samples = self._now(), self._source.samples
        for _ in range(steps * self._trainer.accumulate_grad_batches):
            self._source.load()
        return (self._now() - began_s) / (self._source.samples - samples)

    def _time_optimizer(self, name: str, steps: int) -> Generator[None, None, float]:
        self._set("prepared")
        yield  # gradients
        optimizer = self._optimizers[name]
        optimizer.step()
        began_s = self._now()
        for _ in range(steps):
            optimizer.step()
        return (self._now() - began_s) / steps

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._probe._clock()

    def _conclude(
        self, seconds: dict[str, list[float]], work: DeviceWork | None, quiet: DeviceWork | None
    ) -> MeasuredSteps:
        """Turn all times into milliseconds of a step with as many samples as real ones have."""
        samples_per_step = self._samples / self._steps
        held = self._micro_batch_size * self._trainer.accumulate_grad_batches
        rounds_ms = {}
        for rung, values in seconds.items():
            factor = samples_per_step / held
            if rung in ("real", "loader"):
                factor = samples_per_step
            elif rung in self._optimizers:
                factor = 1.0
            rounds_ms[rung] = [1000 * factor * value for value in values]
        loads_ms = rounds_ms.pop("loader")
        return MeasuredSteps(
            StepParts(rounds_ms, samples_per_step),
            micro_batch_size=self._micro_batch_size,
            sized_ratio=sample_count(self._batches["sized"]) / self._micro_batch_size,
            loads_ms=loads_ms,
            num_workers=self._workers,
            work=work,
            quiet_work=quiet,
        )

    def _trace(self, rung: str) -> Generator[None, None, DeviceWork]:
        self._set(rung)
        yield
        trace = DeviceTrace(self._device)
        with trace.noting_places():
            yield
        with trace.recording():
            for _ in range(_TRACED_STEPS):
                yield
        return trace.work(_TRACED_STEPS)


def _worker_count(trainer: Any) -> int:
    """Count the processes of the loader."""
    loader: Any = trainer.train_dataloader
    inner = getattr(loader, "_loader", loader)
    return int(getattr(inner, "num_workers", 0) or 0)
