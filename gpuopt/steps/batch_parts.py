"""Cut a batch of any shape into parts, and put the parts' outputs together again."""

import copy
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "cut",
    "detached",
    "join",
    "largest_part",
    "picked",
    "resized",
    "sample_count",
    "spans",
    "tensors_of",
]


def tensors_of(batch: Any) -> list[Tensor]:
    """List the tensors of nested mappings, sequences and dataclasses, in order."""
    found: list[Tensor] = []
    _collect(batch, found)
    return found


def sample_count(batch: Any) -> int:
    """Return the length of the first tensor that has one; 1 when there is none."""
    return next((len(tensor) for tensor in tensors_of(batch) if tensor.ndim), 1)


def spans(count: int, size: int) -> list[slice]:
    """Share `count` samples out to the fewest parts of at most `size`, as evenly as can be.

    Even parts need no more memory than the largest, and leave no single sample for a BatchNorm.
    """
    parts = max(1, -(-count // size))
    ends = [count * (part + 1) // parts for part in range(parts)]
    return [slice(first, end) for first, end in zip([0, *ends[:-1]], ends, strict=True)]


def largest_part(count: int, size: int) -> int:
    """Return how many samples the largest of `spans(count, size)` has, at most `size`."""
    return -(-count // max(1, -(-count // size)))


def cut(batch: Any, span: slice, count: int) -> Any:
    """Return some samples of a batch, as views.

    Tensors whose length is `count` are cut; all others belong to every sample.

    Args:
        batch: Nested mappings, sequences and dataclasses.
        span: Which samples.
        count: Samples of the whole batch.
    """

    def cut_leaf(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf[span] if leaf.ndim and len(leaf) == count else leaf
        is_column = isinstance(leaf, (list, tuple)) and len(leaf) == count
        return leaf[span] if is_column else leaf

    return _mapped(batch, cut_leaf)


def resized(batch: Any, samples: int, count: int, *, pins: bool = False) -> Any:
    """Return a batch of another size by repeating samples.

    Args:
        batch: Nested mappings, sequences and dataclasses.
        samples: Of the new batch.
        count: Of the old batch; what has that length is repeated or cut.
        pins: Whether to copy tensors to page-locked memory.
    """
    return picked(batch, [row % count for row in range(samples)], count, pins=pins)


def picked(batch: Any, rows: Sequence[int], count: int, *, pins: bool = False) -> Any:
    """Return copies of some samples of a batch, in any order.

    Args:
        batch: Nested mappings, sequences and dataclasses.
        rows: Which samples.
        count: Samples of the whole batch; what has that length is picked from.
        pins: Whether to copy tensors to page-locked memory.
    """

    def pick(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            new = leaf[torch.tensor(rows)] if leaf.ndim and len(leaf) == count else leaf
            return new.pin_memory() if pins else new
        is_column = isinstance(leaf, (list, tuple)) and len(leaf) == count
        return type(leaf)(leaf[row] for row in rows) if is_column else leaf

    return _mapped(batch, pick)


def detached(output: Any) -> Any:
    """Return an output whose tensors no longer hold the graph that they come from."""
    return _mapped(output, lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf)


def join(outputs: Sequence[Any], counts: Sequence[int]) -> Any:
    """Put the outputs of parts together as if they came from the whole batch.

    Tensors with a row per sample are concatenated, other floating ones averaged by samples;
    of everything else the last part's is taken.

    Args:
        outputs: One per part, of equal structure.
        counts: Samples of each part.
    """
    first = outputs[0]
    if isinstance(first, Tensor):
        return _joined_tensors(outputs, counts)
    if isinstance(first, Mapping):
        return {key: join([output[key] for output in outputs], counts) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(join(column, counts) for column in zip(*outputs, strict=True)))
    if _is_column(first):
        return [row for output in outputs for row in output]
    if isinstance(first, (list, tuple)):
        return type(first)(join(column, counts) for column in zip(*outputs, strict=True))
    return outputs[-1]


def _collect(value: Any, found: list[Tensor]) -> None:
    """Append the tensors of a nested value, which every step asks for; rebuilds nothing."""
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, found)
    elif isinstance(value, MutableMapping):
        for item in value.values():
            _collect(item, found)
    elif is_dataclass(value) and not isinstance(value, type):
        for name in (field.name for field in fields(value) if field.init):
            _collect(getattr(value, name), found)


def _joined_tensors(tensors: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    has_rows = all(t.ndim and len(t) == n for t, n in zip(tensors, counts, strict=True))
    if has_rows:
        return torch.cat(list(tensors))
    if not tensors[0].is_floating_point():
        return tensors[-1]
    total = sum(counts)
    parts = [t * (n / total) for t, n in zip(tensors, counts, strict=True)]
    return torch.stack(parts).sum(0)


def _is_column(value: Any) -> bool:
    """Tell a list of names or numbers, one per sample, from a list of fields."""
    return isinstance(value, (list, tuple)) and not any(
        isinstance(item, (Tensor, Mapping, list, tuple)) or is_dataclass(item) for item in value
    )


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Rebuild a nested value with every tensor, column and other leaf changed."""
    if isinstance(value, Tensor) or (_is_column(value) and not hasattr(value, "_fields")):
        return change(value)
    if isinstance(value, MutableMapping):
        changed = copy.copy(value)  # keeps classes whose fields are also attributes
        for key, item in value.items():
            changed[key] = _mapped(item, change)
        return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.init]
        return replace(value, **{name: _mapped(getattr(value, name), change) for name in names})
    return change(value)
