from gpuopt.profiling.synchronisations import wait_rows


def test_a_wait_is_named_with_the_operator_that_asks_for_it(device_trace):
    (row,) = wait_rows(device_trace)
    assert (row.name, row.operator) == ("cudaStreamSynchronize", "aten::_local_scalar_dense")
    assert (row.calls, row.host_ms) == (1, 0.182)


def test_the_profilers_own_wait_is_left_out(device_trace):
    assert "cudaDeviceSynchronize" in {call.name for call in device_trace.calls}
    assert "cudaDeviceSynchronize" not in {row.name for row in wait_rows(device_trace)}
