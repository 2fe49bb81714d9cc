"""How fast this machine is, against its card's limits: `gpuopt check report=benchmark`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Group, RenderableType

from gpuopt.checks.lines import NOT_AVAILABLE, facts_table, pitfall_table
from gpuopt.checks.pitfall import Pitfall, find_pitfalls, pageable_loading
from gpuopt.checks.planned_speed import PlannedSpeed, plan_speed
from gpuopt.checks.request import CheckRequest
from gpuopt.checks.subject import Subject, present_subjects
from gpuopt.hardware import Gpu, refuse_unsupported
from gpuopt.measure import Interval
from gpuopt.measure.device_rates import DeviceRates, measure_device_rates
from gpuopt.measure.roofline import gpu_rates
from gpuopt.memory import LARGEST_PREDICTION
from gpuopt.session.device import faults_in_words, torch_settings
from gpuopt.session.model_trial import ModelTrial, try_model

__all__ = ["BenchmarkReport", "DeviceBenchmark", "report"]

# On a CPU a batch is cut so that a step takes about so long.
_CPU_STEP_S = 1.0
# Of one lane by generation, 1e9 bytes a second, after the link's own coding.
_LANE_GB_PER_S = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
_TF32_FROM = 8


@dataclass(frozen=True)
class DeviceBenchmark:
    """What was measured on one device.

    Attributes:
        subject: The device.
        rates: Of pieces of work.
        limits: Of the card, by the same names as `rows`; None where they are unknown.
        planned: What was predicted of the model.
        trial: The model.
        pitfalls: What the measurements showed.
    """

    subject: Subject
    rates: DeviceRates
    limits: dict[str, float | None]
    planned: PlannedSpeed
    trial: ModelTrial
    pitfalls: Sequence[Pitfall]

    @property
    def measured(self) -> dict[str, float]:
        """Rates by their names: TFLOP/s, then GB/s."""
        rates = self.rates
        found = {f"matrix {name}": rate for name, rate in rates.matmul_tflops.items()}
        found |= {f"convolution {name}": rate for name, rate in rates.convolution_tflops.items()}
        found["memory"] = rates.memory_gb_per_s
        if rates.pinned_gb_per_s is not None:
            found["host to device, pinned"] = rates.pinned_gb_per_s
        if rates.pageable_gb_per_s is not None:
            found["host to device, pageable"] = rates.pageable_gb_per_s
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "gpu": self.subject.preset,
            "evidence": "measured",
            "rates": self.rates.as_dict(),
            "limits": self.limits,
            "share_of_limit": {
                name: rate / limit
                for name, rate in self.measured.items()
                if (limit := self.limits.get(name))
            },
            "predicted": self.planned.as_dict(),
            "model": self.trial.as_dict(),
            "pitfalls": [pitfall.as_dict() for pitfall in self.pitfalls],
        }


@dataclass(frozen=True)
class BenchmarkReport:
    """The answer.

    Attributes:
        devices: In CUDA's order.
    """

    devices: Sequence[DeviceBenchmark]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"devices": [device.as_dict() for device in self.devices]}

    def __rich__(self) -> RenderableType:
        """Lay the answer out for a terminal."""
        parts: list[RenderableType] = []
        for device in self.devices:
            name = device.subject.gpu.name
            title = f"{'The processors' if name == 'cpu' else name}, measured"
            headings = ("", "measured", "limit of the card", "share")
            parts.append(facts_table(title, _rate_rows(device), headings))
            parts.append(facts_table("Half precision", _check_rows(device), ("", "against fp32")))
            headings = ("", "batch", "measured", "predicted")
            parts.append(facts_table(_model_title(device.planned), _model_rows(device), headings))
            parts.append(pitfall_table(device.pitfalls))
        return Group(*parts)


def report(request: CheckRequest) -> BenchmarkReport:
    """Measure the devices of this machine.

    Raises:
        InputError: For a card that is not here, or one that this PyTorch cannot drive.
        FaultError: When not one sample of the model fits.
    """
    found = present_subjects(request)
    return BenchmarkReport([_measure(request, subject) for subject in request.track(found)])


def _measure(request: CheckRequest, subject: Subject) -> DeviceBenchmark:
    gpu, card = subject.gpu, subject.card
    device = torch.device("cpu")
    if card is not None:
        refuse_unsupported(gpu.name, card.capability)
        device = torch.device("cuda", card.device.index)
    planned = plan_speed(
        gpu,
        request.model,
        request.asked_size,
        precision=request.precision,
        optimizer=request.optimizer,
        moving_average=request.moving_average,
        cache_dir=request.cache_dir,
    )
    settings = torch_settings(
        precision=planned.precision,
        memory_limit_mib=gpu.memory_limit_mib,
        deterministic=False,
        accelerator=device.type,
        device_index=device.index or 0,
    )
    remedy = "end what else runs on it, or raise gpu.memory_limit_mib"
    with settings, faults_in_words(card=gpu.name, setting="report=benchmark", remedy=remedy):
        rates = measure_device_rates(device, _precisions(gpu))
        train, predict = _batches(subject, planned)
        trial = try_model(
            planned.model_name,
            planned.image_size,
            precision=planned.precision,
            device=device,
            train_batch_size=train,
            predict_batch_size=predict,
            checkpointing=planned.checkpointing,
        )
    pitfalls = find_pitfalls(subject, request.look(), request.look_at_build())
    if rates.pinned_gb_per_s is not None and rates.pageable_gb_per_s is not None:
        slow = pageable_loading(rates.pinned_gb_per_s, rates.pageable_gb_per_s)
        pitfalls += [] if slow is None else [slow]
    return DeviceBenchmark(subject, rates, _limits(subject), planned, trial, pitfalls)


def _precisions(gpu: Gpu) -> list[str]:
    if gpu.is_cpu:
        return ["fp32", "bf16"]  # fp16 has no arithmetic there, and takes minutes
    major = int((gpu.compute_capability or "0").partition(".")[0])
    return ["fp32", "tf32", "bf16", "fp16"] if major >= _TF32_FROM else ["fp32", "fp16"]


def _batches(subject: Subject, planned: PlannedSpeed) -> tuple[int, int]:
    """Return the batches of training and of prediction."""
    if not subject.gpu.is_cpu:
        return max(1, planned.micro_batch_size), min(
            LARGEST_PREDICTION, 4 * max(1, planned.micro_batch_size)
        )
    rates = (planned.train_per_s, planned.predict_per_s)
    sizes = [
        planned.micro_batch_size if rate is None else round(rate.value * _CPU_STEP_S)
        for rate in rates
    ]
    train, predict = (max(1, min(planned.micro_batch_size, size)) for size in sizes)
    return train, predict


def _limits(subject: Subject) -> dict[str, float | None]:
    gpu = subject.gpu
    limits: dict[str, float | None] = {"memory": gpu.memory_bandwidth_gb_per_s}
    for precision in ("fp32", "tf32", "bf16", "fp16"):
        rates = None if gpu.is_cpu else gpu_rates(gpu, precision)
        for work in ("matrix", "convolution"):
            limits[f"{work} {precision}"] = None if rates is None else rates.flops_per_s / 1e12
    facts = None if subject.card is None else subject.card.facts
    link = None
    if facts is not None and facts.pcie_generation and facts.pcie_width:
        lane = _LANE_GB_PER_S.get(facts.pcie_generation)
        link = None if lane is None else lane * facts.pcie_width
    limits["host to device, pinned"] = limits["host to device, pageable"] = link
    return limits


def _rate_rows(device: DeviceBenchmark) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, rate in device.measured.items():
        limit = device.limits.get(name)
        unit = "TFLOP/s" if name.startswith(("matrix", "convolution")) else "GB/s"
        shown = NOT_AVAILABLE if limit is None else f"{limit:.4g} {unit}"
        share = "" if limit is None else f"{rate / limit:.0%}"
        rows.append((name, f"{rate:.3g} {unit}", shown, share))
    return rows


def _check_rows(device: DeviceBenchmark) -> list[tuple[str, str]]:
    return [
        (
            name,
            f"finite, {check.difference_ratio:.1e} from it"
            if check.is_finite
            else "not finite: give precision=fp32",
        )
        for name, check in device.rates.checks.items()
    ]


def _model_title(planned: PlannedSpeed) -> str:
    return f"{planned.model_name} at {planned.image_size} px in {planned.precision}, samples/s"


def _model_rows(device: DeviceBenchmark) -> list[tuple[str, str, str, str]]:
    trial, planned = device.trial, device.planned
    return [
        (name, str(batch), f"{measured:.4g}", _range(predicted))
        for name, batch, measured, predicted in (
            ("training", trial.train_batch_size, trial.train_per_s, planned.train_per_s),
            ("prediction", trial.predict_batch_size, trial.predict_per_s, planned.predict_per_s),
        )
    ]


def _range(rate: Interval | None) -> str:
    if rate is None:
        return NOT_AVAILABLE
    return f"{rate.value:.4g} ({rate.low:.3g} to {rate.high:.3g})"
