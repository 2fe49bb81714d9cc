from dataclasses import replace

from gpuopt.checks.subject import subjects
from gpuopt.hardware import AbsentGpu
from tests.checks.machines import CARD, DEVICE, EMPTY, MACHINE, preset, request

OTHER = replace(CARD, device=replace(DEVICE, index=1, name="NVIDIA H200", total_memory=150 * 10**9))
UNKNOWN = replace(CARD, device=replace(DEVICE, name="NVIDIA RTX 6100", total_memory=16 * 2**30))


def test_auto_is_every_card_that_is_here_as_its_preset():
    found = subjects(request(replace(MACHINE, cards=(CARD, OTHER))))
    assert [subject.preset for subject in found] == ["rtx3060", "h200"]
    assert [subject.card for subject in found] == [CARD, OTHER]
    assert not any(subject.is_named or subject.is_absent for subject in found)


def test_auto_without_a_card_is_the_processors():
    (subject,) = subjects(request(EMPTY))
    assert (subject.preset, subject.gpu.is_cpu, subject.is_absent) == ("cpu", True, False)


def test_a_named_card_is_absent_unless_it_is_here():
    (absent,) = subjects(request(MACHINE, gpu=preset("rtx4090")))
    assert (absent.preset, absent.is_absent, absent.is_named) == ("rtx4090", True, True)
    (here,) = subjects(request(MACHINE, gpu=preset("rtx3060")))
    assert (here.card, here.is_absent) == (CARD, False)
    # The driver calls both variants by one name; the memory tells them apart.
    (variant,) = subjects(request(MACHINE, gpu=preset("rtx3060_8gb")))
    assert variant.is_absent


def test_a_memory_alone_is_a_card_that_is_not_here_and_a_limit_is_a_cap_on_what_is():
    (memory,) = subjects(request(MACHINE, gpu=AbsentGpu(memory_gib=6)))
    assert (memory.preset, memory.is_absent) == ("6 GiB", True)
    (capped,) = subjects(request(MACHINE, gpu=AbsentGpu(memory_limit_mib=6144)))
    assert (capped.preset, capped.gpu.memory_limit_mib) == ("rtx3060", 6144)
    (limit,) = subjects(request(EMPTY, gpu=AbsentGpu(memory_limit_mib=6144)))
    assert limit.is_absent


def test_a_card_that_no_preset_knows_gets_its_own_profile():
    (subject,) = subjects(request(replace(MACHINE, cards=(UNKNOWN,))))
    assert (subject.preset, subject.gpu.precision) == ("NVIDIA RTX 6100", "bf16")


def test_the_processors_can_be_asked_for_on_a_machine_with_a_card():
    (subject,) = subjects(request(MACHINE, gpu=preset("cpu")))
    assert (subject.gpu.is_cpu, subject.card) == (True, None)
