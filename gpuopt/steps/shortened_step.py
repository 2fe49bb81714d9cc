"""A Trainer's own step with parts of it left out, to see what they take."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers.logger import DummyLogger

from gpuopt.steps.batch_parts import detached

__all__ = ["OMITTED", "ShortenedStep"]

OMITTED: dict[str, tuple[str, ...]] = {
    "real": (),
    "in_memory": (),
    "on_device": (),
    "prepared": ("preparation",),
    "quiet": ("preparation", "callbacks"),
    "no_optimizer": ("preparation", "callbacks", "optimizer"),
    "no_backward": ("preparation", "callbacks", "optimizer", "backward"),
    "empty": ("preparation", "callbacks", "optimizer", "backward", "forward"),
}
"""By rung of `gpuopt.measure.step_parts.LADDER`, what its step leaves out beside the loader."""


class ShortenedStep:
    """Makes the steps of a Trainer leave parts out.

    Args:
        trainer: In a fit.
        module: That it fits.
        stays: The callback that is called also where callbacks are left out.
        aside: Opened while callbacks are left out, for those that have changed the module.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        stays: L.Callback,
        aside: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._trainer: Any = trainer
        self._module: Any = module
        self._stays = stays
        self._aside = aside
        self._stack = contextlib.ExitStack()
        self._output: Any = None

    def leave_out(self, names: Collection[str]) -> None:
        """Leave out these, and nothing else, from the next step on.

        Args:
            names: Of `preparation`, `callbacks`, `optimizer`, `backward` and `forward`.
        """
        self.restore()
        put = self._put
        trainer, strategy = self._trainer, self._trainer.strategy
        if "preparation" in names:
            put(self._module, "_on_before_batch_transfer", lambda batch, dataloader_idx=0: batch)
            put(strategy, "batch_to_device", lambda batch, *args, **options: batch)
        if "callbacks" in names:
            self._stack.enter_context(self._aside())
            put(trainer, "callbacks", [self._stays])
            put(trainer, "_loggers", [DummyLogger()] if trainer.loggers else [])
        if "optimizer" in names:
            put(strategy, "optimizer_step", _only_closure)
        if "backward" in names:
            put(strategy, "backward", lambda loss, *args, **options: loss)
        if "forward" in names:
            put(strategy, "training_step", lambda *args, **options: self._output)
        else:
            put(strategy, "training_step", self._noting(strategy.training_step))

    def restore(self) -> None:
        """Leave nothing out any more."""
        self._stack.close()

    def _noting(self, training_step: Callable[..., Any]) -> Callable[..., Any]:
        """Keep what a step returns, for those that do not compute it."""

        def step(*args: Any, **options: Any) -> Any:
            output = training_step(*args, **options)
            if self._output is None:
                self._output = _without_graph(output)
            return output

        return step

    def _put(self, owner: Any, name: str, value: Any) -> None:
        self._stack.enter_context(_put(owner, name, value))


@contextlib.contextmanager
def _put(owner: Any, name: str, value: Any) -> Iterator[None]:
    had, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def _only_closure(optimizer: Any, closure: Any = None, *args: Any, **options: Any) -> Any:
    return None if closure is None else closure()


def _without_graph(output: Any) -> Any:
    with torch.no_grad():
        return detached(output)
