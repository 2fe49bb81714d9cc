"""Predictions against what `benchmarks memory_peaks` has measured on a GPU."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks.memory_cells import MODELS, Cell, setup_of
from benchmarks.memory_peaks import OFFLOAD
from gpuopt.memory import predict_memory

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks/results").glob("memory_peaks_*.json"))
NAMES = {name.partition(".")[0]: name for name, _ in MODELS}


def measured():
    """Peaks by network and size: level of checkpointing, batch, bytes."""
    found = defaultdict(list)
    for path in RESULTS:
        for peak in json.loads(path.read_text())["details"]["peaks"]:
            name, size = peak["model"].split()[:2]
            cell = (peak["level"], peak["samples"], peak["allocated_bytes"])
            found[NAMES[name], int(size)].append(cell)
    return found


MEASURED = measured()


def test_there_is_something_to_compare():
    assert sum(map(len, MEASURED.values())) >= 38


@pytest.mark.parametrize(("name", "size"), MEASURED)
def test_every_measured_peak_is_met(name, size):
    for level, samples, allocated_bytes in MEASURED[name, size]:
        is_offloaded = level == OFFLOAD
        cell = Cell(name, size, "none" if is_offloaded else level, offload=is_offloaded)
        predicted = predict_memory(setup_of(cell)).allocated_bytes(samples)
        assert predicted == pytest.approx(allocated_bytes, rel=0.045), (level, samples)
