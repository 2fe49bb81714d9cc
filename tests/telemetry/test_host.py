"""Linux's files are written into a folder, and the meter is pointed there."""

import os

import pytest

import gpuopt.telemetry.host as host_module
from gpuopt.telemetry import HostMeter, HostReading

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Four processors, of which this process may use two; 8 GiB, of which 6 are free."""
    monkeypatch.setattr(host_module, "_own_cpus", lambda: {1, 3})
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "meminfo").write_text(
        f"MemTotal: {installed // 1024} kB\nMemFree: 1 kB\n"
        f"MemAvailable: {(installed - 2 * GIB) // 1024} kB\n"
    )
    return tmp_path


def ticks(machine, *busy_and_idle):
    rows = [f"cpu{n} {busy} 0 0 {idle} 0 0 0 0 0 0" for n, (busy, idle) in enumerate(busy_and_idle)]
    (machine / "stat").write_text("\n".join(["cpu 9 9 9 9 9 9 9 9 9 9", *rows, "intr 5"]))


def test_the_own_processors_are_measured_between_two_readings(machine):
    meter = HostMeter(machine, machine)
    ticks(machine, (0, 0), (10, 10), (0, 0), (0, 0))
    assert meter.read().cpu_ratio is None
    ticks(machine, (99, 0), (40, 80), (99, 0), (30, 70))
    assert meter.read().cpu_ratio == pytest.approx(60 / 200)
    assert meter.read().cpu_ratio is None  # no time has passed


def test_waiting_for_a_disk_is_idle_and_guests_count_once(machine):
    meter = HostMeter(machine, machine)
    (machine / "stat").write_text("cpu1 0 0 0 0 0 0 0 0 0 0\n")
    meter.read()
    (machine / "stat").write_text("cpu1 20 10 5 30 20 5 5 5 20 10\n")
    assert meter.read().cpu_ratio == pytest.approx(0.5)


@pytest.mark.parametrize("group", ["", "slice/job"])
@pytest.mark.parametrize(
    ("membership", "quota", "usage", "text"),
    [
        ("0::/", ("cpu.max", "150000 100000"), "cpu.stat", "usage_usec {}000000"),
        ("4:cpu:/", ("cpu.cfs_quota_us", "150000"), "cpuacct.usage", "{}000000000"),
    ],
)
def test_a_quota_is_measured_by_the_time_of_the_group_that_has_it(
    machine, membership, quota, usage, text, group
):
    is_second = membership.startswith("0")
    (machine / "membership").write_text(f"{membership}{group}\n")
    of_quota = machine / ("" if is_second else "cpu") / group
    of_usage = machine / ("" if is_second else "cpuacct") / group
    for folder in (of_quota, of_usage):
        folder.mkdir(parents=True, exist_ok=True)
    (of_quota / quota[0]).write_text(quota[1])
    (of_quota / "cpu.cfs_period_us").write_text("100000")
    if group:  # of all that runs on the machine
        (machine / usage).write_text(text.format(1000))
    moments = iter([10.0, 14.0])
    clock = lambda: next(moments)  # noqa: E731
    meter = HostMeter(machine, machine, clock, machine / "membership")
    (of_usage / usage).write_text(text.format(5))
    assert meter.read().cpu_ratio is None
    (of_usage / usage).write_text(text.format(8))
    assert meter.read().cpu_ratio == pytest.approx(3 / (4 * 1.5))


def test_memory_of_the_machine_leaves_out_what_can_be_had_at_once(machine):
    reading = HostMeter(machine, machine).read()
    assert reading.memory_used_bytes == pytest.approx(2 * GIB, abs=4096)
    assert reading.memory_total_bytes == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), abs=4096
    )


@pytest.mark.parametrize("group", ["", "slice/job"])
@pytest.mark.parametrize(
    ("membership", "limit", "usage", "key"),
    [
        ("0::/", "memory.max", "memory.current", "inactive_file"),
        ("4:memory:/", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_memory_is_that_of_the_group_whose_limit_is_smallest(
    machine, membership, limit, usage, key, group
):
    mount = machine / ("memory" if "memory" in membership else "")
    folder = mount / group
    folder.mkdir(parents=True, exist_ok=True)
    (machine / "membership").write_text(f"{membership}{group}\n")
    (mount / limit).write_text("9000000")
    (mount / usage).write_text("8000000")
    (folder / limit).write_text("1000000")
    (folder / usage).write_text("700000\n")
    (folder / "memory.stat").write_text(f"anon 1\n{key} 200000\n")
    meter = HostMeter(machine, machine, membership=machine / "membership")
    reading = meter.read()
    assert (reading.memory_used_bytes, reading.memory_total_bytes) == (500_000, 1_000_000)
    (folder / usage).unlink()
    assert meter.read() == HostReading(None, None, 1_000_000)


def test_a_system_without_these_files_says_nothing_but_its_size(tmp_path):
    reading = HostMeter(tmp_path, tmp_path).read()
    assert reading == HostReading(None, None, reading.memory_total_bytes)
    (tmp_path / "stat").write_text("cpu0 no number\n")
    (tmp_path / "meminfo").write_text("MemTotal:\nMemAvailable: much\n")
    assert HostMeter(tmp_path, tmp_path).read() == reading
