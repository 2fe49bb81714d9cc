"""Build a network whose parameters get their values from a file afterwards."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["WithoutValues"]


class WithoutValues(TorchFunctionMode):
    """A context in which parameters are made but not filled.

    Filling 88 million of them with random numbers, as ConvNeXt-Base does, takes three seconds that
    are lost where a checkpoint overwrites them all. Only writes to parameters in place are left
    out: buffers, which a checkpoint need not hold, are computed as always.

    Whoever builds in it has to load every parameter, as `load_state_dict` does when it is strict.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        arguments: tuple[Any, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, unless it writes to a parameter."""
        options = options or {}
        target = arguments[0] if arguments else options.get("tensor")
        if isinstance(target, nn.Parameter) and _writes(getattr(function, "__name__", "")):
            return target
        return function(*arguments, **options)


def _writes(name: str) -> bool:
    """Tell whether a function writes in place, by the name that torch gives such functions."""
    return name.endswith("_") and not name.endswith("__")
