"""Peak memory as a function of the micro-batch: fixed parts, and what grows with the samples."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

__all__ = ["FixedMemory", "Line", "MemoryEstimate", "StepMemory", "highest_lines"]


@dataclass(frozen=True)
class Line:
    """Bytes that are alive at one moment of a step, as a function of its samples.

    Attributes:
        base_bytes: What does not depend on the samples; may be below 0 where something that
            `FixedMemory` counts is not alive yet.
        bytes_per_sample: What each sample adds.
    """

    base_bytes: int
    bytes_per_sample: int

    def at(self, samples: int) -> int:
        """Return the bytes at that many samples."""
        return self.base_bytes + samples * self.bytes_per_sample


@dataclass(frozen=True)
class StepMemory:
    """What following one step of a model has shown, whatever optimizer trains it.

    Attributes:
        parameters_bytes: fp32.
        buffers_bytes: Such as the running statistics of BatchNorm.
        weight_copies_bytes: Autocast's copies of the weights.
        lines: Its highest moments, without parameters, gradients and buffers.
        image_size: Side in pixels.
        convolves: Whether more than the first layer is a convolution.
        stages: How many of the model's stages can be recomputed in backward.
        small_parameters_bytes: Of the parameters whose state is never offloaded.
    """

    parameters_bytes: int
    buffers_bytes: int
    weight_copies_bytes: int
    lines: tuple[Line, ...]
    image_size: int
    convolves: bool = False
    stages: int = 0
    small_parameters_bytes: int = 0


@dataclass(frozen=True)
class FixedMemory:
    """What a step of any size holds, in bytes.

    Attributes:
        parameters: fp32.
        gradients: fp32; they exist during the forward pass, whether because they are accumulated
            or because Lightning drops the last step's only afterwards.
        optimizer_state: fp32.
        moving_average: Averaged parameters and buffers.
        buffers: Such as the running statistics of BatchNorm.
        half_precision_weights: The most that autocast's copies take, which backward needs.
        workspace: Of cuBLAS, and a reserve for cuDNN's, which come and go.
        context: CUDA context and libraries, outside of torch's allocator.
    """

    parameters: int
    gradients: int = 0
    optimizer_state: int = 0
    moving_average: int = 0
    buffers: int = 0
    half_precision_weights: int = 0
    workspace: int = 0
    context: int = 0

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return sum(int(getattr(self, field.name)) for field in fields(self))


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of a step: the highest of several lines on top of what is fixed.

    Attributes:
        fixed: What does not depend on the batch.
        lines: The moments of a step that are the highest at some batch size, least slope first.
            Their maximum is convex: a line through two small batches runs below it.
        image_size: Side in pixels that it holds for.
        stages: How many of the model's stages can be recomputed in backward.
    """

    fixed: FixedMemory
    lines: tuple[Line, ...]
    image_size: int
    stages: int = 0

    @property
    def bytes_per_sample(self) -> int:
        """What a further sample adds to a large batch."""
        return self.lines[-1].bytes_per_sample

    def varying_bytes(self, samples: int) -> int:
        """Return what activations, images and temporaries add to the fixed parts at the peak."""
        return max(line.at(samples) for line in self.lines)

    def peak_bytes(self, samples: int) -> int:
        """Return the predicted peak at a micro-batch of that many samples, context included."""
        return self.fixed.total_bytes + self.varying_bytes(samples)

    def allocated_bytes(self, samples: int) -> int:
        """Return the part of the peak that torch's allocator hands out."""
        return self.peak_bytes(samples) - self.fixed.context

    def largest_batch(self, budget_bytes: int) -> int:
        """Return the largest micro-batch within a budget; 0 when no sample fits."""
        free = budget_bytes - self.fixed.total_bytes
        if free < self.varying_bytes(1):
            return 0
        return min(
            (free - line.base_bytes) // line.bytes_per_sample
            for line in self.lines
            if line.bytes_per_sample > 0
        )


def highest_lines(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Keep the lines that are above all others at some number of samples from 1 on.

    Args:
        lines: At least one, in any order.

    Returns:
        Least slope first.
    """
    candidates = sorted(set(lines), key=lambda line: (line.bytes_per_sample, line.base_bytes))
    top = max(candidates, key=lambda line: (line.at(1), line.bytes_per_sample))
    kept = [top]
    while steeper := [line for line in candidates if line.bytes_per_sample > top.bytes_per_sample]:
        top = min(steeper, key=lambda line: (_crossing(top, line), -line.bytes_per_sample))
        kept.append(top)
    return tuple(kept)


def _crossing(low: Line, steep: Line) -> float:
    """Return the number of samples at which a steeper line overtakes another."""
    return (low.base_bytes - steep.base_bytes) / (steep.bytes_per_sample - low.bytes_per_sample)
