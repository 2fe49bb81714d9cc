import pytest
import torch

from gpuopt.memory.meter import MemoryReading, meter_of


def test_a_cpu_has_no_meter():
    assert meter_of(torch.device("cpu")) is None


@pytest.mark.parametrize(("limit", "available"), [(100, 70), (50, 50)])
def test_what_can_be_filled_is_what_is_held_and_what_is_free(limit, available):
    reading = MemoryReading(100, 30, 20, 40, 25, 40, limit)
    assert reading.available_bytes == available
    assert reading.elsewhere_bytes == 30


@pytest.mark.gpu
def test_a_cuda_meter_sees_peaks_retries_and_blocks():
    device = torch.device("cuda", 0)
    meter = meter_of(device)
    assert meter is not None
    before = meter.read()
    meter.start_peak()
    held = torch.empty(2**20, device=device)
    torch.empty(2**22, device=device)
    reading = meter.read()
    assert reading.allocated_bytes == before.allocated_bytes + 2**22
    assert reading.peak_bytes >= before.allocated_bytes + 2**22 + 2**24
    assert reading.reserved_bytes >= reading.allocated_bytes
    assert reading.limit_bytes <= reading.total_bytes
    assert meter.retries() >= 0
    (held.view(1024, 1024) @ held.view(1024, 1024)).sum().item()
    workspace = meter.workspace_bytes()
    assert workspace is not None
    assert workspace > 0
    assert meter.snapshot()["segments"]
