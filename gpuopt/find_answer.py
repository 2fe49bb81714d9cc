"""From the settings of `gpuopt find_batch_size` to its answer."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from gpuopt.batch_schedule import BatchSchedule
from gpuopt.choice import Choice
from gpuopt.errors import InputError
from gpuopt.finding.answer import CardAnswer, FindAnswer
from gpuopt.finding.predicted import (
    answer_for_cpu,
    predict_answer,
    settled_checkpointing,
    settled_offload,
)
from gpuopt.finding.probing_process import Measured
from gpuopt.finding.request import FindRequest
from gpuopt.finding.route import Route, choose_route
from gpuopt.hardware import AbsentGpu, DriverDevice, Gpu, load_catalogue, select_gpu
from gpuopt.recomputation import AUTO
from gpuopt.schema import CONF_DIR, FindBatchSizeConfig
from gpuopt.trained_run import describe_run, find_run

__all__ = ["Found", "card_of", "find", "make_request", "refuse_contradictions"]


@dataclass(frozen=True)
class Found:
    """An answer, and what it takes to use it.

    Attributes:
        answer: What was found.
        settings: By dotted key, what makes the next command use it.
        devices: Positions in CUDA's order of the devices it is for; None leaves it to CUDA.
        snapshots: Of the allocator of each card, or why there is none.
    """

    answer: FindAnswer
    settings: Mapping[str, Any]
    devices: tuple[int, ...] | None
    snapshots: Sequence[Mapping[str, Any]]


def refuse_contradictions(config: FindBatchSizeConfig, typed: Collection[str]) -> None:
    """Refuse settings that cannot be meant together, before anything is looked for.

    Args:
        config: The checked settings.
        typed: Keys that the user gave on the command line.

    Raises:
        InputError: Names the settings.
    """
    for key in ("micro_batch_size", "accumulate_grad_batches"):
        if key in typed:
            raise InputError(f"{key} is what is looked for: leave it out, or ask with target=N")
    if config.resume:
        raise InputError("resume is for gpuopt train: find the batch of a run before it starts")
    if config.run is not None and config.purpose == "train":
        raise InputError("run=... names a trained run: add purpose=predict or purpose=tta")
    if config.test_only and (config.save_config or config.memory_profile):
        raise InputError("test_only=true writes nothing: leave save_config and memory_profile out")
    if config.save_config and config.purpose != "train":
        raise InputError("save_config writes an experiment of gpuopt train: purpose=train only")
    most = config.max_batch_size
    for key, samples in (("min_batch_size", config.min_batch_size), ("target", config.target)):
        if most is not None and samples is not None and samples > most:
            raise InputError(f"{key}={samples} is above max_batch_size={most}")
    if config.gpu_ids and config.trainer.devices not in (1, len(config.gpu_ids)):
        raise InputError(
            f"gpu_ids={config.gpu_ids} are {len(config.gpu_ids)} device(s), "
            f"trainer.devices={config.trainer.devices}: leave one of them out"
        )
    _refuse_idle_devices(config)


def _refuse_idle_devices(config: FindBatchSizeConfig) -> None:
    """Refuse fewer samples per step than devices of `gpu_ids`, as training does."""
    if config.purpose != "train" or not config.gpu_ids or config.global_batch_size is None:
        return
    schedule = BatchSchedule.of(config.global_batch_size, config.global_batch_schedule)
    least = min(schedule.sizes.values())
    if least < len(config.gpu_ids):
        raise InputError(
            f"global_batch_size={least} is smaller than the {len(config.gpu_ids)} devices of "
            f"gpu_ids={config.gpu_ids}: every device needs a sample"
        )


def find(
    config: FindBatchSizeConfig,
    present: Sequence[DriverDevice],
    measure: Callable[[DriverDevice, FindRequest, str], Measured],
) -> Found:
    """Find the batch.

    Args:
        config: The checked settings.
        present: The CUDA devices of this machine.
        measure: Probes a device for a request; also takes, in a clause, how the card comes to be
            measured.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    route = choose_route(config.gpu, present, config.gpu_ids, _device_count(config))
    request = make_request(config)
    cards = [card_of(config.gpu, device) for device in route.devices] or [config.gpu.card()]
    sizes = {request.size_on(card) for card in cards}
    request = replace(request, image_size=min(sizes))  # cards that work together see one size
    kept_on_card = ""
    if route.kind != "cpu":
        least = min(cards, key=lambda card: card.budget_bytes())  # what it can, all of them can
        request, kept_on_card = settled_offload(request, least, _device_count(config))
        request = settled_checkpointing(request, least)
    measured = [measure(device, request, route.reason) for device in route.devices]
    if measured:
        answers = [one.answer for one in measured]
        snapshots: list[Mapping[str, Any]] = [one.snapshot for one in measured]
    else:
        answers = [_unmeasured(request, route, cards[0])]
        snapshots = [{"absent": f"{route.reason}: no step was run on a CUDA device"}]
    answer = FindAnswer(
        purpose=request.purpose,
        model_name=str(request.model["name"]),
        image_size=min(sizes),
        checkpointing=request.checkpointing,
        cards=answers,
        choice=_choice(request, answers),
        target=request.target,
        shortfall=_shortfall(request, answers),
        notes=_notes(config, request, answers, kept_on_card),
    )
    named = config.gpu_ids is not None or any(d.index != i for i, d in enumerate(route.devices))
    settings = _settings(config, request, answer)
    return Found(
        answer,
        settings if len(sizes) == 1 else {**settings, "image_size": min(sizes)},
        tuple(device.index for device in route.devices) if named else None,
        snapshots,
    )


