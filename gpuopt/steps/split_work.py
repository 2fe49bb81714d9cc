"""A batch on its way through a training step that may have to be taken again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gpuopt.steps.batch_parts import detached, largest_part, spans
from gpuopt.steps.step_logs import LogCall
from gpuopt.steps.step_state import StepState

__all__ = ["Arguments", "Work", "loss_of", "without_loss"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Work:
    """A batch on its way from `training_step` to the end of its backward pass.

    Attributes:
        batch: As Lightning hands it over.
        arguments: What else `training_step` was called with.
        count: Samples of the batch.
        size: Samples at a time.
        before: The state before the first attempt.
        versions: Writes to the batch's tensors before it.
        waiting: The loss of the last part with its graph, whose backward pass is still to come.
        span: Of that part.
        weight: Of that part in the loss of the batch.
        loss: Of the batch, without a graph; None when the module skips the batch.
        cut: What Lightning gets in its place, a leaf.
        scale: The factor that the earlier parts' losses had.
        earlier: Gradients of the earlier parts.
        outputs: What `training_step` returned, by part.
        logs: What it logged, by part.
    """

    batch: Any
    arguments: Arguments
    count: int
    size: int
    before: StepState
    versions: list[int]
    waiting: Tensor | None = None
    span: slice = field(default_factory=lambda: slice(0))
    weight: float | Tensor = 1.0
    loss: Tensor | None = None
    cut: Tensor | None = None
    scale: Tensor | None = None
    earlier: list[Tensor | None] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    logs: list[list[LogCall]] = field(default_factory=list)

    def clear(self) -> None:
        """Forget an attempt."""
        self.waiting = self.loss = self.scale = None
        self.earlier, self.outputs, self.logs = [], [], []

    @property
    def is_whole(self) -> bool:
        """Whether all samples are taken together."""
        return self.count <= self.size

    def spans(self) -> list[slice]:
        """Return which samples are taken together."""
        return spans(self.count, self.size)

    def largest_part(self) -> int:
        """Return how many samples are taken at a time; evenly cut, it may be below `size`."""
        return largest_part(self.count, self.size)

    def counts(self) -> list[int]:
        """Return how many those are."""
        return [span.stop - span.start for span in self.spans()]


def loss_of(output: Any) -> Tensor | None:
    """Return the loss that a `training_step` returned, which may be None."""
    return output.get("loss") if isinstance(output, Mapping) else output


def without_loss(output: Any) -> Any:
    """Return the rest of an output, cut off from the graph; None stays None."""
    if isinstance(output, Mapping):
        return {key: detached(value) for key, value in output.items() if key != "loss"}
    return None if output is None else ()
