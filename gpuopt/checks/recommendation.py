"""What to set for one device, and why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpuopt.checks.pitfall import find_pitfalls
from gpuopt.checks.planned_speed import LEAST_MICRO_BATCH, PlannedSpeed, plan_speed
from gpuopt.checks.request import CheckRequest, TrainingMode
from gpuopt.checks.subject import Subject, build_for
from gpuopt.checks.tier import TIERS, Tier, reference_speed, tier_of
from gpuopt.choice import Choice
from gpuopt.errors import InputError
from gpuopt.hardware import (
    available_cpus,
    choose_image_size,
    recommended_workers,
    resolve_precision,
)
from gpuopt.measure import Interval
from gpuopt.session.tta_forecast import forecast_tta_time
from gpuopt.tta import TestTimeAugmentation

__all__ = ["Recommendation", "recommend"]

_MOST_TRAINING_MINUTES = 30.0
_MOST_PREDICTION_MINUTES = 5.0
_START_MINUTES = 1 / 6
# Of a model that is asked for: the length of a training and its global batch.
_MODE_OF_A_GIVEN_MODEL = "highperf"


@dataclass(frozen=True)
class Recommendation:
    """What to set.

    Attributes:
        subject: The device.
        tier: Its rank.
        guide: Where the optimisation guide ranks it otherwise, and why; empty where it does not.
        choices: Each setting with evidence and reason.
        training_minutes: Of the whole training; None where the speed is unknown.
        prediction_minutes: Of all images with the views.
        command: That trains and predicts with it, as words behind `gpuopt train`.
        notes: What else is to be known, a line each.
    """

    subject: Subject
    tier: Tier
    guide: str
    choices: Sequence[Choice]
    training_minutes: Interval | None
    prediction_minutes: Interval | None
    command: Sequence[str]
    notes: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "gpu": self.subject.preset,
            "tier": self.tier.as_dict(),
            "guide": self.guide or None,
            "choices": [choice.as_dict() for choice in self.choices],
            "training_minutes": _plain(self.training_minutes),
            "prediction_minutes": _plain(self.prediction_minutes),
            "command": ["gpuopt", "train", *self.command],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class _Weighed:
    """A mode on the device."""

    mode: TrainingMode
    speed: PlannedSpeed
    minutes: Interval | None

    @property
    def is_sensible(self) -> bool:
        """Whether enough samples fit and it does not take too long."""
        least = min(LEAST_MICRO_BATCH, self.mode.global_batch_size)
        is_short = self.minutes is None or self.minutes.value <= _MOST_TRAINING_MINUTES
        return self.speed.micro_batch_size >= least and is_short


def recommend(request: CheckRequest, subject: Subject) -> Recommendation:
    """Choose mode, model, batch, views and workers for a device.

    Raises:
        InputError: When nothing can be trained on it, or the model cannot be predicted.
    """
    tier = tier_of(reference_speed(request, subject.gpu))
    best, passed = _best(request, subject)
    speed, mode = best.speed, best.mode
    views, prediction, why_views = _views(request, subject, speed)
    choices = [_mode_choice(request, best, passed)]
    choices.append(Choice("model.name", speed.model_name, "table", f"of mode={mode.name}"))
    if _is_given(request):
        choices = [Choice("model.name", speed.model_name, "given", "asked for")]
    size = choose_image_size(_size_words(request, mode), subject.gpu)
    reason = "the model's own" if _is_given(request) else size.reason
    choices.append(Choice("image_size", speed.image_size, size.evidence, reason))
    choices.append(
        resolve_precision(request.precision, subject.gpu, is_cuda=not subject.gpu.is_cpu)
    )
    choices.append(_batch_choice(subject, best))
    if _is_recomputed_by_us(best):
        reason = f"only {speed.largest} samples fit without, {LEAST_MICRO_BATCH} are wanted"
        choices.append(Choice("model.checkpointing", speed.checkpointing, "predicted", reason))
    cpus = available_cpus() if not subject.is_absent else subject.gpu.num_workers
    choices.append(recommended_workers("auto", subject.gpu, cached=True, cpus=cpus))
    if views is not None:
        choices.append(Choice("tta", views.name, "predicted", why_views))
    return Recommendation(
        subject,
        tier,
        _guide(subject, tier),
        choices,
        best.minutes,
        prediction,
        _command(request, best, views),
        _notes(request, best, subject),
    )


def _is_recomputed_by_us(best: _Weighed) -> bool:
    """Whether a level was chosen that neither mode nor user asks for."""
    return best.speed.checkpointing not in ("none", best.mode.model.get("checkpointing"))


def _is_given(request: CheckRequest) -> bool:
    return any(word.startswith("model") for word in request.words)


def _size_words(request: CheckRequest, mode: TrainingMode) -> int | str:
    return mode.image_size if request.image_size == "auto" else request.image_size


def _best(request: CheckRequest, subject: Subject) -> tuple[_Weighed, list[_Weighed]]:
    """Weigh modes from the largest model on until one is sensible."""
    is_given = _is_given(request)
    names = [_MODE_OF_A_GIVEN_MODEL] if is_given else list(request.modes)
    weighed: list[_Weighed] = []
    for name in request.track(names):
        mode = request.modes[name]()
        mode = replace(mode, model=request.model) if is_given else mode
        weighed.append(_weigh(request, subject, mode))
        if weighed[-1].is_sensible:
            return weighed[-1], weighed[:-1]
    fitting = [one for one in weighed if one.speed.micro_batch_size > 0]
    if not fitting:
        last = weighed[-1].speed
        raise InputError(
            f"{subject.gpu.name}: not one sample of {last.model_name} at {last.image_size} px "
            "fits; name a smaller model= or image_size="
        )
    return fitting[-1], weighed[:-1]


def _weigh(request: CheckRequest, subject: Subject, mode: TrainingMode) -> _Weighed:
    size: int | None = None
    if request.image_size != "auto":
        size = int(request.image_size)
    elif not _is_given(request):
        size = int(choose_image_size(mode.image_size, subject.gpu).value)
    speed = plan_speed(
        subject.gpu,
        mode.model,
        size,
        precision=request.precision,
        optimizer=request.optimizer if _is_given(request) else mode.optimizer,
        moving_average=mode.moving_average,
        global_batch_size=mode.global_batch_size,
        cache_dir=request.cache_dir,
    )
    samples = request.train_images * mode.max_epochs
    return _Weighed(mode, speed, _minutes(samples, speed.train_per_s))


def _minutes(samples: int, rate: Interval | None) -> Interval | None:
    if rate is None:
        return None
    return Interval(*(samples / per_s / 60 for per_s in (rate.value, rate.high, rate.low)))


def _mode_choice(request: CheckRequest, best: _Weighed, passed: Sequence[_Weighed]) -> Choice:
    mode, minutes = best.mode, best.minutes
    took = "speed unknown" if minutes is None else f"{minutes.value:.3g} min"
    reason = f"{request.train_images} images x {mode.max_epochs} epochs: {took}"
    if passed and passed[-1].minutes is not None:
        before = passed[-1]
        assert before.minutes is not None  # was asked
        reason += f"; {before.mode.name} would take {before.minutes.value:.3g} min"
        if before.speed.micro_batch_size < LEAST_MICRO_BATCH:
            reason += f" with {before.speed.micro_batch_size} samples at once"
    else:
        reason += f", the largest model below {_MOST_TRAINING_MINUTES:g} min"
    return Choice("mode", mode.name, "predicted", reason)


def _batch_choice(subject: Subject, best: _Weighed) -> Choice:
    micro, total = best.speed.micro_batch_size, best.mode.global_batch_size
    parts = math.ceil(total / micro)
    if subject.gpu.is_cpu:
        reason = f"what auto takes on a CPU; {total} a step in {parts}"
        return Choice("micro_batch_size", micro, "table", reason)
    fits = "with recomputing" if best.speed.checkpointing != "none" else "fit"
    held = micro if best.speed.checkpointing != "none" else best.speed.largest
    reason = f"what auto takes: {held} {fits}; {total} a step in {parts}"
    return Choice("micro_batch_size", micro, "predicted", reason)


def _views(
    request: CheckRequest, subject: Subject, speed: PlannedSpeed
) -> tuple[TestTimeAugmentation | None, Interval | None, str]:
    """Choose the most views that stay short; of equally many those without mirrors, doc15."""
    timed = [
        (policy, minutes)
        for policy in request.policies
        if (minutes := _prediction_minutes(request, subject, speed, policy)) is not None
    ]
    if not timed:
        return None, None, ""
    short = [one for one in timed if one[1].value <= _MOST_PREDICTION_MINUTES]
    policy, minutes = max(
        short or timed[:1], key=lambda one: (len(one[0].views), one[0].name == "doc15")
    )
    reason = (
        f"{len(policy.views)} views of {request.images} images in {minutes.value:.3g} min, the "
        f"most below {_MOST_PREDICTION_MINUTES:g}; what they are worth: gpuopt recommend_tta"
    )
    return policy, minutes, reason


def _prediction_minutes(
    request: CheckRequest, subject: Subject, speed: PlannedSpeed, policy: TestTimeAugmentation
) -> Interval | None:
    if speed.predict_per_s is None:
        return None
    if subject.gpu.is_cpu:
        forwards = request.images * max(1, len(policy.views))
        worked = _minutes(forwards, speed.predict_per_s)
        assert worked is not None  # the rate is known
        return Interval(*(_START_MINUTES + end for end in (worked.value, worked.low, worked.high)))
    time = forecast_tta_time(
        speed.model_name,
        speed.image_size,
        subject.gpu,
        precision=speed.precision,
        cache_dir=request.cache_dir,
    )
    return time.minutes(request.images, policy.parsed_views())


def _guide(subject: Subject, tier: Tier) -> str:
    row = subject.gpu.seed
    if row is None or row.tier is None or row.tier == tier.name:
        return ""
    if TIERS.index(tier.name) < TIERS.index(row.tier):
        why = f"it has the memory and the speed of {tier.name}"
    else:
        lacks = {"both": "memory and speed"}.get(tier.limit, f"the {tier.limit}")
        why = f"it has not {lacks} of more than {tier.name}"
    return f"the guide calls it {row.tier} by its name; {why}"


def _notes(request: CheckRequest, best: _Weighed, subject: Subject) -> list[str]:
    machine = request.look()
    build = build_for(request, [subject])
    notes = [str(pitfall) for pitfall in find_pitfalls(subject, machine, build)]
    alike = [c for c in machine.cards if subject.card and c.device.name == subject.card.device.name]
    if len(alike) > 1:
        notes.append(f"{len(alike)} cards of this kind are here: trainer.devices={len(alike)}")
    if not best.mode.pin_memory and not subject.gpu.is_cpu:
        notes.append(
            f"pageable loading: mode={best.mode.name} sets pin_memory=false, whose copies to the "
            "card are slower and wait for it; the command sets it to true"
        )
    return notes


def _command(
    request: CheckRequest, best: _Weighed, views: TestTimeAugmentation | None
) -> list[str]:
    words = [f"mode={best.mode.name}", *request.words]
    if _is_given(request) and request.image_size == "auto":
        words.append(f"image_size={best.speed.image_size}")
    if _is_recomputed_by_us(best):
        words.append(f"model.checkpointing={best.speed.checkpointing}")
    if not best.mode.pin_memory and "gpu=cpu" not in request.words:
        words.append("pin_memory=true")
    if views is not None:
        words.append(f"tta={views.name}")
    return words


def _plain(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.as_dict()
