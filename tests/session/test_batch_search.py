from dataclasses import replace
from types import SimpleNamespace

import pytest

from gpuopt.callbacks import BatchSizeFinder
from gpuopt.choice import Choice
from gpuopt.hardware import Gpu
from gpuopt.session.batch_search import search_arguments, searching_where_asked, with_found
from gpuopt.session.plan import Plan

PREDICTED = Choice("micro_batch_size", 57, "predicted", "57 fit")
OTHER = Choice("num_workers", 2, "table", "decoded")


def plan(headroom_ratio=None):
    card = Gpu(name="card", memory_mib=8192, headroom_ratio=headroom_ratio)
    return Plan("cuda", card, "bf16", 224, 256, 57, 1, (PREDICTED, OTHER))


@pytest.mark.parametrize(
    ("micro", "enabled", "searches"), [("auto", True, True), (64, True, False), (64, False, False)]
)
def test_a_size_that_is_given_is_not_searched(micro, enabled, searches):
    nodes = {"batch_size_finder": {"enabled": enabled, "steps": 4}, "gpu_stats": {"enabled": True}}
    changed = searching_where_asked(nodes, micro)
    assert changed["batch_size_finder"] == {"enabled": searches, "steps": 4}
    assert changed["gpu_stats"] is nodes["gpu_stats"]
    assert nodes["batch_size_finder"]["enabled"] is enabled


@pytest.mark.parametrize(("of_card", "used"), [(None, 0.03), (0.09, 0.09), (0.0, 0.0)])
def test_the_headroom_is_the_dial_or_that_of_a_measurement(of_card, used):
    data = SimpleNamespace(micro_batch_size=57, sample_batch=None)
    arguments = search_arguments(plan(of_card), data)
    assert arguments["headroom_ratio"] == used
    arguments["set_batch_size"](40)
    assert data.micro_batch_size == 40


def test_the_search_is_for_the_largest_global_batch_of_all_epochs():
    data = SimpleNamespace(micro_batch_size=57, sample_batch=None)
    growing = replace(plan(), global_batch_changes={3: 1024, 6: 512})
    assert search_arguments(plan(), data)["global_batch_size"] == 256
    assert search_arguments(growing, data)["global_batch_size"] == 1024


def test_what_was_found_takes_the_place_of_what_was_predicted():
    finder = BatchSizeFinder()
    assert with_found(plan(), [finder]) == plan()
    finder.choice = Choice("micro_batch_size", 43, "measured", "in 4 probes: 49 fit")
    found = with_found(plan(), [object(), finder])
    assert found.micro_batch_size == 43
    assert found.choices == (finder.choice, OTHER)
    assert found.accumulate_grad_batches == 6
