"""Which lines of code make what stays in memory, and which containers hold it."""

import contextlib
import gc
import itertools
import linecache
import os
import sys
import sysconfig
import tracemalloc
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gpuopt.steps.storage_lines import StorageLines

__all__ = ["AllocationMark", "AllocationSite", "AllocationTrace", "GrowingContainer", "grown"]

_FRAMES = 24
_CUDA_EVENTS = 1  # of the history only what is alive counts, not what happened
_PACKAGE = str(Path(__file__).parents[1])
_LIBRARIES = tuple(dict.fromkeys([*sysconfig.get_paths().values(), "<frozen", "<string>", "<eval"]))
_LOOPS = f"lightning{os.sep}pytorch{os.sep}"
_TRACERS = (__file__, str(Path(__file__).with_name("storage_lines.py")), tracemalloc.__file__)
_NOT_THEIRS = (*_LIBRARIES, _PACKAGE)
_CONTAINERS = (list, dict, set, deque)
_LEAST_PER_STEP = 0.5
_MOST_SITES = 5
_MOST_NAMED = 10

Frame = tuple[str, int]
IntArray = npt.NDArray[np.int64]


class Made(NamedTuple):
    """What one line has made and what is still alive.

    Attributes:
        objects: Number of blocks.
        size_bytes: Of blocks and the tensors' storages.
    """

    objects: int
    size_bytes: int


@dataclass(frozen=True)
class AllocationMark:
    """What was alive at one moment.

    Attributes:
        made: By line.
        lengths: Of containers, [containers, 2] with their identities in rising order.
    """

    made: Mapping[Frame, Made]
    lengths: IntArray


@dataclass(frozen=True)
class AllocationSite:
    """A line whose objects stay.

    Attributes:
        place: File and line.
        code: The line itself.
        objects_per_step: How many more there are after each step.
        bytes_per_step: Of them.
    """

    place: str
    code: str
    objects_per_step: float
    bytes_per_step: float


@dataclass(frozen=True)
class GrowingContainer:
    """A list, dictionary or set that gets longer.

    Attributes:
        name: Such as `list Model.losses`.
        items_per_step: Items more after each step.
    """

    name: str
    items_per_step: float


class AllocationTrace:
    """Follows allocations while it is on, which makes training about half as fast.

    Args:
        device: Of the training.
        tensors: Whether to follow its tensors.
        host: Whether to follow what Python allocates.
    """

    def __init__(self, device: torch.device, *, tensors: bool, host: bool) -> None:
        self._on_cuda = tensors and device.type == "cuda"
        self._on_cpu = tensors and device.type != "cuda"
        self._host = host
        self._device = device
        self._was_tracing = tracemalloc.is_tracing()
        self._storages: Any = StorageLines(own_line)  # a mode: entering it is not typed
        self._mode = contextlib.ExitStack()
        self._record: Any = torch.cuda.memory._record_memory_history  # its signature is not typed

    def start(self) -> None:
        """Begin."""
        if self._host and not self._was_tracing:
            tracemalloc.start(_FRAMES)
        if self._on_cpu:
            self._mode.enter_context(self._storages)
        if self._on_cuda:
            self._record(
                enabled="state", context="state", stacks="python", max_entries=_CUDA_EVENTS
            )

    def stop(self) -> None:
        """End."""
        self._mode.close()
        if self._host and not self._was_tracing:
            tracemalloc.stop()
        if self._on_cuda:
            self._record(enabled=None)

    def mark(self) -> AllocationMark:
        """Note what is alive that was made since the beginning."""
        gc.collect()  # garbage is no leak
        gc.unfreeze()  # containers may be older than the watch
        made: dict[Frame, Made] = {}
        snapshot = tracemalloc.take_snapshot().statistics("traceback") if self._host else []
        for statistic in snapshot:
            frames = [(frame.filename, frame.lineno) for frame in reversed(statistic.traceback)]
            if not any(name.startswith(_TRACERS) for name, _ in frames):
                _add(made, own_line(frames), statistic.count, statistic.size)
        for frames, size_bytes in _cuda_blocks(self._device) if self._on_cuda else ():
            _add(made, own_line(frames), 1, size_bytes)
        for line, size_bytes in self._storages.alive():
            _add(made, line, 1, size_bytes)
        lengths = _lengths({id(self._storages.by_storage), id(made)})
        gc.freeze()
        return AllocationMark(made, lengths)


