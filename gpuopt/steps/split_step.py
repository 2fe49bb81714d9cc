"""What the steps of training and evaluation share when a batch is split and tried again."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import lightning.pytorch as L

from gpuopt.errors import FaultError, InputError
from gpuopt.memory.device_errors import (
    free_memory,
    is_device_lost,
    is_exchange_out_of_memory,
    is_out_of_memory,
)
from gpuopt.steps.batch_parts import tensors_of
from gpuopt.steps.split_size import SplitSize

__all__ = ["Binding", "Observer", "check_unwritten", "is_fit_for", "smaller", "versions_of"]


class Observer(Protocol):
    """Who is told of what happens; `gpuopt.callbacks.split_steps.SplitSteps`."""

    def shrunk(self, phase: str, count: int, size: int) -> None:
        """Memory ran out in `phase` with `count` samples; `size` are tried next."""

    def is_split(self) -> None:
        """A training batch is taken in parts."""

    def grown(self, phase: str, size: int) -> None:
        """All went well for long; `size` samples are tried from now on."""

    def lost(self, names: list[str]) -> None:
        """These states could not be brought back to what they were before the failed attempt."""

    def give_up(self, phase: str, *, may_save: bool) -> FaultError:
        """A single sample does not fit; returns the error to raise."""


class Binding:
    """Puts functions in the place of a module's methods, and the methods back.

    The functions are attributes of the instance; they are no bound methods, which a copy of the
    module (as `WeightAveraging` makes) would copy with all that they refer to.
    """

    def __init__(self, module: L.LightningModule) -> None:
        self._module = module
        self._before: dict[str, Any] = {}

    def put(self, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
        """Replace a method.

        Args:
            name: Of the method.
            make: Takes the method and returns what is called instead.
        """
        method = getattr(self._module, name)
        self._before[name] = vars(self._module).get(name)
        replacement = functools.wraps(method)(make(method))
        # Lightning looks at the signature behind one decorator, the user's own perhaps.
        replacement.__wrapped__ = getattr(method, "__wrapped__", method)
        setattr(self._module, name, replacement)

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Let the module have its own methods for a while."""
        replacements = {name: vars(self._module)[name] for name in self._before}
        self._give_back()
        try:
            yield
        finally:
            for name, replacement in replacements.items():
                setattr(self._module, name, replacement)

    def undo(self) -> None:
        """Give all methods back."""
        self._give_back()
        self._before = {}

    def _give_back(self) -> None:
        for name, own in self._before.items():
            if own is None:
                delattr(self._module, name)
            else:
                setattr(self._module, name, own)


def is_fit_for(run: Callable[[], None]) -> bool:
    """Run, and tell whether the memory sufficed.

    When this has returned, the exception is gone, and with it the frames that held the tensors of
    the failed attempt; a retry inside of `except` would need the memory of both.

    Raises:
        FaultError: When the device or the ranks' exchange is lost, so that no retry can help.
    """
    try:
        run()
    except RuntimeError as error:
        if is_device_lost(error):
            first_line = str(error).partition("\n")[0]
            raise FaultError(
                f"the device is lost for this process ({first_line}): start again "
                "with resume=FOLDER"
            ) from error
        if is_exchange_out_of_memory(error):
            raise FaultError(
                "the device ran out of memory in an exchange between ranks, which one rank cannot "
                "repeat: resume with a smaller micro_batch_size"
            ) from error
        if not is_out_of_memory(error):
            raise
        return False
    return True


def smaller(sizes: SplitSize, observer: Observer, phase: str, size: int, *, may_save: bool) -> int:
    """Free memory and return the next size to try.

    Raises:
        FaultError: When a single sample has failed.
    """
    free_memory()
    if size <= 1:
        raise observer.give_up(phase, may_save=may_save)
    new = sizes.failed(size)
    observer.shrunk(phase, size, new)
    return new


def versions_of(batch: Any) -> list[int]:
    """Count the writes to a batch's tensors so far."""
    return [t._version for t in tensors_of(batch) if not t.is_inference()]


def check_unwritten(batch: Any, versions: list[int], hook: str) -> None:
    """Refuse a batch that the failed attempt has changed.

    Raises:
        InputError: When a tensor of the batch was written to.
    """
    if versions_of(batch) != versions:
        raise InputError(
            f"{hook} writes into its batch, so the batch cannot be tried again in smaller parts: "
            "let it work on a copy"
        )
