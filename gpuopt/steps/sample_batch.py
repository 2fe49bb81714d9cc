"""A few samples of somebody's loader as a batch, without an iteration of the loader."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from gpuopt.errors import InputError
from gpuopt.steps.batch_parts import sample_count

__all__ = ["data_objects", "sample_batch"]

# Few, and no length that images or class lists have: what has it is taken for a row per sample.
_SAMPLES = 7


def sample_batch(loaders: Any) -> tuple[Any, int]:
    """Return a batch and its number of samples.

    Args:
        loaders: A loader, or mappings and sequences of loaders as Lightning takes them.

    Raises:
        InputError: When reading would use up what the training is to read.
    """
    if isinstance(loaders, DataLoader):
        return _of_dataset(loaders)
    if isinstance(loaders, Mapping):
        batches = {name: sample_batch(loader) for name, loader in loaders.items()}
        return {name: batch for name, (batch, _) in batches.items()}, _common(batches.values())
    if isinstance(loaders, (list, tuple)) and all(isinstance(x, DataLoader) for x in loaders):
        parts = [sample_batch(loader) for loader in loaders]
        return [batch for batch, _ in parts], _common(parts)
    batches = iter(loaders)
    if batches is loaders:
        raise InputError(
            f"BatchSizeFinder: {type(loaders).__name__} can be read only once, so no batch can be "
            "taken from it before the training: give sample_batch"
        )
    batch = next(batches)
    return batch, sample_count(batch)


def data_objects(loaders: Any) -> list[Any]:
    """List the objects around a loader that may keep a state: data sets, samplers, themselves."""
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, (list, tuple)):
        return [found for loader in loaders for found in data_objects(loader)]
    found = [loaders]
    for name in ("dataset", "sampler", "batch_sampler"):
        inner = getattr(loaders, name, None)
        while inner is not None and all(inner is not known for known in found):
            found.append(inner)
            inner = getattr(inner, "dataset", None) or getattr(inner, "sampler", None)
    return found


def _of_dataset(loader: DataLoader[Any]) -> tuple[Any, int]:
    dataset: Any = loader.dataset
    has_batches = loader.batch_sampler is None  # each item is a batch already
    wanted = 1 if has_batches else _SAMPLES
    if isinstance(dataset, IterableDataset):
        items = list(itertools.islice(iter(dataset), wanted))
    else:
        items = [dataset[row] for row in range(min(wanted, len(dataset)))]
    if not items:
        raise InputError("BatchSizeFinder: the training data is empty: give sample_batch")
    batch = loader.collate_fn(items[0] if has_batches else items)
    return batch, sample_count(batch) if has_batches else len(items)


def _common(parts: Iterable[tuple[Any, int]]) -> int:
    counts = {count for _, count in parts}
    if len(counts) != 1:
        raise InputError("BatchSizeFinder: the loaders have too few samples: give sample_batch")
    return counts.pop()
