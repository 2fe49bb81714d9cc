import random

import pytest

from gpuopt.profiling import trace_of
from gpuopt.profiling.shares import phase_times, step_shares
from tests.profiling.events import call, copy, kernel, operator, phase, step


def test_every_gap_of_the_device_has_its_cause(device_trace):
    shares = {share.name: share for share in step_shares(device_trace)}
    of_two_steps = {name: round(2000 * share.ms, 6) for name, share in shares.items()}
    assert of_two_steps == {
        "kernels": 390 + 98 + 100 + 100 + 800,
        "copies": 50,
        "between kernels": 2,
        "synchronisations": 150,
        "data": 150,
        "launch gaps": 10 + 50 + 100,
    }
    assert sum(share.ratio for share in shares.values()) == pytest.approx(1)
    assert next(iter(shares)) == "kernels"


def test_without_a_device_it_is_the_hosts_time(host_trace):
    shares = {share.name: round(1000 * share.ms) for share in step_shares(host_trace)}
    assert shares == {"operators": 700, "data": 200, "host code": 100}


def test_the_largest_share_comes_first():
    events = [step(0, 1000), phase("data", 0, 900), operator("aten::add", 900, 1000)]
    assert step_shares(trace_of(events))[0].name == "data"


def test_random_traces_are_divided_without_a_rest():
    generator = random.Random(0)
    for _ in range(100):
        events, at = [step(0, 400), step(400, 1000)], 0
        for number in range(generator.randint(1, 60)):
            launch = at + generator.randint(0, 6)
            name = generator.choice(["cudaLaunchKernel", "cudaStreamSynchronize"])
            end = launch + generator.randint(1, 5)
            events.append(call(name, launch, end, number))
            start = end + generator.randint(0, 30)
            make = generator.choice([lambda s, e, n: kernel("k", s, e, n), copy])
            events.append(make(start, start + generator.randint(1, 20), number))
            if generator.random() < 0.2:
                events.append(phase("data", at, launch))
            at = end
        events.append(kernel("last", 990, 995, 1000))
        generator.shuffle(events)
        trace = trace_of(events)
        shares = step_shares(trace)
        assert sum(share.ratio for share in shares) == pytest.approx(1)
        assert all(share.ms >= 0 for share in shares)
        kernels = {t for k in trace.kernels for t in range(int(k.start_us), int(k.end_us))}
        busy = {t for k in trace.copies for t in range(int(k.start_us), int(k.end_us))} | kernels
        found = {share.name: 2000 * share.ms for share in shares}
        assert found["kernels"] == pytest.approx(len(kernels & set(range(1000))))
        assert found["copies"] == pytest.approx(len((busy - kernels) & set(range(1000))))


def test_phases_tell_the_hosts_time_and_what_the_device_was_given(device_trace, host_trace):
    host = {p.name: (round(1000 * p.host_ms), p.device_ms) for p in phase_times(host_trace)}
    assert host == {
        "data": (200, None),
        "forward": (400, None),
        "backward": (300, None),
        "optimizer": (100, None),
    }
    device = {p.name: round(2000 * p.device_ms) for p in phase_times(device_trace)}
    assert device == {
        "data": 0,
        "forward": 390 + 98 + 100 + 100,
        "backward": 100,
        "optimizer": 800,
    }


def test_a_call_may_start_many_kernels():
    events = [step(0, 100), phase("forward", 0, 100), call("cudaGraphLaunch", 1, 2, 1)]
    events += [kernel("k", 10, 30, 1), kernel("k", 40, 60, 1)]
    times = {time.name: 1000 * time.device_ms for time in phase_times(trace_of(events))}
    assert times["forward"] == pytest.approx(40)


def test_without_marks_there_are_no_phases():
    assert phase_times(trace_of([step(0, 10), operator("aten::add", 0, 5)])) == []
