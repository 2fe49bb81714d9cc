"""Whether a backward pass adds to its window's gradients in place, or keeps its own apart."""

import contextlib
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import repeat

from torch import Tensor, nn

from gpuopt.memory.batch_dependence import depends_on_batch
from gpuopt.steps.gradients import add_gradients, drop_gradients
from gpuopt.steps.step_state import Generators

__all__ = ["Held", "WindowGradients"]


class Held:
    """The gradients of a window's earlier batches, while a backward pass runs.

    Args:
        parameters: That have them.
        in_place: Whether the pass adds to them; else they are set aside.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, in_place: bool) -> None:
        self._parameters = parameters
        self._complete: list[nn.Parameter] = []
        self._writes = _writes(parameters) if in_place else None
        self._taken = None if in_place else _taken(parameters)

    def part(self) -> None:
        """Set aside what there is after a pass that failed, where it added in place.

        What it has added stays; a repeated pass leaves those gradients alone.
        """
        if self._writes is None:
            return
        triples = zip(self._parameters, self._writes, _writes(self._parameters), strict=True)
        for parameter, (old, count), (new, new_count) in triples:
            if old is not new or count != new_count:
                self._complete.append(parameter)
        self._writes, self._taken = None, _taken(self._parameters)

    def join(self) -> None:
        """Add what the pass has given to what was set aside."""
        drop_gradients(self._complete)
        if self._taken is not None:
            add_gradients(self._parameters, self._taken)


class WindowGradients:
    """Knows what a backward pass that fails half-way leaves of a window's gradients.

    It has added to some of them. Where a sample's gradient does not depend on the samples beside
    it, these are complete, and only the others are computed again: the pass may add in place, as
    PyTorch does. With BatchNorm, dropout or random numbers in the step, smaller parts have other
    gradients than the whole, and must not be mixed with its. There a pass keeps its gradients
    apart until it has ended, so up to two sets are there.

    Args:
        module: Whose training step it is.
    """

    def __init__(self, module: nn.Module) -> None:
        self._depends = bool(depends_on_batch(module))
        self._draws: bool | None = None  # None until a pass has shown it
        self._adds_once: bool | None = None

    @property
    def adds_in_place(self) -> bool:
        """Whether a pass may; false until the first one has shown what it does."""
        return not self._depends and self._draws is False and self._adds_once is True

    def see_forward(self, before: Generators) -> None:
        """Look once whether a forward pass draws random numbers.

        Args:
            before: The generators before it.
        """
        if self._draws is None:
            self._draws = any(Generators.read(before.place).moved_since(before))

    def held(self, parameters: Sequence[nn.Parameter], *, apart: bool) -> Held:
        """Begin a pass.

        Args:
            parameters: With the gradients of the window so far.
            apart: Whether they are set aside in any case.
        """
        return Held(parameters, in_place=self.adds_in_place and not apart)

    @contextlib.contextmanager
    def watched(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Count in the first backward pass that ends how often it adds to each gradient.

        A reentrant checkpoint, or a `backward` of the module's own, may add several times; then a
        gradient that was added to need not be complete.
        """
        if self._adds_once is not None:
            yield
            return
        counts: Counter[int] = Counter()

        def count(parameter: Tensor) -> None:
            counts[id(parameter)] += 1

        handles = [
            parameter.register_post_accumulate_grad_hook(count)
            for parameter in parameters
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._adds_once = max(counts.values(), default=0) <= 1


def _taken(parameters: Sequence[nn.Parameter]) -> list[Tensor | None] | None:
    """Take the gradients; None in a window's first batch, where there are none to be put back."""
    gradients = [parameter.grad for parameter in parameters]
    if all(map(operator.is_, gradients, repeat(None))):
        return None
    drop_gradients(parameters)
    return gradients


def _writes(parameters: Sequence[nn.Parameter]) -> list[tuple[Tensor | None, int]]:
    """Return the gradients, and how often each was written to."""
    gradients = [parameter.grad for parameter in parameters]
    return [(g, -1 if g is None else g._version) for g in gradients]
