import json

import pytest

from gpuopt.profiling import profile_of, trace_of
from tests.profiling.events import call, kernel, memory, on_host, operator, phase, step


def test_the_headline_names_the_operator_that_took_most(device_trace, host_trace):
    assert profile_of(device_trace).headline() == (
        "A step takes 1 ms: aten::conv takes 0.645 ms of it (64%)."
    )
    assert profile_of(host_trace).headline() == (
        "A step takes 1 ms: aten::conv_backward takes 0.3 ms of it (30%)."
    )


WAITING = [phase("data", 0, 60_000), operator("aten::mm", 60_000, 100_000)]
SLOW_HOST = [
    event
    for at in range(0, 100_000, 10_000)
    for event in (
        call("cudaLaunchKernel", at, at + 9000, at),
        kernel("k", at + 9000, at + 10_000, at),
    )
]
DRAINED = [
    event
    for at in range(0, 100_000, 10_000)
    for event in (
        call("cudaLaunchKernel", at, at + 1, at + 1),
        kernel("k", at + 1, at + 2000, at + 1),
        call("cudaStreamSynchronize", at + 2, at + 2001, at + 2),
    )
]
COPYING = [
    call("cudaLaunchKernel", 0, 1, 1),
    kernel("k", 1, 10_000, 1),
    {**kernel("Memcpy HtoD", 10_000, 100_000, 2), "cat": "gpu_memcpy"},
]
IN_PYTHON = [operator("aten::add", 0, 10_000), phase("forward", 0, 100_000)]


@pytest.mark.parametrize(
    ("events", "headline", "advice"),
    [
        (WAITING, "the wait for the next batch takes 60 ms of it (60%)", "num_workers"),
        (SLOW_HOST, "for the host's next kernel the device waits 90 ms", "micro_batch_size"),
        (DRAINED, "after the host waited for it the device idles 80 ms", "read a number"),
        (COPYING, "the device copies 90 ms of it (90%)", "pin_memory=true"),
        (IN_PYTHON, "Python outside of operators takes 90 ms of it (90%)", "micro_batch_size"),
    ],
)
def test_what_is_planted_is_named_first_with_a_remedy(events, headline, advice):
    profile = profile_of(trace_of([step(0, 100_000), *events]))
    assert headline in profile.headline()
    assert any(advice in sentence for sentence in profile.advice())


def test_a_busy_device_needs_no_advice():
    events = [step(0, 100), call("cudaLaunchKernel", 0, 1, 1), kernel("k", 1, 100, 1)]
    assert profile_of(trace_of(events)).advice() == []


def test_the_profilers_own_cost_is_told(host_trace):
    profile = profile_of(host_trace, plain_step_ms=0.5)
    assert profile.overhead_ratio == 2.0
    assert "Without the profiler a step takes 0.5 ms" in profile.advice()[-1]
    assert "profiler" not in str(profile_of(host_trace, plain_step_ms=0.99).advice())
    assert profile_of(host_trace).overhead_ratio is None


def test_shapes_and_memory_are_there_when_they_were_recorded(host_trace):
    assert profile_of(host_trace).operators_by_shape
    plain = [{**event, "args": {}} for event in on_host()]
    assert profile_of(trace_of(plain)).operators_by_shape == ()
    assert profile_of(host_trace).peak_bytes is None
    trace = trace_of([*on_host(), memory(10, 64, 64), memory(20, 64, 128), memory(30, -64, 64)])
    assert profile_of(trace).peak_bytes == 128


def test_the_figures_are_plain(device_trace):
    content = profile_of(device_trace, plain_step_ms=0.9).as_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert [row["name"] for row in content["kernels"]] == ["first", "second"]
    assert sum(share["ratio"] for share in content["shares"]) == pytest.approx(1)
