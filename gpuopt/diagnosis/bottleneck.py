"""What limits the speed of a training, and what it would gain without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuopt.diagnosis.remedies import RunSetting, compute_remedy, remedy
from gpuopt.measure import Interval
from gpuopt.measure.device_work import DeviceWork
from gpuopt.measure.step_parts import MeasuredSteps

__all__ = ["KINDS", "Bottleneck", "BottleneckDiagnosis", "find_bottlenecks"]

KINDS = {
    "data": "the loader: steps wait for their batches",
    "copy": "the copy of batches to the device",
    "preparation": "the preparation of batches on the device",
    "synchronisation": "the host, which waits for the device in each step",
    "host": "work of the host in each step: callbacks, hooks and loggers",
    "optimizer": "the optimizer, which is not fused",
    "batch": "the small batch: most of a step does not depend on its samples",
}
"""Kinds of bottleneck, in words."""

_LEAST_GAIN = 0.05
_LARGEST_REST = 0.05
# A larger batch gains a little almost everywhere: no finding yet.
_LEAST_GAIN_BATCH = 0.2
# Of Lightning's loop without callbacks, per batch: nobody can remove it.
_LOOP_MS = 1.0
# Waits per step that are no accident of the trace.
_LEAST_WAITS = 0.5


@dataclass(frozen=True)
class Bottleneck:
    """Something that training would be faster without.

    Attributes:
        kind: Of `KINDS`.
        gain: More samples per second without it, as a share; of `batch` with twice the samples.
        evidence: One clause with the figures behind it.
        remedy: What to do about it.
        overrides: Settings of `gpuopt train` to try; empty where no setting does it.
    """

    kind: str
    gain: Interval
    evidence: str
    remedy: str
    overrides: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "kind": self.kind,
            "words": KINDS[self.kind],
            "gain": self.gain.as_dict(),
            "evidence": self.evidence,
            "remedy": self.remedy,
            "overrides": list(self.overrides),
        }


@dataclass(frozen=True)
class BottleneckDiagnosis:
    """What was measured, and what follows.

    Attributes:
        measured: The steps.
        found: Largest gain first; empty where computing itself is the limit.
        remedy: What may make computing itself faster, which was not measured.
        overrides: Settings to try for that.
        unclear: Gains by kind that are large enough to count, and may as well be none.
    """

    measured: MeasuredSteps
    found: Sequence[Bottleneck]
    remedy: str
    overrides: tuple[str, ...]
    unclear: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def disturbance(self) -> str | None:
        """Say that the machine was too busy for this, where it was."""
        ratio = self.measured.parts.closure_ratio()
        if abs(ratio - 1.0) <= _LARGEST_REST:
            return None
        return (
            f"the parts add up to {ratio:.0%} of the step: something else disturbed the machine; "
            "stop it, or take more rounds"
        )

    @property
    def verdict(self) -> str:
        """Say in one sentence what limits training and what removing that would bring."""
        if not self.found and self.unclear:
            kind, unsure = max(self.unclear.items(), key=lambda item: item[1].value)
            return (
                f"Nothing sure can be said. Perhaps it is {KINDS[kind]}; {_condition(kind)}: "
                f"{unsure.low:+.0%} to {unsure.high:+.0%} samples/s. Stop what else this machine "
                "does, or take more rounds."
            )
        if not self.found:
            parts = self.measured.parts.parts_ms()
            step_ms = self.measured.parts.step_ms.value
            forward, backward = (parts[n].value / step_ms for n in ("forward", "backward"))
            return (
                f"Computing itself is the limit: forward pass {forward:.0%}, backward pass "
                f"{backward:.0%} of the step."
            )
        first = self.found[0]
        gain = f"{first.gain.value:+.0%} ({first.gain.low:+.0%} to {first.gain.high:+.0%})"
        condition = _condition(first.kind)
        return f"Training is limited by {KINDS[first.kind]}; {condition}: {gain} samples/s."

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        measured = self.measured
        return {
            "verdict": self.verdict,
            "disturbance": self.disturbance,
            "bottlenecks": [one.as_dict() for one in self.found],
            "unclear": {kind: gain.as_dict() for kind, gain in self.unclear.items()},
            "compute": {"remedy": self.remedy, "overrides": list(self.overrides)},
            "steps": measured.parts.as_dict(),
            "micro_batch_size": measured.micro_batch_size,
            "loader_ms": list(measured.loads_ms),
            "device": None if measured.work is None else _work_dict(measured.work),
        }


def find_bottlenecks(
    measured: MeasuredSteps, setting: RunSetting | None = None
) -> BottleneckDiagnosis:
    """Find what limits a training.

    Args:
        measured: Its steps, of `gpuopt.callbacks.BottleneckProbe`.
        setting: How it was set, which decides what to try; None for somebody's own Trainer.
    """
    setting = setting or RunSetting()
    gains = {
        "data": _gain_of_part(measured, "in_memory"),
        "copy": _gain_of_part(measured, "on_device"),
        "preparation": _gain_of_part(measured, "prepared"),
        "synchronisation": _gain_of_synchronisation(measured),
        "host": _gain_of_host(measured),
        "optimizer": _gain_of_optimizer(measured),
        "batch": _gain_of_batch(measured),
    }
    found, unclear = [], {}
    for kind, gain in gains.items():
        least = _LEAST_GAIN_BATCH if kind == "batch" else _LEAST_GAIN
        if gain is None or gain.value < least:
            continue
        if gain.low > 0:
            text, overrides = remedy(kind, measured, setting)
            found.append(Bottleneck(kind, gain, _evidence(kind, measured), text, overrides))
        else:
            unclear[kind] = gain
    found.sort(key=lambda one: -one.gain.value)
    return BottleneckDiagnosis(measured, found, *compute_remedy(setting), unclear=unclear)


def _gain_of_part(measured: MeasuredSteps, without: str) -> Interval | None:
    rungs = measured.parts.rungs()
    if without not in rungs:
        return None
    return measured.parts.gain_of({rungs[rungs.index(without) - 1]: 1.0, without: -1.0})


def _gain_of_synchronisation(measured: MeasuredSteps) -> Interval | None:
    work = measured.work
    if work is None or work.waits < _LEAST_WAITS:
        return None
    kept_ms = _step_ms(measured, "prepared") - _waited_for_nothing_ms(measured, "prepared")
    return measured.parts.gain_of({"prepared": 1.0}, less_ms=kept_ms)


def _gain_of_host(measured: MeasuredSteps) -> Interval | None:
    less_ms, most_ms = _LOOP_MS * measured.batches_per_step, None
    if measured.work is not None:
        # What the host does while the device is at work costs nothing.
        most_ms = max(0.0, _step_ms(measured, "prepared") - measured.work.busy_ms)
        waited_ms = [_waited_for_nothing_ms(measured, rung) for rung in ("prepared", "quiet")]
        less_ms += max(0.0, waited_ms[0] - waited_ms[1])
    weights = {"prepared": 1.0, "quiet": -1.0, "empty": 1.0}
    return measured.parts.gain_of(weights, less_ms=less_ms, most_ms=most_ms)


def _step_ms(measured: MeasuredSteps, rung: str) -> float:
    return measured.parts.combined({rung: 1.0}).value


def _waited_for_nothing_ms(measured: MeasuredSteps, rung: str) -> float:
    """Return by how much a step would be shorter if the host never waited for the device.

    It would then take what the device is busy, or what the host does, whichever is longer.
    """
    work = measured.work if rung == "prepared" else measured.quiet_work
    if work is None or work.waits < _LEAST_WAITS:
        return 0.0
    step_ms = _step_ms(measured, rung)
    return max(0.0, step_ms - max(work.busy_ms, step_ms - work.blocked_ms))


def _gain_of_optimizer(measured: MeasuredSteps) -> Interval | None:
    if "fused_optimizer" not in measured.parts.rounds_ms:
        return None
    # Alone it may take longer than in a step, whose queue hides what the host does.
    most_ms = measured.parts.parts_ms()["optimizer"].value
    return measured.parts.gain_of({"optimizer": 1.0, "fused_optimizer": -1.0}, most_ms=most_ms)


def _gain_of_batch(measured: MeasuredSteps) -> Interval | None:
    """Of forward and backward pass find what does not depend on the samples; twice halves it."""
    ratio = measured.sized_ratio
    weights = {
        "sized": 0.5 / (1 - ratio),
        "no_optimizer": -0.5 * ratio / (1 - ratio),
        "empty": -0.5,
    }
    less_ms = 0.5 * _waited_for_nothing_ms(measured, "quiet")
    return measured.parts.gain_of(weights, less_ms=less_ms)


def _condition(kind: str) -> str:
    return "with twice the batch" if kind == "batch" else "without it"


def _evidence(kind: str, measured: MeasuredSteps) -> str:
    parts, all_ms = measured.parts, measured.parts.parts_ms()
    step = f"of a step of {parts.step_ms.value:.1f} ms"
    if kind == "batch":
        samples = round(measured.micro_batch_size * measured.sized_ratio)
        sized_ms = parts.combined({"sized": 1.0}).value
        whole_ms = parts.combined({"no_optimizer": 1.0}).value
        return (
            f"forward and backward of {samples} samples take {sized_ms:.1f} ms, "
            f"of {measured.micro_batch_size} {whole_ms:.1f} ms"
        )
    if kind == "optimizer":
        now_ms, fused_ms = (
            parts.combined({name: 1.0}).value for name in ("optimizer", "fused_optimizer")
        )
        return f"alone it takes {now_ms:.1f} ms, fused {fused_ms:.1f} ms, {step}"
    if kind == "synchronisation" and measured.work is not None:
        return _waits_in_words(measured.work, step)
    if kind == "host":
        host_ms = all_ms["callbacks"].value + all_ms["loop"].value
        return f"{host_ms:.1f} ms {step}"
    name = {"data": "data wait", "copy": "copy to the device", "preparation": "batch preparation"}
    return f"{all_ms[name[kind]].value:.1f} ms {step}"


def _waits_in_words(work: DeviceWork, step: str) -> str:
    lines = ", ".join(work.places) or "torch.cuda.synchronize()"
    return f"{work.waits:.0f} waits, {work.blocked_ms:.1f} ms {step}, at {lines}"


def _work_dict(work: DeviceWork) -> dict[str, Any]:
    return {
        "busy_ms": work.busy_ms,
        "blocked_ms": work.blocked_ms,
        "waits": work.waits,
        "places": dict(work.places),
    }
