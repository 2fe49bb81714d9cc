"""A host that queues kernels and a device that works them off, with clocks of their own."""

import random
from dataclasses import dataclass, replace

from gpuopt.measure.device_work import DeviceWork
from gpuopt.measure.step_parts import LADDER, MeasuredSteps, StepParts

PLANTS = ("data", "synchronisation", "optimizer", "batch", "host")
_LAUNCH_S = 8e-6
_STEPS = 6


@dataclass(frozen=True)
class Training:
    """What a step does; seconds are of host or device as named."""

    is_cuda: bool = True
    samples: int = 64
    kernels: int = 120
    kernel_s_per_sample: float = 2.5e-6
    kernel_floor_s: float = 4e-6
    load_s: float = 1e-4
    copy_s: float = 3e-4
    loop_s: float = 4e-4
    callback_s: float = 1e-4
    waits_in_step: bool = False
    waits_in_callback: bool = False
    in_step_s: float = 0.0
    in_callback_s: float = 0.0
    optimizer_kernels: int = 4
    fused_kernels: int = 4
    optimizer_kernel_s: float = 2e-5


class _Clocks:
    def __init__(self, is_cuda):
        self.host = self.device = self.busy = self.blocked = 0.0
        self.waits = 0
        self._is_cuda = is_cuda

    def work(self, kernels, each_s):
        for _ in range(kernels):
            self.host += _LAUNCH_S
            if self._is_cuda:
                self.device = max(self.device, self.host) + each_s
                self.busy += each_s
            else:
                self.host += each_s

    def wait(self):
        if self._is_cuda:
            self.waits += 1
            self.blocked += max(0.0, self.device - self.host)
            self.host = max(self.host, self.device)

    def now(self):
        self.host = max(self.host, self.device)
        return self.host


def _step(clocks, training, rung):
    left = LADDER.index("no_optimizer" if rung == "sized" else rung)
    samples = training.samples // 2 if rung == "sized" else training.samples
    each_s = max(training.kernel_floor_s, training.kernel_s_per_sample * samples)

    def has(name):
        return left < LADDER.index(name)

    if has("in_memory"):
        clocks.host += training.load_s
    if has("on_device") and training.is_cuda:
        clocks.work(1, training.copy_s)
    if has("prepared"):
        clocks.work(3, each_s / 10)
    clocks.host += training.loop_s
    if has("empty"):
        clocks.work(training.kernels, each_s)
        if training.waits_in_step:
            clocks.wait()
        clocks.host += training.in_step_s
    if has("no_backward"):
        clocks.work(2 * training.kernels, each_s)
    if has("no_optimizer"):
        clocks.work(training.optimizer_kernels, training.optimizer_kernel_s)
    if has("quiet"):
        if training.waits_in_callback:
            clocks.wait()
        clocks.host += training.in_callback_s + training.callback_s


def _run(training, rung):
    clocks = _Clocks(training.is_cuda)
    began = clocks.now()
    for _ in range(_STEPS):
        _step(clocks, training, rung)
    return (clocks.now() - began) / _STEPS, clocks


def step_s(training):
    return _run(training, "real")[0]


def _work(training, rung):
    _, clocks = _run(training, rung)
    values = (clocks.busy, clocks.blocked)
    busy_ms, blocked_ms = (1000 * value / _STEPS for value in values)
    return DeviceWork(busy_ms, blocked_ms, clocks.waits / _STEPS)


def measure(training, seed=0, rounds=8, noise=0.01):
    """What `BottleneckProbe` would measure, with noise."""
    dice = random.Random(seed)

    def several(seconds):
        return [1000 * seconds * (1 + abs(dice.gauss(0, noise))) for _ in range(rounds)]

    rungs = [rung for rung in LADDER if training.is_cuda or rung != "on_device"]
    times = {rung: several(_run(training, rung)[0]) for rung in (*rungs, "sized")}
    if training.optimizer_kernels > training.fused_kernels:
        each_s = max(_LAUNCH_S, training.optimizer_kernel_s)
        times["optimizer"] = several(training.optimizer_kernels * each_s)
        times["fused_optimizer"] = several(training.fused_kernels * each_s)
    works = {"work": _work(training, "prepared"), "quiet_work": _work(training, "quiet")}
    return MeasuredSteps(
        StepParts(times, training.samples),
        micro_batch_size=training.samples,
        sized_ratio=0.5,
        loads_ms=several(training.load_s),
        **(works if training.is_cuda else {}),
    )


def without(training, plant):
    """The same training without one plant; of a small batch, what twice the samples take each."""
    healthy = Training(is_cuda=training.is_cuda)
    if plant == "data":
        return replace(training, load_s=healthy.load_s)
    if plant == "synchronisation":
        return replace(training, waits_in_step=False, waits_in_callback=False)
    if plant == "optimizer":
        return replace(training, optimizer_kernels=training.fused_kernels)
    if plant == "host":
        return replace(training, callback_s=healthy.callback_s)
    # What does not belong to the batch is not to profit from it.
    doubled = ("samples", "load_s", "callback_s", "in_step_s", "in_callback_s", "loop_s")
    doubled += ("optimizer_kernels",)
    return replace(training, **{name: 2 * getattr(training, name) for name in doubled})


def gain_without(training, plant):
    """How many more samples per second there really are without a plant."""
    other = without(training, plant)
    return (step_s(training) / training.samples) / (step_s(other) / other.samples) - 1


def planted(plants, seed, *, is_cuda=True):
    """A training with plants of random severity."""
    dice = random.Random(seed)
    training = Training(is_cuda=is_cuda)
    if "batch" in plants:
        training = replace(training, samples=dice.choice((1, 2)) * 2, kernel_s_per_sample=1e-7)
    size = step_s(training)
    if "data" in plants:
        training = replace(training, load_s=size * dice.uniform(1.2, 4.0))
    if "synchronisation" in plants:
        place, seconds = dice.choice(("step", "callback")), size * dice.uniform(0.2, 0.8)
        values = {f"waits_in_{place}": True, f"in_{place}_s": seconds}
        training = replace(training, **values)
    if "optimizer" in plants:
        kernels = max(40, int(size * dice.uniform(0.3, 1.2) / training.optimizer_kernel_s))
        training = replace(training, optimizer_kernels=kernels)
    if "host" in plants:
        training = replace(training, callback_s=size * dice.uniform(1.3, 3.0) + 2e-3)
    return training
