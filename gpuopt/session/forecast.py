"""Say how long a run will take before it starts; its first steps then measure it."""

import math

from gpuopt.errors import InputError
from gpuopt.measure.roofline import cpu_rates, gpu_rates, kept_forward_flops, predict_sample_s
from gpuopt.memory import MemorySetup, predict_memory
from gpuopt.session.plan import Plan

# An assumption for the loop around a step and its launches, which no micro-batch is too small for.
_LAUNCH_S = 0.01

__all__ = ["forecast_training_s", "samples_seen"]


def samples_seen(plan: Plan, train_size: int, epochs: int, steps: int) -> int:
    """Count the samples of a training, every step taken for a full one.

    Args:
        plan: Knows the global batches.
        train_size: Samples of an epoch.
        epochs: Of the whole training.
        steps: Optimizer steps, which may be fewer than the epochs have.
    """
    batches = plan.global_batches
    sizes = [batches.at(epoch) for epoch in range(epochs)]
    of_all = sum(math.ceil(train_size / size) * size for size in sizes)
    return of_all * steps // batches.steps(train_size, epochs)


def forecast_training_s(
    plan: Plan, model_name: str, samples: int, *, cache_dir: str | None = None
) -> float | None:
    """Predict the duration of training, loader and validation left out.

    Args:
        plan: Device, precision and image size.
        model_name: timm model name.
        samples: Samples that training will see.
        cache_dir: Folder of all caches; None means the user's cache folder.

    Returns:
        Seconds, or None for a model or device about which too little is known.
    """
    rates = cpu_rates() if plan.accelerator == "cpu" else gpu_rates(plan.gpu, plan.precision)
    if rates is None:
        return None
    try:
        setup = MemorySetup(model_name, plan.image_size, plan.precision)
        estimate = predict_memory(setup, cache_dir=cache_dir)
        flops = kept_forward_flops(model_name, plan.image_size, cache_dir)
    except (InputError, RuntimeError):  # cannot be run without data, which training can
        return None
    sample_s = predict_sample_s(flops, estimate.bytes_per_sample, rates)
    steps = samples / plan.global_batch_size
    batches = steps * plan.accumulate_grad_batches
    return samples * sample_s / plan.devices + batches * _LAUNCH_S
