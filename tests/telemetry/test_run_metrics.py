"""The metrics of a run are read while it writes them, from either logger."""

import logging
import time

import pytest
from torch.utils.tensorboard import SummaryWriter

from gpuopt.session.scalar_logs import ScalarCsv
from gpuopt.telemetry import RunMetrics

WAIT_S = 20.0


@pytest.fixture
def events(tmp_path):
    """Write events as a training does."""
    writers = []

    def write(folder="tensorboard", step=0, **scalars):
        writer = SummaryWriter(tmp_path / folder)
        writers.append(writer)
        for name, value in scalars.items():
            writer.add_scalar(name.replace("__", "/"), value, step)
        writer.flush()
        return writer

    yield write
    for writer in writers:
        writer.close()


def test_the_newest_value_of_each_metric_of_tensorboard(tmp_path, events):
    metrics = RunMetrics(tmp_path)
    metrics.look()
    assert metrics.latest() == {}
    writer = events(train__loss=2.0, val__f1=0.5)
    metrics.look()
    assert metrics.latest() == {"train/loss": 2.0, "val/f1": 0.5}
    writer.add_scalar("train/loss", 1.5, 1)
    writer.flush()
    metrics.look()
    assert metrics.latest() == {"train/loss": 1.5, "val/f1": 0.5}


def test_a_resumed_run_writes_a_second_file_of_events(tmp_path, events):
    events(train__loss=2.0)
    metrics = RunMetrics(tmp_path)
    metrics.look()
    events(train__loss=1.0, step=1)
    metrics.look()
    assert metrics.latest() == {"train/loss": 1.0}


def test_devices_and_pictures_are_left_out(tmp_path, events):
    writer = events(train__loss=2.0, gpu0__power_w=300.0, hp_metric=-1.0, nothing=float("nan"))
    writer.add_text("config", "seed: 0")
    writer.flush()
    metrics = RunMetrics(tmp_path)
    metrics.look()
    assert metrics.latest() == {"train/loss": 2.0}


def test_of_folds_the_one_that_is_trained_now(tmp_path, events):
    import os

    events("fold_0/tensorboard", train__loss=2.0, val__f1=0.5)
    metrics = RunMetrics(tmp_path)
    metrics.look()
    assert metrics.latest() == {"train/loss": 2.0, "val/f1": 0.5}
    (older,) = (tmp_path / "fold_0/tensorboard").iterdir()
    os.utime(older, (1, 1))
    events("fold_1/tensorboard", train__loss=3.0)
    metrics.look()
    assert metrics.latest() == {"train/loss": 3.0}


def test_the_csv_of_the_other_logger_also_when_it_is_written_anew(tmp_path):
    logger = ScalarCsv(tmp_path, name=None, version="csv")
    metrics = RunMetrics(tmp_path)

    def log(step, **values):
        logger.log_metrics(values, step=step)
        logger.save()
        metrics.look()

    log(0, loss=2.0)
    assert metrics.latest() == {"loss": 2.0, "step": 0.0}
    log(1, loss=1.0)
    assert metrics.latest() == {"loss": 1.0, "step": 1.0}
    log(2, loss=0.5, f1=0.25)  # a new column
    assert metrics.latest() == {"loss": 0.5, "f1": 0.25, "step": 2.0}


def test_a_half_written_row_waits_for_its_end(tmp_path):
    (tmp_path / "csv").mkdir()
    path = tmp_path / "csv/metrics.csv"
    metrics = RunMetrics(tmp_path)
    for content, expected in (
        ("loss", {}),
        ("loss,step\n1.5,", {}),
        ("loss,step\n1.5,7\n2.5", {"loss": 1.5, "step": 7.0}),
    ):
        path.write_text(content)
        metrics.look()
        assert metrics.latest() == expected


def test_a_damaged_file_is_one_warning_and_keeps_what_was_read(tmp_path, events, caplog):
    events(train__loss=2.0)
    metrics = RunMetrics(tmp_path)
    metrics.look()
    (tmp_path / "tensorboard/events.out.tfevents.9").mkdir()
    with caplog.at_level(logging.WARNING, "gpuopt"):
        metrics.look()
        metrics.look()
    assert metrics.latest() == {"train/loss": 2.0}
    assert caplog.text.count("metrics cannot be read") == 1


def test_a_file_of_nonsense_stops_nothing(tmp_path, events):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard/events.out.tfevents.0").write_bytes(bytes(range(256)) * 40)
    events(train__loss=2.0)
    metrics = RunMetrics(tmp_path)
    metrics.look()
    assert metrics.latest() == {"train/loss": 2.0}


def test_it_follows_in_a_thread_of_its_own(tmp_path, events):
    metrics = RunMetrics(tmp_path, 0.01)
    metrics.start()
    events(train__loss=2.0)
    deadline = time.monotonic() + WAIT_S
    while not metrics.latest():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    metrics.stop()
    assert metrics.latest() == {"train/loss": 2.0}
