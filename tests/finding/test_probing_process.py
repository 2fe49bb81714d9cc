"""The process that measures is replaced by small programs that speak its language."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from gpuopt.errors import FaultError, GpuoptError, InputError, TargetNotMetError
from gpuopt.finding.answer import CardAnswer, SizedProbe
from gpuopt.finding.probing_process import measure_in_process

ANSWER = CardAnswer(
    card="Stand-in",
    device_index=1,
    evidence="measured",
    reason="on the card itself",
    precision="bf16",
    headroom_ratio=0.08,
    context_bytes=None,
    free_bytes=100,
    budget_bytes=92,
    largest=8,
    knee=8,
    chosen=8,
    why="8 fit",
    probes=(SizedProbe(8, 90, 1.5, True), SizedProbe(16, None, None, False, with_context_bytes=9)),
    levels={"none": 8},
    parts={"parameters": 10},
)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Write a module and return its name; `send` and `order` are there."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def write(body):
        head = (
            "import json, os, sys, time\n"
            "def send(message): print(json.dumps(message), flush=True)\n"
            "order = json.loads(sys.stdin.readline())\n"
        )
        (tmp_path / "stand_in.py").write_text(head + textwrap.dedent(body))
        return "stand_in"

    return write


def test_an_answer_comes_back_as_it_was_sent(program, tmp_path):
    content = ANSWER.as_dict()
    module = program(f"""
        send({{"probe": {content["probes"][0]}}})
        send({{"answer": {content}, "snapshot": {{"segments": [order["device"]]}}}})
        time.sleep(60)  # is not waited for
        """)
    seen = []
    started = time.monotonic()
    measured = measure_in_process({"device": 3}, on_probe=seen.append, module=module)
    assert measured.answer == ANSWER
    assert measured.snapshot == {"segments": [3]}
    assert seen == [ANSWER.probes[0]]
    assert time.monotonic() - started < 50


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("InputError", InputError),
        ("FaultError", FaultError),
        ("TargetNotMetError", TargetNotMetError),
        ("GpuoptError", GpuoptError),
        ("Unknown", FaultError),
    ],
)
def test_an_error_is_raised_here_as_it_was_there(program, kind, expected):
    module = program(f"""send({{"error": {{"kind": "{kind}", "message": "too small"}}}})""")
    with pytest.raises(expected, match=r"^too small$") as caught:
        measure_in_process({}, module=module)
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("body", "how"),
    [("os.kill(os.getpid(), 9)", "was killed by signal 9"), ("sys.exit(5)", "exit code 5")],
)
def test_a_process_that_dies_is_a_fault(program, body, how):
    with pytest.raises(FaultError, match=how):
        measure_in_process({}, module=program(body))


def test_the_process_does_not_outlive_an_interruption(program, tmp_path):
    place = tmp_path / "pid"
    module = program(f"""
        open({str(place)!r}, "w").write(str(os.getpid()))
        send({{"probe": {ANSWER.as_dict()["probes"][0]}}})
        time.sleep(600)
        """)

    def interrupt(probe):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_in_process({}, on_probe=interrupt, module=module)
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


def test_a_signal_while_nothing_comes_ends_both(program, tmp_path):
    place = tmp_path / "pid"
    module = program(f"""
        open({str(place)!r} + ".new", "w").write(str(os.getpid()))
        os.rename({str(place)!r} + ".new", {str(place)!r})
        time.sleep(600)
        """)
    code = (
        "from gpuopt.finding.probing_process import measure_in_process\n"
        f"measure_in_process({{}}, module={module!r})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while not place.exists():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)
