"""Settle `precision=auto`: the format that the hardware has, if the real model takes it."""

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gpuopt.choice import Choice
from gpuopt.data import ImageDataModule
from gpuopt.data.batch import Batch
from gpuopt.hardware import float32_matmul_precision
from gpuopt.measure.kept_state import restarted_generators
from gpuopt.measure.precision_probe import PrecisionProbe, probe_precision
from gpuopt.memory.device_errors import free_memory, is_out_of_memory
from gpuopt.model import Classifier
from gpuopt.recomputation.apply import apply_checkpointing
from gpuopt.session.plan import Plan
from gpuopt.storage import write_json

__all__ = ["SettledPrecision", "settle_precision"]

_log = logging.getLogger(__name__)

_FILE = "precision_probe.json"
_SCHEMA = 1
_HALF = ("bf16", "fp16")


@dataclass(frozen=True)
class SettledPrecision:
    """The plan after the trial.

    Attributes:
        plan: In the format that was tried, or in fp32.
        probe: What was seen; None when nothing was tried.
    """

    plan: Plan
    probe: dict[str, Any] | None = None


def settle_precision(
    plan: Plan,
    model: Classifier,
    data: ImageDataModule,
    *,
    requested: str,
    tries: bool,
    folder: Path,
    device: torch.device,
    plan_for: Callable[[str], Plan],
) -> SettledPrecision:
    """Try the format of a plan on the first training batch, and fall back to fp32 if it fails.

    A resumed run on the same card takes the first attempt's verdict: another would change what is
    trained. Without a half-precision format to try, as on a CPU, nothing happens.

    Args:
        plan: What the hardware is for.
        model: The model; the same afterwards but for its level of checkpointing.
        data: Its data, set up; gets the micro-batch of the plan that is returned.
        requested: `precision=`.
        tries: `precision_probe=`.
        folder: Of the run.
        device: That trains.
        plan_for: Makes the plan for another format.
    """
    if requested != "auto" or plan.precision not in _HALF:
        return SettledPrecision(plan)
    if not tries:
        return SettledPrecision(_noted(plan, "not tried: precision_probe=false"))
    if plan.devices > 1:
        return SettledPrecision(_noted(plan, "not tried: several devices would have to agree"))
    found = _read(folder, plan)
    if found is None:
        try:
            found = _try(plan, model, data, device).as_dict()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        free_memory()
        if found is None:  # what the training will have to deal with
            return SettledPrecision(_noted(plan, "not tried: memory ran out"))
        write_json(folder / _FILE, {**_question(plan), "probe": found})
    if found["is_accepted"]:
        choice = Choice("precision", plan.precision, "measured", str(found["reason"]))
        return SettledPrecision(_with(plan, choice), found)
    reason = f"{plan.precision} was tried and rejected: {found['reason']}"
    choice = Choice("precision", "fp32", "measured", reason)
    new = _with(plan_for("fp32"), choice)
    torch.set_float32_matmul_precision(float32_matmul_precision("fp32"))
    torch.backends.cudnn.allow_tf32 = False
    if new.checkpointing != plan.checkpointing:
        apply_checkpointing(model.backbone, new.checkpointing)
    data.micro_batch_size = new.micro_batch_size
    return SettledPrecision(new, found)


def _try(
    plan: Plan, model: Classifier, data: ImageDataModule, device: torch.device
) -> PrecisionProbe:
    before = model.device
    with restarted_generators(device):
        loaded: Batch = next(iter(data.train_dataloader()))
        model.to(device)
        try:
            batch = data.augment(Batch(*(tensor.to(device) for tensor in loaded)))

            def forward(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
                first: Any = Batch(*(tensor[:samples] for tensor in batch))
                return model.loss(first)

            return probe_precision(
                model,
                forward,
                len(batch.images),
                plan.precision,
                device,
                is_out_of_memory=is_out_of_memory,
            )
        finally:
            model.to(before)


def _noted(plan: Plan, remark: str) -> Plan:
    (choice,) = (choice for choice in plan.choices if choice.key == "precision")
    return _with(plan, replace(choice, reason=f"{choice.reason}; {remark}"))


def _with(plan: Plan, new: Choice) -> Plan:
    choices = (new if choice.key == new.key else choice for choice in plan.choices)
    return replace(plan, choices=tuple(choices))


def _question(plan: Plan) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "gpu": plan.gpu.name,
        "precision": plan.precision,
        "torch": torch.__version__,
    }


def _read(folder: Path, plan: Plan) -> dict[str, Any] | None:
    """Return the verdict of an earlier attempt at this run on such a card."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        content = json.loads((folder / _FILE).read_text("utf-8"))
        probe = content.pop("probe")
        if content == _question(plan) and {"is_accepted", "reason"} <= probe.keys():
            _log.info("precision: the verdict of this run's first attempt stands")
            return dict(probe)
    return None
