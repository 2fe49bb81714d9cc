import pytest
import torch

from gpuopt.memory.probe_meter import probe_meter_of

MIB = 2**20


def test_a_cpu_has_no_meter():
    assert probe_meter_of(torch.device("cpu")) is None


@pytest.mark.gpu
def test_a_step_is_measured_and_cannot_take_more_than_is_free():
    device = torch.device("cuda", 0)
    meter = probe_meter_of(device)
    meter.start()
    before, resident = meter.capacity_bytes(), meter.resident_bytes()
    held = torch.empty(64 * MIB, dtype=torch.uint8, device=device)
    torch.empty(128 * MIB, dtype=torch.uint8, device=device)
    assert meter.resident_bytes() == resident + 64 * MIB
    assert meter.peak_bytes() >= 192 * MIB
    assert abs(meter.capacity_bytes() - before) <= 64 * MIB  # what is held counts as well
    del held
    meter.start()
    assert meter.peak_bytes() < 192 * MIB
    with meter.capped(), pytest.raises(torch.OutOfMemoryError):
        torch.empty(meter.capacity_bytes() + 64 * MIB, dtype=torch.uint8, device=device)
    first = meter.clock_s()
    assert meter.clock_s() >= first


@pytest.mark.gpu
def test_what_the_allocator_could_give_back_is_not_needed():
    def take(mib):
        return torch.empty(mib * MIB, dtype=torch.uint8, device="cuda")

    meter = probe_meter_of(torch.device("cuda", 0))
    meter.start()
    resident = meter.resident_bytes()
    first, held = take(256), take(64)
    del first  # stays in the cache, in one piece
    large = take(300)
    meter.note_fragments()
    assert meter.peak_bytes() < resident + (64 + 300 + 32) * MIB
    assert torch.cuda.max_memory_reserved() >= (256 + 64 + 300) * MIB
    assert meter.retries() >= 0
    del held, large
