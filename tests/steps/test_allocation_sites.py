import gc
import sysconfig
import tracemalloc
from collections import deque
from pathlib import Path

import pytest
import torch

import gpuopt
from gpuopt.steps.allocation_sites import AllocationTrace, grown, own_line

LIBRARY = f"{sysconfig.get_paths()['purelib']}/torch/nn/functional.py"
LOOP = f"{sysconfig.get_paths()['purelib']}/lightning/pytorch/loops/fit_loop.py"
OURS = str(Path(gpuopt.__file__).parent / "model/classifier.py")
KEPT: list[object] = []


class Holder:
    def __init__(self):
        self.queue = deque()
        self.names = {}


@pytest.fixture
def followed():
    """Follow some steps of a function; returns lines and containers."""

    def follow(step, *, tensors=False, host=False, least_bytes=1000, steps=5):
        trace = AllocationTrace(torch.device("cpu"), tensors=tensors, host=host)
        trace.start()
        try:
            step(0)
            earlier = trace.mark()
            for number in range(1, steps + 1):
                step(number)
            later = trace.mark()
        finally:
            trace.stop()
        return grown(earlier, later, steps, least_bytes)

    yield follow
    KEPT.clear()
    assert not tracemalloc.is_tracing()


def test_bytes_of_the_host(followed):
    sites, containers = followed(lambda number: KEPT.append(bytearray(5000)), host=True)
    assert sites[0].place.startswith(f"{__file__}:")
    assert "bytearray" in sites[0].code
    assert 5000 <= sites[0].bytes_per_step < 5500
    assert f"list {__name__}.KEPT" in [one.name for one in containers]


def test_tensors_on_the_cpu(followed):
    sites, _ = followed(lambda number: KEPT.append(torch.zeros(2500)), tensors=True)
    (site,) = sites
    assert site.objects_per_step == 1
    assert site.bytes_per_step == 10_000


def test_containers_of_an_object_are_named(followed):
    holder = Holder()

    def step(number):
        holder.queue.append(number)
        holder.names[number] = []
        holder.names[-1 - number] = []

    _, containers = followed(step)
    found = {one.name: one.items_per_step for one in containers}
    assert found["dict Holder.names"] == 2
    assert found["deque Holder.queue"] == 1


def test_what_is_freed_again_is_nothing(followed):
    sites, _ = followed(lambda number: (bytearray(5000), torch.zeros(1000)), tensors=True)
    assert sites == []


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([(LIBRARY, 1), ("/home/me/net.py", 7), (LOOP, 9), ("/home/me/main.py", 3)], 7),
        ([(LIBRARY, 1), (OURS, 5), (LOOP, 9), ("/home/me/main.py", 3)], 5),
        ([(OURS, 5), ("/home/me/net.py", 7), (LOOP, 9)], 7),
        ([(LIBRARY, 1), (LOOP, 9), ("/home/me/main.py", 3)], 1),
        ([("<frozen importlib>", 2)], 2),
    ],
)
def test_the_line_that_a_person_can_change(frames, expected):
    assert own_line(frames)[1] == expected


def test_what_a_mark_itself_holds_is_no_container_of_the_training():
    trace = AllocationTrace(torch.device("cpu"), tensors=False, host=True)
    trace.start()
    KEPT.append(bytearray(5000))
    mark = trace.mark()
    trace.stop()
    KEPT.clear()
    assert gc.is_tracked(mark.made)
    assert id(mark.made) not in mark.lengths[:, 0]
    assert id(KEPT) in mark.lengths[:, 0]