def make_request(config: FindBatchSizeConfig) -> FindRequest:
    """Turn the settings into what is asked.

    Raises:
        InputError: When the run that is named has no intact checkpoint.
    """
    model, image_size = dict(config.model), config.image_size
    if config.run is not None:
        description, _ = describe_run(find_run(config.run))
        model, image_size = {"name": description.model}, description.image_size
    assert config.global_batch_size is not None  # settle_batch_sizes made it definite
    schedule = BatchSchedule.of(config.global_batch_size, config.global_batch_schedule)
    return FindRequest(
        purpose=config.purpose,
        gpu=config.gpu,
        catalogue=load_catalogue(CONF_DIR / "gpu"),
        model=model,
        optimizer=config.optimizer,
        precision=config.precision.name,
        image_size=image_size,
        per_device=math.ceil(schedule.largest / _device_count(config)),
        moving_average=bool(config.callbacks.get("moving_average", {}).get("enabled")),
        clips_gradients=config.trainer.gradient_clip_norm is not None,
        aggressive=config.aggressive,
        minimum=config.min_batch_size,
        maximum=config.max_batch_size,
        target=config.target,
        cache_dir=config.cache_dir,
        keeps=not config.test_only,
    )


def card_of(gpu: AbsentGpu, device: Any) -> Gpu:
    """Return what is known about a device that is here, with what was typed about it.

    Args:
        gpu: The `gpu=` option.
        device: Its properties, as the driver or torch tells them.
    """
    preset = Gpu(**{field.name: getattr(gpu, field.name) for field in fields(Gpu)})
    return select_gpu(preset, device, load_catalogue(CONF_DIR / "gpu"))[0]


def _device_count(config: FindBatchSizeConfig) -> int:
    if config.gpu_ids:
        return len(config.gpu_ids)
    return config.trainer.devices if config.purpose == "train" else 1


def _unmeasured(request: FindRequest, route: Route, card: Gpu) -> CardAnswer:
    if route.kind == "cpu":
        return answer_for_cpu(request, request.catalogue["cpu"], route.reason)
    return predict_answer(request, card, route.reason)


def _choice(request: FindRequest, answers: Sequence[CardAnswer]) -> Choice:
    least = min(answers, key=lambda answer: answer.chosen)
    why = least.why
    if least.largest is None:
        why = f"{least.reason}; {why}"
    if len(answers) > 1:
        why += f"; the least of {len(answers)} devices"
    return Choice(request.key, least.chosen, least.evidence, why)


def _shortfall(request: FindRequest, answers: Sequence[CardAnswer]) -> str | None:
    limited = [answer for answer in answers if answer.largest is not None]
    if not limited:
        return None
    least = min(limited, key=lambda answer: answer.largest or 0)
    where = f"{least.card}, {least.evidence}"
    return request.shortfall(least.largest or 0, where, least.levels)


def _settings(
    config: FindBatchSizeConfig, request: FindRequest, answer: FindAnswer
) -> dict[str, Any]:
    found: dict[str, Any] = {request.key: answer.choice.value}
    if request.trains and config.gpu_ids and len(config.gpu_ids) > 1:
        found["trainer.devices"] = len(config.gpu_ids)
    settles_level = request.aggressive or config.model.get("checkpointing") == AUTO
    if settles_level and request.trains and answer.cards[0].evidence != "table":
        found["model.checkpointing"] = request.checkpointing
    if request.aggressive and request.offloads:
        found["optimizer.offload"] = True
    measured = [card for card in answer.cards if card.evidence == "measured"]
    if request.aggressive and measured:
        found["gpu.headroom_ratio"] = max(card.headroom_ratio or 0.0 for card in measured)
    if request.purpose == "tta":
        found["tta"] = config.tta.name
    return found


def _notes(
    config: FindBatchSizeConfig,
    request: FindRequest,
    answers: Sequence[CardAnswer],
    kept_on_card: str,
) -> list[str]:
    notes = []
    if kept_on_card:
        notes.append(f"aggressive: the optimizer's state stays on the card: {kept_on_card}")
    evidence = answers[0].evidence
    if evidence == "table":
        notes.append("name a card to predict for it: gpu=rtx3060, or gpu.memory_gib=6")
    if request.aggressive and evidence == "predicted":
        notes.append(
            f"aggressive: the headroom stays {answers[0].headroom_ratio or 0:.0%}; only a probe on "
            "the card confirms a smaller one"
        )
    mode = config.compile.mode
    if mode != "off" and evidence == "predicted":
        notes.append("a compiled model takes less, which is not predicted")
    if evidence == "measured" and (note := _uncompiled(mode, request)):
        notes.append(f"compile.mode={mode}: {note}")
    if request.purpose == "tta" and evidence == "predicted":
        notes.append(
            "views are made one chunk at a time, so their number changes the time only: predicted "
            "as a forward pass over a chunk"
        )
    return notes


def _uncompiled(mode: str, request: FindRequest) -> str | None:
    """Say how a measurement differs from what is asked of the compiler; None where it does not."""
    if mode == "off" or (mode == "default" and request.trains):
        return None
    if not request.trains:
        return "measured eager; it is for training, and predict has engine="
    if mode == "auto":
        return "measured eager; train times both when it starts, at the size that was found"
    return (
        "measured without CUDA graphs, as micro-batches are added up; where one holds the share "
        "of a device, train runs with them and takes more"
    )
