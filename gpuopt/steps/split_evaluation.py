"""Validation, test and prediction steps that split their batch when memory runs out."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.utilities.model_helpers import is_overridden

from gpuopt.steps.batch_parts import cut, join, largest_part, sample_count, spans
from gpuopt.steps.own_collectives import refusing_collectives
from gpuopt.steps.split_size import SplitSize
from gpuopt.steps.split_step import (
    Binding,
    Observer,
    check_unwritten,
    is_fit_for,
    smaller,
    versions_of,
)
from gpuopt.steps.step_logs import LogCall, merged, recorded_logs, replay
from gpuopt.steps.step_state import StateKeeper, StepState

__all__ = ["SplitEvaluation"]

_PHASES = {"validation_step": "validation", "test_step": "test", "predict_step": "prediction"}


class SplitEvaluation:
    """Binds itself between a Trainer and its module's evaluation steps.

    Logged values of the parts are averaged by samples, and metrics are updated part by part.

    Args:
        trainer: Evaluates the module.
        module: Any.
        sizes: How many samples to take at a time.
        observer: Is told of every event.
    """

    def __init__(
        self, trainer: L.Trainer, module: L.LightningModule, sizes: SplitSize, observer: Observer
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._sizes = sizes
        self._observer = observer
        self._keeper = StateKeeper(trainer, module)
        self._binding = Binding(module)
        self._has_no_collectives: set[str] = set()  # hooks of which that is known

    def bind(self) -> None:
        """Take the place of the steps that the module has."""
        for hook in _PHASES:
            if is_overridden(hook, self._module):
                self._bind(hook)

    def lifted(self) -> AbstractContextManager[None]:
        """Let the module have its own methods for a while."""
        return self._binding.lifted()

    def undo(self) -> None:
        """Give the methods back."""
        self._binding.undo()

    def _bind(self, hook: str) -> None:
        def stepping(method: Any) -> Any:
            return lambda batch, *args, **options: self._step(hook, method, batch, args, options)

        self._binding.put(hook, stepping)

    def _step(
        self, hook: str, method: Any, batch: Any, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        count = sample_count(batch)
        before, versions = self._keeper.take(), versions_of(batch)
        size = self._sizes.start(count)
        outputs: list[Any] = []
        logs: list[list[LogCall]] = []

        def run() -> None:
            outputs.clear()
            logs.clear()
            for span in spans(count, size):
                piece = batch if size >= count else cut(batch, span, count)
                if size >= count and self._trainer.world_size == 1:
                    outputs.append(method(piece, *args, **options))
                    continue
                with (
                    recorded_logs(self._module) as calls,
                    self._watched(hook, is_part=size < count),
                ):
                    outputs.append(method(piece, *args, **options))
                logs.append(calls)

        while not is_fit_for(run):
            outputs.clear()
            self._roll_back(hook, before, batch, versions)
            part = largest_part(count, size)
            size = smaller(self._sizes, self._observer, _PHASES[hook], part, may_save=False)
        self._keeper.learn(before)
        counts = [span.stop - span.start for span in spans(count, size)]
        if logs:
            replay(self._module, merged(logs, counts, {}), hook)
        grown = self._sizes.succeeded()
        if grown is not None:
            self._observer.grown(_PHASES[hook], grown)
        return outputs[0] if len(outputs) == 1 else join(outputs, counts)

    @contextlib.contextmanager
    def _watched(self, hook: str, *, is_part: bool) -> Iterator[None]:
        """Look once at each hook's parts: an exchange between ranks would make others wait."""
        if not is_part or hook in self._has_no_collectives:
            yield
            return
        with refusing_collectives(self._trainer, hook):
            yield
        self._has_no_collectives.add(hook)

    def _roll_back(self, hook: str, before: StepState, batch: Any, versions: list[int]) -> None:
        self._observer.lost(self._keeper.restore(before))
        check_unwritten(batch, versions, hook)
