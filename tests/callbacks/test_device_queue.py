import pytest
import torch

from gpuopt.callbacks.device_queue import CudaInstant, HostCopy

_SLEEP_CYCLES = 200_000_000  # about 0.1 s


@pytest.fixture
def cuda():
    return torch.device("cuda", torch.cuda.current_device())


def test_on_a_cpu_a_copy_is_ready_and_keeps_its_number():
    loss = torch.tensor([0.25], requires_grad=True)
    copy = HostCopy(loss)
    loss.data.fill_(9.0)
    assert copy.is_ready()
    assert copy.value() == 0.25


@pytest.mark.gpu
def test_a_copy_does_not_wait_for_the_device_and_keeps_its_number(cuda):
    loss = torch.full((), 0.25, device=cuda)
    HostCopy(loss).value()  # allocates page-locked memory, which waits
    torch.cuda._sleep(_SLEEP_CYCLES)
    copy = HostCopy(loss)
    loss.fill_(9.0)
    assert not copy.is_ready()
    assert copy.value() == 0.25
    assert copy.is_ready()


@pytest.mark.gpu
def test_marks_measure_the_devices_time_without_waiting(cuda):
    began = CudaInstant(cuda)
    torch.cuda._sleep(_SLEEP_CYCLES)
    ended = CudaInstant(cuda)
    assert not ended.is_reached()
    assert 0.01 < ended.seconds_since(began) < 10
    assert ended.is_reached()
