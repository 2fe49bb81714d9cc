"""What to try against a bottleneck: in words, and as settings of `gpuopt train`."""

import math
import statistics
from dataclasses import dataclass

from gpuopt.measure.step_parts import MeasuredSteps

__all__ = ["RunSetting", "compute_remedy", "remedy"]

_SPARE = 1.2  # loaders are not steady: so much more than the step asks for


@dataclass(frozen=True)
class RunSetting:
    """How a training was set, where gpuopt set it. None: it did not, and there is no such key.

    Attributes:
        num_workers: Processes of the loader.
        cpus: Processors that this process may use.
        cache: `data.cache`; None where the data has none.
        is_decoded: Whether samples lie decoded in memory.
        pin_memory: Whether batches are copied from page-locked memory.
        micro_batch_size: Samples per device and forward pass.
        global_batch_size: Samples per optimizer step.
        precision: Of the plan.
        is_cuda: Whether a CUDA device trains.
        compile_mode: `compile.mode`.
        checkpointing: Level of recomputation.
        offload: Whether the optimizer's state lies in host memory.
        clips: Whether gradients are clipped.
        logger: `logger.name`.
    """

    num_workers: int | None = None
    cpus: int | None = None
    cache: str | None = None
    is_decoded: bool = False
    pin_memory: bool | None = None
    micro_batch_size: int | None = None
    global_batch_size: int | None = None
    precision: str | None = None
    is_cuda: bool = False
    compile_mode: str | None = None
    checkpointing: str | None = None
    offload: bool | None = None
    clips: bool = False
    logger: str | None = None


def remedy(kind: str, measured: MeasuredSteps, setting: RunSetting) -> tuple[str, tuple[str, ...]]:
    """Say what to do against a bottleneck.

    Args:
        kind: Of `gpuopt.diagnosis.bottleneck.KINDS`.
        measured: The steps.
        setting: How they were set.

    Returns:
        Words, and settings of `gpuopt train` to try, which may be none.
    """
    if kind == "data":
        return _more_data(measured, setting)
    if kind == "batch":
        return _larger_batch(measured, setting)
    if kind == "copy":
        if setting.pin_memory is False:
            return "copy from page-locked memory", ("pin_memory=true",)
        return "give the loader pin_memory=True, and move bytes rather than floats", ()
    if kind == "preparation":
        return "leave costly steps of the augmentation out", ()
    if kind == "synchronisation":
        return "read tensors (.item(), .cpu(), print) every hundred steps only, at these lines", ()
    if kind == "host":
        text = "do less in callbacks and hooks of each batch, or only every hundred steps"
        return text, ("logger=none",) if setting.logger not in (None, "none") else ()
    return _faster_optimizer(setting)


def compute_remedy(setting: RunSetting) -> tuple[str, tuple[str, ...]]:
    """Say what may make computing itself faster; what it would gain was not measured."""
    overrides = []
    if setting.is_cuda and setting.precision in ("fp32", "tf32"):
        overrides.append("precision=bf16")
    if setting.checkpointing not in (None, "none"):
        overrides.append("model.checkpointing=none")
    if setting.compile_mode == "off":
        overrides.append("compile.mode=auto")
    words = "half precision, torch.compile, a smaller image or model"
    return f"computing itself gets faster by {words}: not measured here", tuple(overrides)


def _more_data(measured: MeasuredSteps, setting: RunSetting) -> tuple[str, tuple[str, ...]]:
    """Compare what loading takes with what the step leaves it."""
    step_ms = measured.parts.combined({"in_memory": 1.0}).value
    alone_ms = statistics.median(measured.loads_ms)
    processes = max(1, measured.num_workers)
    needed = math.ceil(_SPARE * alone_ms * processes / step_ms)
    cpus = setting.cpus
    caches = setting.cache is not None and setting.cache != "on" and not setting.is_decoded
    overrides = ("data.cache=on",) if caches else ()
    if measured.num_workers and needed <= measured.num_workers:
        text = "the loader alone is fast enough: it competes with training for processors"
        return text, overrides
    workers = needed if cpus is None else min(needed, cpus)
    if setting.num_workers is not None and workers > setting.num_workers:
        overrides = (f"num_workers={workers}", *overrides)
    if cpus is None or needed <= cpus:
        return f"load with {needed} processes (now {measured.num_workers})", overrides
    samples = measured.parts.samples_per_step
    missing = 1000 * samples / step_ms - 1000 * samples * cpus / (alone_ms * processes)
    text = (
        f"CPU bound: {needed} processes are needed and there are {cpus} processors, about "
        f"{max(0.0, missing):.0f} samples/s are missing; decode once, or load smaller images"
    )
    return text, overrides


def _larger_batch(measured: MeasuredSteps, setting: RunSetting) -> tuple[str, tuple[str, ...]]:
    micro, total = measured.micro_batch_size, setting.global_batch_size
    if total is not None and total >= 2 * micro:
        return "larger micro-batches, fewer of them in a step", (f"micro_batch_size={2 * micro}",)
    words = "a larger batch, which changes the training"
    if total is not None:
        overrides = [f"global_batch_size={2 * total}"]
        if setting.is_cuda and setting.compile_mode == "off":
            words += "; or fewer, larger kernels"
            overrides.append("compile.mode=auto")
        return words, tuple(overrides)
    return f"{words}; or torch.compile with CUDA graphs", ()


def _faster_optimizer(setting: RunSetting) -> tuple[str, tuple[str, ...]]:
    if setting.offload:
        return "keep its state on the device", ("optimizer.offload=false",)
    if setting.precision == "fp16" and setting.clips:
        return "the gradient scaler of fp16 forbids it here", ("precision=bf16",)
    return "build it with fused=True", ()
