from gpuopt.profiling import trace_of
from gpuopt.profiling.memory_timeline import MemoryPoint, memory_timeline, thinned
from tests.profiling.events import memory, step


def test_the_devices_memory_is_followed_where_there_is_one():
    events = [step(1000, 2000), memory(1100, 8, 8), memory(1200, 64, 64, True, 512)]
    events += [memory(500, 1, 1, True), memory(2500, 1, 1, True)]
    assert memory_timeline(trace_of(events)) == [MemoryPoint(0.2, 64, 512)]


def test_the_hosts_is_followed_where_there_is_none():
    events = [step(1000, 2000), memory(1100, 8, 8), memory(1500, -8, 0)]
    assert [point.allocated_bytes for point in memory_timeline(trace_of(events))] == [8, 0]


def test_thinning_keeps_the_peak():
    points = [MemoryPoint(float(at), 5 if at != 737 else 900, 0) for at in range(1000)]
    kept = thinned(points, 20)
    assert len(kept) <= 21
    assert max(point.allocated_bytes for point in kept) == 900
    assert thinned(points[:5], 20) == points[:5]
