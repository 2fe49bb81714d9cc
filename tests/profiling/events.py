"""Events made by hand, as `torch.profiler` writes them."""


def span(kind, name, start, end, thread=1, **arguments):
    return {
        "ph": "X",
        "cat": kind,
        "name": name,
        "ts": start,
        "dur": end - start,
        "tid": thread,
        "args": arguments,
    }


def step(start, end, number=0):
    return span("user_annotation", f"ProfilerStep#{number}", start, end)


def phase(name, start, end):
    return span("user_annotation", f"gpuopt: {name}", start, end)


def operator(name, start, end, link=None, thread=1, shapes=None):
    arguments = {"External id": link} if link is not None else {}
    arguments |= {"Input Dims": shapes} if shapes else {}
    return span("cpu_op", name, start, end, thread, **arguments)


def call(name, start, end, correlation=None, link=None):
    arguments = {"correlation": correlation, "External id": link}
    return span("cuda_runtime", name, start, end, **arguments)


def kernel(name, start, end, correlation=None, link=None, device=0):
    arguments = {"correlation": correlation, "External id": link, "device": device, "stream": 7}
    return span("kernel", name, start, end, thread=7, **arguments)


def copy(start, end, correlation=None, size=1024, name="Memcpy HtoD (Pageable -> Device)"):
    arguments = {"correlation": correlation, "device": 0, "bytes": size}
    return span("gpu_memcpy", name, start, end, thread=7, **arguments)


def memory(at, size, allocated, on_device=False, reserved=0):
    arguments = {
        "Bytes": size,
        "Total Allocated": allocated,
        "Total Reserved": reserved,
        "Device Type": 1 if on_device else 0,
    }
    event = {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "ts": at, "tid": 1}
    return {**event, "args": arguments}


def on_device():
    """Two steps of 1 ms; what the device did, and why it was idle, is written beside each event."""
    return [
        step(1000, 2000, 5),
        step(2000, 3000, 6),
        call("cudaLaunchKernel", 1000, 1010, 1, link=11),  # 10 µs late: a launch gap
        kernel("first", 1010, 1400, 1, link=11),
        call("cudaLaunchKernel", 1012, 1020, 2, link=12),
        kernel("second", 1402, 1500, 2, link=12),  # launched long before: 2 µs between kernels
        call("cudaMemcpyAsync", 1450, 1460, 3),
        copy(1500, 1600, 3),  # 50 µs alone
        call("cudaLaunchKernel", 1461, 1470, 4, link=12),
        kernel("second", 1550, 1650, 4, link=12),
        call("cudaStreamSynchronize", 1470, 1652, link=13),
        call("cudaLaunchKernel", 1700, 1710, 5, link=11),
        kernel("first", 1800, 1900, 5, link=11),  # 150 µs after the host had waited
        phase("data", 1900, 2050),  # 150 µs for the next batch
        call("cudaLaunchKernel", 2060, 2070, 6, link=11),
        kernel("first", 2100, 2900, 6, link=11),  # and 50 µs more: a launch gap, as the end is
        phase("forward", 1000, 1600),
        phase("backward", 1600, 1900),
        phase("optimizer", 2050, 2950),
        phase("profiler", 2950, 3000),
        call("cudaDeviceSynchronize", 2950, 2999),
        operator("aten::conv", 1000, 1100, link=11),
        operator("aten::copy_", 1440, 1471, link=12),
        operator("aten::_local_scalar_dense", 1470, 1652, link=13),
    ]


def on_host():
    """One step of 1 ms on the host: 700 µs in operators, 200 in data, 100 outside."""
    return [
        step(0, 1000),
        phase("data", 0, 200),
        operator("aten::stack", 50, 150),  # the loader's own operators are data
        phase("forward", 200, 600),
        operator("aten::conv", 250, 600, shapes=[[8, 3], []]),
        operator("aten::mkldnn_conv", 300, 500),
        phase("backward", 600, 900),
        operator("aten::conv_backward", 600, 900),
        phase("optimizer", 900, 1000),
        operator("aten::add_", 950, 1000),
    ]
