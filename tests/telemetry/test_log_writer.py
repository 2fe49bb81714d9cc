"""The thread that writes a log misses no sample."""

import threading

from gpuopt.telemetry import HostReading, JsonlLog, LogWriter, Sampler, Subscription
from gpuopt.telemetry.replay import read_log
from tests.telemetry.samples import sample


def test_every_sample_until_the_end_is_in_the_log(tmp_path):
    sampler = Sampler([], 0.005, read_host=HostReading)
    writer = LogWriter(tmp_path / "log.jsonl", sampler.subscribe())
    with sampler:
        while len(sampler.history()) < 10:
            threading.Event().wait(0.005)
    writer.finish()
    numbers = [taken.number for taken in read_log(tmp_path / "log.jsonl")]
    assert numbers == list(range(sampler.latest().number + 1))
    assert (writer.lost, writer.log.written) == (0, len(numbers))


def test_what_a_disk_that_hangs_has_not_taken_counts_as_lost(tmp_path, monkeypatch):
    hanging, going_on = threading.Event(), threading.Event()

    def write(log, taken):
        hanging.set()
        going_on.wait(30)

    monkeypatch.setattr(JsonlLog, "write", write)
    subscription = Subscription(capacity=5)
    writer = LogWriter(tmp_path / "log.jsonl", subscription)
    for number in range(3):
        subscription.put(sample(number))
    subscription.end()
    assert hanging.wait(30)
    writer.finish(timeout_s=0.01)
    assert writer.lost == 3
    going_on.set()
    writer.finish()


def test_samples_that_came_faster_than_the_disk_are_counted_as_lost(tmp_path):
    subscription = Subscription(capacity=2)
    for number in range(5):
        subscription.put(sample(number))
    subscription.end()
    writer = LogWriter(tmp_path / "log.jsonl", subscription)
    writer.finish()
    assert (writer.log.written, writer.lost) == (2, 3)