def grown(
    earlier: AllocationMark, later: AllocationMark, steps: int, least_bytes: float
) -> tuple[list[AllocationSite], list[GrowingContainer]]:
    """Compare two marks at the same moment of a step.

    Args:
        earlier: The first.
        later: The second, just taken: its containers are looked at.
        steps: Optimizer steps in between.
        least_bytes: Bytes of a step from which on a line counts; where none does, lines of
            somebody's own code count.

    Returns:
        At most five lines, and as many containers, those that grew most first.
    """
    sites = []
    for frame, now in later.made.items():
        before = earlier.made.get(frame, Made(0, 0))
        objects = (now.objects - before.objects) / steps
        size_bytes = (now.size_bytes - before.size_bytes) / steps
        if objects >= _LEAST_PER_STEP and size_bytes > 0:
            code = linecache.getline(*frame).strip()
            sites.append(AllocationSite(f"{frame[0]}:{frame[1]}", code, objects, size_bytes))
    sites.sort(key=lambda site: -site.bytes_per_step)
    large = [site for site in sites if site.bytes_per_step >= least_bytes]
    sites = large or [site for site in sites if not site.place.startswith(_NOT_THEIRS)]
    return sites[:_MOST_SITES], _grown_containers(earlier, later, steps)


def _grown_containers(
    earlier: AllocationMark, later: AllocationMark, steps: int
) -> list[GrowingContainer]:
    gc.unfreeze()
    known = {id(one): one for one in _containers()}
    keys, first, second = np.intersect1d(
        earlier.lengths[:, 0], later.lengths[:, 0], assume_unique=True, return_indices=True
    )
    items = later.lengths[second, 1] - earlier.lengths[first, 1]
    growth = {
        key: count / steps
        for key, count in zip(keys[items > 0].tolist(), items[items > 0].tolist(), strict=True)
        if key in known
    }
    found: list[GrowingContainer] = []
    # To find what holds one means to look at all objects: only a few are worth it.
    for key in sorted(growth, key=lambda key: -growth[key])[:_MOST_NAMED]:
        name = _name_of(known[key]) if growth[key] >= _LEAST_PER_STEP else None
        if name is not None:
            found.append(GrowingContainer(name, growth[key]))
    gc.freeze()
    return found[:_MOST_SITES]


def own_line(frames: Sequence[Frame]) -> Frame:
    """Choose the line that a person can do something about.

    Args:
        frames: Innermost first; at least one.

    Returns:
        The innermost line of what Lightning calls that is neither of a library nor of gpuopt;
        else of gpuopt, else the innermost of all.
    """
    called = list(itertools.takewhile(lambda frame: _LOOPS not in frame[0], frames))
    outside = [frame for frame in called if not frame[0].startswith(_LIBRARIES)]
    theirs = [frame for frame in outside if not frame[0].startswith(_PACKAGE)]
    return next(iter(theirs or outside or frames))


def _add(made: dict[Frame, Made], line: Frame, count: int, size_bytes: int) -> None:
    before = made.get(line, Made(0, 0))
    made[line] = Made(before.objects + count, before.size_bytes + size_bytes)


def _cuda_blocks(device: torch.device) -> Iterable[tuple[list[Frame], int]]:
    snapshot: Any = torch.cuda.memory._snapshot(device)
    for segment in snapshot["segments"]:
        for block in segment["blocks"]:
            if block["state"] == "active_allocated" and block.get("frames"):
                frames = [(frame["filename"], int(frame["line"])) for frame in block["frames"]]
                yield frames, int(block["size"])


def _lengths(left_out: set[int]) -> IntArray:
    """Note the lengths of all containers but our own, in few objects: these are traced as well."""
    found = _containers()
    columns = [np.fromiter(map(read, found), np.int64) for read in (id, len)]
    lengths: IntArray = np.stack(columns, axis=1)[np.argsort(columns[0])]
    kept: IntArray = lengths[~np.isin(lengths[:, 0], list(left_out))]
    return kept


def _containers() -> list[Any]:
    return [one for one in gc.get_objects() if type(one) in _CONTAINERS]


def _name_of(container: Any) -> str | None:
    """Find what a container is called; None for one that nobody's attribute or global is."""
    kind = type(container).__name__
    for holder in gc.get_referrers(container):
        if type(holder) is dict:
            keys = [key for key, value in holder.items() if value is container]
            if keys and "__name__" in holder and "__loader__" in holder:
                return f"{kind} {holder['__name__']}.{keys[0]}"
            owners = gc.get_referrers(holder) if keys else []
            owner = next((one for one in owners if _dict_of(one) is holder), None)
            if owner is not None:
                return f"{kind} {type(owner).__name__}.{keys[0]}"
        elif type(holder) is not type(sys._getframe()):
            values = _dict_of(holder) or {}
            keys = [key for key, value in values.items() if value is container]
            if keys:
                return f"{kind} {type(holder).__name__}.{keys[0]}"
    return None


def _dict_of(owner: Any) -> dict[str, Any] | None:
    if type(owner) in (dict, list, tuple, set):
        return None
    try:
        found = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return None
    return found if type(found) is dict else None
