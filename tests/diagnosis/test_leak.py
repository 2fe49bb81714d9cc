import pytest

from gpuopt.diagnosis.leak import LeakDiagnosis
from gpuopt.measure.memory_growth import Growth, MemorySeries
from gpuopt.steps.allocation_sites import AllocationSite, GrowingContainer
from gpuopt.steps.tensor_cycles import TensorCycles

MIB = 2**20
COUNT = 40


def diagnosis(*growth, sites=(), containers=(), cycles=None, free_bytes=None, count=COUNT):
    series = MemorySeries(
        time_s=[float(2 * i) for i in range(count)],
        tensors_bytes=[0.0] * count,
        host_bytes=[0.0] * count,
        steps=[10 * i for i in range(count)],
    )
    return LeakDiagnosis(series, growth, sites, containers, cycles, free_bytes or {})


def growth(kind="leak", mib_per_s=5.0):
    return Growth(kind, mib_per_s * MIB, 4.0 * MIB, 1e-9, mib_per_s * MIB / 5)


def test_no_leak():
    found = diagnosis()
    assert found.verdict == "No leak: memory came and went for 290 steps (58 s)."
    assert found.lines() == []
    assert found.as_dict()["growth"] == []


def test_too_few_readings_are_no_verdict():
    assert diagnosis(count=6).verdict.startswith("Too few steps")


def test_when_memory_will_be_gone():
    found = diagnosis(growth(), free_bytes={"leak": 3000 * MIB})
    assert found.verdict == (
        "Memory leaks: tensors that are never freed, 1 MiB a step, 5 MiB/s; out of memory in "
        "about 10 min 00 s (3000 steps)."
    )
    assert found.as_dict()["growth"][0]["out_of_memory"] == {"seconds": 600.0, "steps": 3000.0}


def test_a_forecast_needs_to_know_what_is_free():
    assert "out of memory" not in diagnosis(growth("host")).verdict
    assert diagnosis(growth("host")).forecast(growth("host")) is None
    gone = diagnosis(growth(), free_bytes={"leak": -5})
    assert gone.forecast(growth()).seconds == 0


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("leak", ".detach()"),
        ("fragmentation", "expandable_segments"),
        ("host", "longer"),
        ("loader", "dataset"),
    ],
)
def test_each_kind_has_a_remedy(kind, words):
    assert words in diagnosis(growth(kind)).lines()[0]


def test_lines_containers_and_cycles():
    found = diagnosis(
        growth(),
        sites=[AllocationSite("net.py:7", "self.kept.append(loss)", 1.0, 2 * MIB)],
        containers=[GrowingContainer("list Net.kept", 1.0)],
        cycles=TensorCycles(3.0, 5 * MIB, ("Node",)),
    )
    lines = found.lines()
    assert "net.py:7: 1 objects of 2 MiB stay after each step: self.kept.append(loss)" in lines
    assert "list Net.kept gets 1 longer each step" in lines
    assert any(line.startswith("reference cycles hold 3 tensors of 5 MiB") for line in lines)
    assert any("no line of Python" in line for line in diagnosis(growth()).lines())
    assert len(diagnosis(growth("loader")).lines()) == 1  # where none is looked for


def test_small_cycles_are_not_worth_a_line():
    assert diagnosis(cycles=TensorCycles(1.0, 1000, ("list",))).lines() == []
