"""Traces made by hand."""

import pytest

from gpuopt.profiling import trace_of
from tests.profiling.events import on_device, on_host


@pytest.fixture
def device_trace():
    return trace_of(on_device())


@pytest.fixture
def host_trace():
    return trace_of(on_host())
