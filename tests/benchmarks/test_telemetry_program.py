"""The program that times a training with and without samples beside it."""

import itertools
import threading

import pytest
import torch

from benchmarks import telemetry
from benchmarks.memory_cells import Cell, build
from benchmarks.one_batch_fit import ENDLESS, fit_one_batch
from benchmarks.telemetry import WITH, WITHOUT, Blocks, SampledOrNot, overhead_rows, reading_rows
from gpuopt.callbacks import GpuStats
from gpuopt.hardware import NullDevice
from gpuopt.measure import Instant
from gpuopt.measure.pairs import abba_orders

TINY = Cell("test_vit", 32, precision="fp32", device="cpu")
BLOCKS = Blocks(pairs=4, block_s=1e-9, interval_s=0.01)


def test_blocks_alternate_between_a_thread_that_reads_and_none(monkeypatch):
    seen, seconds = [], itertools.count(1.0)

    def mark(device):
        reads = any(thread.name == "gpuopt-telemetry" for thread in threading.enumerate())
        seen.append((reads, stats in model.trainer.callbacks))
        now_s = next(seconds)
        return Instant(lambda: now_s)

    monkeypatch.setattr(telemetry, "_mark", mark)
    model, stats = build(TINY, ENDLESS), GpuStats(BLOCKS.interval_s, forward_flops=1.0)
    timer = SampledOrNot(stats, BLOCKS)
    fit_one_batch(TINY, 4, [timer, stats], model)
    order = list(itertools.chain(*abba_orders((WITHOUT, WITH), 4)))
    assert seen == [(name == WITH,) * 2 for name in order for _ in range(2)]
    assert timer.step_s == {name: pytest.approx([1 / 3] * 4) for name in (WITHOUT, WITH)}


def test_the_goal_is_half_a_percent():
    quiet = [1.0, 1.0001, 0.9999, 1.0, 1.0001, 0.9999]
    for factor, verdict in ((1.001, "met"), (1.02, "missed")):
        (row,) = overhead_rows("net", quiet, [factor * step for step in quiet], BLOCKS)
        assert (row.verdict, row.value) == (verdict, pytest.approx(factor))


def test_the_first_reading_stands_by_itself():
    first, later = reading_rows([NullDevice()], "in a test")
    assert (first.measure, later.measure) == ("first reading", "reading, median")
    assert first.unit == later.unit == "ms"


def test_a_tiny_run_goes_through_without_a_gpu(tmp_path):
    path = telemetry.main(["--quick", "--output", str(tmp_path)])
    assert path.parent == tmp_path


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the GPU that it asks for")
def test_without_a_gpu_nothing_is_measured(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        telemetry.main(["--output", str(tmp_path)])
    assert stopped.value.code == 2
    assert "CUDA device" in capsys.readouterr().err
