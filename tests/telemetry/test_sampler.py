"""One thread for all readers: none can hold it up, nothing that fails in it reaches them."""

import logging
import subprocess
import sys
import threading

import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import DeviceReading, NullDevice
from gpuopt.telemetry import HostReading, Sampler

WAIT_S = 20.0


class Card:
    """Answers from a list, then for ever with its last answer; an exception is raised."""

    def __init__(self, *answers, index=0):
        self.index = index
        self.answers = list(answers) or [{"power_w": 100.0}]
        self.reads = 0

    def read(self):
        answer = self.answers[min(self.reads, len(self.answers) - 1)]
        self.reads += 1
        if isinstance(answer, Exception):
            raise answer
        return DeviceReading(index=self.index, **answer)


def sampler_of(*cards, interval_s=0.005, **options):
    return Sampler(cards, interval_s, **{"read_host": HostReading, **options})


def stepping():
    """A clock that is moved by hand."""
    now = [0.0]
    return now, lambda: now[0]


def warnings_in(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_every_sample_reaches_every_reader_in_order():
    with sampler_of(Card()) as sampler:
        readers = [sampler.subscribe() for _ in range(200)]
        begun = readers[0].get(WAIT_S).number
        while sampler.latest().number < begun + 20:
            assert readers[1].get(WAIT_S) is not None
    last = sampler.latest().number
    for reader in readers[2:]:
        numbers = [sample.number for sample in reader]
        assert numbers == list(range(numbers[0], last + 1))
        assert reader.lost == 0


def test_a_reader_that_stalls_loses_its_oldest_and_the_others_none():
    sampler = sampler_of(Card())
    stalled, quick = sampler.subscribe(capacity=3), sampler.subscribe()
    for _ in range(10):
        sampler.take()
    sampler.stop()
    assert stalled.lost == 7
    assert [sample.number for sample in stalled] == [7, 8, 9]
    assert [sample.number for sample in quick] == list(range(10))
    assert quick.lost == 0


def test_the_thread_starts_at_once_and_ends_with_a_last_sample():
    sampler = sampler_of(Card(), interval_s=3600.0)
    reader = sampler.subscribe()
    with sampler:
        assert sampler.is_running
        assert reader.get(WAIT_S).number == 0
        assert sampler.is_running
    assert not sampler.is_running
    assert [sample.number for sample in reader] == [1]
    assert reader.is_ended
    sampler.stop()
    with pytest.raises(RuntimeError, match="only once"):
        sampler.start()


def test_who_comes_after_the_end_is_not_left_waiting():
    sampler = sampler_of(Card())
    sampler.stop()
    late = sampler.subscribe()
    assert late.is_ended
    assert late.get() is None


def test_the_history_is_bounded_and_the_newest_is_last():
    sampler = sampler_of(Card(), history=4)
    assert sampler.latest() is None
    for _ in range(6):
        taken = sampler.take()
    assert [sample.number for sample in sampler.history()] == [2, 3, 4, 5]
    assert sampler.latest() is taken


def test_a_device_that_raises_has_no_values_and_is_reported_once(caplog):
    broken = Card(OSError("no\nsuch device"), {"power_w": 9.0}, OSError("again"), index=1)
    sampler = sampler_of(Card(), broken)
    samples = [sampler.take() for _ in range(4)]
    assert [s.devices[0].power_w for s in samples] == [100.0] * 4
    assert [s.devices[1].power_w for s in samples] == [None, 9.0, None, None]
    assert [s.devices[1].index for s in samples] == [1] * 4
    assert warnings_in(caplog) == ["GPU 1 cannot be read: no such device"]


def test_a_host_and_a_run_that_fail_are_reported_once_and_the_devices_stay(caplog):
    def fail():
        raise RuntimeError

    sampler = sampler_of(Card(), read_host=fail, training=fail)
    assert sampler.take() != sampler.take()
    assert sampler.latest().devices[0].power_w == 100.0
    assert sampler.latest().host == HostReading()
    assert warnings_in(caplog) == [
        "the machine cannot be read: RuntimeError",
        "the run's metrics cannot be read: RuntimeError",
    ]


def test_a_thread_that_dies_ends_its_readers_with_one_warning(caplog):
    sampler = sampler_of(Card(), clock=iter([0.0]).__next__)  # there is no second moment
    reader = sampler.subscribe()
    with sampler:
        assert reader.get(WAIT_S) is None
        assert reader.is_ended
    assert len(warnings_in(caplog)) == 1
    assert "telemetry has ended: StopIteration" in warnings_in(caplog)[0]


def test_a_driver_that_hangs_holds_nobody_up():
    release, entered = threading.Event(), threading.Event()

    class Hanging(Card):
        def read(self):
            entered.set()
            release.wait(WAIT_S)
            return super().read()

    sampler = sampler_of(Hanging())
    reader = sampler.subscribe()
    sampler.start()
    assert entered.wait(WAIT_S)
    sampler.stop(timeout_s=0.01)
    assert sampler.is_running
    assert reader.get() is None
    release.set()
    sampler.stop(WAIT_S)
    assert not sampler.is_running


def test_beats_that_are_missed_are_left_out_and_the_rhythm_stays():
    now, clock = stepping()
    begun, waits = [], []

    class Slow(Card):
        def read(self):
            begun.append(now[0])
            now[0] += [0.1, 2.5, 0.1, 0.1][min(self.reads, 3)]
            return super().read()

    sampler = sampler_of(Slow(), interval_s=1.0, clock=clock)

    def wait(seconds):
        waits.append(seconds)
        now[0] += seconds
        if len(waits) == 4:
            sampler._stopping.set()

    sampler._stopping.wait = wait
    sampler._run()
    assert begun == pytest.approx([0.0, 1.0, 4.0, 5.0, 6.0])


def test_energy_and_throttling_are_added_up_from_sample_to_sample():
    now, clock = stepping()
    first = {"energy_j": 1000.0, "throttle_reasons": ["power_cap"]}
    second = {"energy_j": 1300.0, "throttle_reasons": ["power_cap"]}
    sampler = sampler_of(Card(first, second), Card({}, index=3), clock=clock)
    assert sampler.take().used_j == {}
    now[0] = 2.0
    sample = sampler.take()
    assert sample.used_j == {0: 300.0}
    assert sample.throttled_s == {0: {"power_cap": 2.0}, 3: {}}
    assert sampler.used_j_between(0, 0.5, 1.5) == pytest.approx(150.0)
    assert sampler.used_j_between(0, 1.5, 2.5) is None
    assert sampler.used_j_between(3, 0.5, 1.5) is None
    assert sampler.used_j_between(7, 0.5, 1.5) is None


def test_a_runs_metrics_stand_in_the_sample():
    metrics = {"loss": 0.5}
    sampler = sampler_of(training=lambda: metrics)
    sample = sampler.take()
    metrics["loss"] = 0.1
    assert sample.training == {"loss": 0.5}


@pytest.mark.parametrize("interval_s", [0.0, -1.0, float("nan"), float("inf")])
def test_an_interval_that_is_none_is_refused(interval_s):
    with pytest.raises(InputError, match=r"interval_s=.*: must be a number of seconds above 0"):
        Sampler([], interval_s)


def test_a_machine_without_a_gpu_gives_its_host_without_torch():
    code = (
        "import sys; from gpuopt.telemetry import Sampler; from gpuopt.hardware import NullDevice\n"
        "sample = Sampler([NullDevice()]).take()\n"
        "assert sample.host.memory_total_bytes > sample.host.memory_used_bytes > 0\n"
        "assert sample.devices[0].name == 'cpu' and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_read_before_it_starts():
    card = Card()
    sampler = Sampler([card, NullDevice(index=1)])
    assert not sampler.is_running
    assert card.reads == 0
