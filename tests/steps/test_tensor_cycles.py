import gc

import pytest
import torch

from gpuopt.steps.tensor_cycles import CycleCatch


class Node:
    def __init__(self, tensor):
        self.tensor, self.around = tensor, self


@pytest.fixture(autouse=True)
def _as_before():
    yield
    assert gc.isenabled()
    assert gc.get_debug() == 0
    assert gc.garbage == []


def test_tensors_in_cycles_are_counted_per_step():
    catch = CycleCatch()
    catch.start()
    for _ in range(4):
        Node(torch.zeros(1000))
    found = catch.stop(steps=2)
    assert found.tensors_per_step == 2
    assert found.bytes_per_step == 8000
    assert "Node" in found.holders or "dict" in found.holders


def test_garbage_without_tensors_is_nobodys_business():
    catch = CycleCatch()
    catch.start()
    Node(None)
    torch.zeros(10)  # freed at once
    assert catch.stop(steps=1) is None
