"""What a view is, and how the mappings of a configuration become views. Imports no torch.

A view maps operations to values, applied in the order in which they are written:

    {}                                  the image as it is
    {rotate: 90}                        a quarter turn
    {rotate: 90, contrast: 1.15}        a quarter turn, then more contrast
    {brightness: 1.3, weight: 0.5}      counts half as much as a plain view

A JPEG round trip is left out on purpose: it only degrades an image, and on a device it would be
an imitation of a codec that no test image went through.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuopt.errors import InputError, nearest

__all__ = ["OPERATIONS", "Operation", "View", "parse_views"]

_MOST_VIEWS = 256
_LARGEST_WEIGHT = 1000.0


@dataclass(frozen=True)
class Operation:
    """What one operation accepts.

    Attributes:
        meaning: What its value stands for.
        low: Smallest value.
        high: Largest value.
        kind: `number`, `odd` (a whole odd number) or `flag` (only `true`).
    """

    meaning: str
    low: float = 0.0
    high: float = 0.0
    kind: str = "number"


OPERATIONS: Mapping[str, Operation] = {
    "rotate": Operation("degrees, counter-clockwise", -360, 360),
    "hflip": Operation("mirrored left to right", kind="flag"),
    "vflip": Operation("mirrored top to bottom", kind="flag"),
    "transpose": Operation("mirrored at the main diagonal", kind="flag"),
    "scale": Operation("size of the content; below 1 pads with white", 0.25, 4),
    "brightness": Operation("factor on every value", 0.1, 10),
    "contrast": Operation("factor on the distance to the image's mean grey", 0.1, 10),
    "gamma": Operation("exponent on values in 0..1; below 1 brightens", 0.1, 10),
    "equalize": Operation("share of the histogram-equalised image", 0.01, 1),
    "blur": Operation("standard deviation of a Gaussian in pixels", 0.1, 20),
    "motion_blur": Operation("length of a horizontal smear in pixels", 3, 51, kind="odd"),
    "sharpen": Operation("amount of unsharp masking", 0.01, 10),
    "noise": Operation("standard deviation of fixed noise, in steps of 255", 0.1, 128),
}


@dataclass(frozen=True)
class View:
    """One way of looking at an image.

    Attributes:
        operations: Pairs of an operation of `OPERATIONS` and its value, in order.
        weight: Share in the merge, relative to the other views.
    """

    operations: tuple[tuple[str, float], ...] = ()
    weight: float = 1.0

    @property
    def is_identity(self) -> bool:
        """Whether the view leaves the image as it is."""
        return not self.operations

    @property
    def name(self) -> str:
        """The view in words, such as `rotate 90 · contrast 1.15`."""
        words = [
            name if OPERATIONS[name].kind == "flag" else f"{name} {value:g}"
            for name, value in self.operations
        ]
        return " · ".join(words) or "identity"

    @property
    def mapping(self) -> dict[str, Any]:
        """The view as a configuration holds it; `parse_views` turns it back."""
        content: dict[str, Any] = {
            name: True if OPERATIONS[name].kind == "flag" else _plain_number(value)
            for name, value in self.operations
        }
        return content if self.weight == 1.0 else {**content, "weight": _plain_number(self.weight)}


def parse_views(mappings: Sequence[Mapping[str, Any]]) -> tuple[View, ...]:
    """Turn the views of a configuration into `View` objects.

    Args:
        mappings: One mapping per view, from operation to value, with an optional `weight`.

    Raises:
        InputError: For an unknown operation, a value that is not a number or not in range,
            two equal views, or no view at all. The message names the view by its index.
    """
    if isinstance(mappings, str | Mapping) or not isinstance(mappings, Sequence) or not mappings:
        raise InputError(
            f"tta.views must be a list of at least one view, not {mappings!r}; "
            "write [{}] for the image as it is"
        )
    if len(mappings) > _MOST_VIEWS:
        raise InputError(f"tta.views lists {len(mappings)} views; the most is {_MOST_VIEWS}")
    views = tuple(_parse_view(index, mapping) for index, mapping in enumerate(mappings))
    seen: dict[tuple[tuple[str, float], ...], int] = {}
    for index, view in enumerate(views):
        first = seen.setdefault(view.operations, index)
        if first != index:
            raise InputError(
                f"tta.views[{index}] repeats tta.views[{first}] ({view.name}); "
                "give one of them a weight instead"
            )
    return views


def _plain_number(value: float) -> int | float:
    """Return 90 for 90.0, as people write it."""
    return int(value) if value.is_integer() else value


def _parse_view(index: int, mapping: Any) -> View:
    where = f"tta.views[{index}]"
    if not isinstance(mapping, Mapping):
        raise InputError(
            f"{where} must map operations to values, as {{rotate: 90}}, not {mapping!r}"
        )
    operations: list[tuple[str, float]] = []
    weight = 1.0
    for name, value in mapping.items():
        if name == "weight":
            weight = _number(f"{where}.weight", value, 1e-3, _LARGEST_WEIGHT)
        elif name not in OPERATIONS:
            raise InputError(
                f"{where}: unknown operation {name!r}{nearest(str(name), OPERATIONS)}; "
                f"operations are {', '.join(OPERATIONS)}"
            )
        else:
            operations.append((name, _value(where, name, value)))
    return View(tuple(operations), weight)


def _value(where: str, name: str, value: Any) -> float:
    operation = OPERATIONS[name]
    where = f"{where}.{name}"
    if operation.kind == "flag":
        if value is not True:
            raise InputError(f"{where} is {operation.meaning}: it must be true, or left out")
        return 1.0
    number = _number(where, value, operation.low, operation.high, operation.meaning)
    if operation.kind == "odd" and number % 2 != 1:
        raise InputError(f"{where} must be an odd whole number of pixels, not {value!r}")
    return number


def _number(where: str, value: Any, low: float, high: float, meaning: str = "") -> float:
    wanted = f"a number from {low:g} to {high:g}" + (f" ({meaning})" if meaning else "")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where} must be {wanted}, not {value!r}")
    # Compared before float(): a Python int may be too large to become a float.
    if (isinstance(value, float) and not math.isfinite(value)) or not low <= value <= high:
        raise InputError(f"{where} must be {wanted}, not {value!r}")
    return float(value)
