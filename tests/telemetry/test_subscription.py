import threading

import pytest

from gpuopt.telemetry import Sample, Subscription


def samples(count):
    return [Sample(float(number), number=number) for number in range(count)]


def test_samples_come_in_order_and_the_wait_ends():
    reader = Subscription(capacity=8)
    for sample in samples(2):
        reader.put(sample)
    assert [reader.get().number, reader.get(timeout_s=0).number] == [0, 1]
    assert reader.get(timeout_s=0) is None
    assert reader.get(timeout_s=0.001) is None
    assert not reader.is_ended


def test_a_reader_that_waits_is_woken_by_a_sample_and_by_the_end():
    reader, taken = Subscription(capacity=8), []
    thread = threading.Thread(target=lambda: taken.extend(reader))
    thread.start()
    for sample in samples(3):
        reader.put(sample)
    reader.end()
    thread.join(20.0)
    assert [sample.number for sample in taken] == [0, 1, 2]


def test_only_the_oldest_are_lost_and_they_are_counted():
    reader = Subscription(capacity=2)
    for sample in samples(5):
        reader.put(sample)
    assert reader.lost == 3
    assert [sample.number for sample in reader.take_all()] == [3, 4]
    assert reader.take_all() == []
    assert reader.lost == 3


def test_a_closed_reader_gets_nothing_and_waits_for_nothing():
    with Subscription(capacity=2) as reader:
        reader.put(Sample(0.0))
    reader.put(Sample(1.0))
    assert reader.is_ended
    assert reader.get() is None
    assert reader.lost == 0


def test_notice_is_given_of_every_sample_and_of_the_end():
    told = []
    reader = Subscription(capacity=2, notify=lambda: told.append(len(reader.take_all())))
    for sample in samples(3):
        reader.put(sample)
    reader.end()
    assert told == [1, 1, 1, 0]


def test_a_reader_whose_loop_is_gone_ends_by_itself():
    def notify():
        told.append(1)
        raise RuntimeError("Event loop is closed")

    told = []
    reader = Subscription(capacity=2, notify=notify)
    for sample in samples(2):
        reader.put(sample)
    assert reader.is_ended
    assert told == [1]


def test_a_queue_without_room_is_refused():
    with pytest.raises(ValueError, match="capacity=0"):
        Subscription(capacity=0)
