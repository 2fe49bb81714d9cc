"""Predictions against what `benchmarks memory_peaks` has measured on a GPU."""

import json
from pathlib import Path

import pytest

from benchmarks.memory_cells import Cell, setup_of
from gpuopt.memory import predict_memory

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks/results").glob("memory_peaks_*.json"))
# What takes seconds to follow is left to the program; these are all levels of three networks.
NAMES = {
    "convnext_base 384 px": "convnext_base.fb_in22k_ft_in1k_384",
    "efficientnet_b3 300 px": "efficientnet_b3",
    "resnet50 224 px": "resnet50",
}


def measured(words):
    """Peaks by level of checkpointing and batch, of a network and size."""
    for path in RESULTS:
        for peak in json.loads(path.read_text())["details"]["peaks"]:
            if peak["model"].startswith(words):
                yield peak["level"], peak["samples"], peak["allocated_bytes"]


@pytest.mark.parametrize("words", NAMES)
def test_every_measured_peak_is_met_within_five_percent(words):
    peaks = list(measured(words))
    assert {level for level, _, _ in peaks} == {"none", "stages=2", "full"}
    size = int(words.split()[1])
    for level, samples, allocated_bytes in peaks:
        setup = setup_of(Cell(NAMES[words], size, level))
        predicted = predict_memory(setup).allocated_bytes(samples)
        assert predicted == pytest.approx(allocated_bytes, rel=0.05), (level, samples)
