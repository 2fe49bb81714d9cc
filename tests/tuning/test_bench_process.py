"""The process that measures is replaced by small programs that speak its language."""

import os
import textwrap

import pytest

from gpuopt.errors import FaultError, InputError
from gpuopt.tuning.bench_process import BenchProcess
from gpuopt.tuning.goal import Figures
from gpuopt.tuning.loader_setting import LoaderSetting


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a module that answers each request with what `answer(request)` returns."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def begin(body):
        head = (
            "import json, os, signal, sys\n"
            "def send(message): print(json.dumps(message), flush=True)\n"
            "order = json.loads(sys.stdin.readline())\n"
        )
        (tmp_path / "stand_in.py").write_text(head + textwrap.dedent(body))
        return BenchProcess({"seed": 5}, 0.25, module="stand_in")

    return begin


ANSWERS = """
send({"result": {"order": order, "setting": {"num_workers": 3}}})
figures = {"samples_per_second": 10.0, "batch_ms": 2.0, "memory_bytes": 7}
reading = {"samples_per_second": 5.0, "cpu_ratio": 1.0, "unevenness": 1.5, "batch_bytes": 9}
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "beside":
        figures["batch_ms"] = request["setting"]["prefetch_factor"]
    found = {"reading": reading, "compile": {"trials": [], "reason": "none"}}
    send({"result": found.get(request["do"], figures)})
"""


def test_requests_are_answered_in_their_order(start):
    with start(ANSWERS) as bench:
        assert bench.facts["order"] == {"settings": {"seed": 5}, "probe_s": 0.25}
        assert bench.given == LoaderSetting(3)
        assert bench.alone() == Figures(10.0, 2.0, 7)
        assert bench.beside(LoaderSetting(1, 4)).batch_ms == 4
        assert bench.reading().batch_bytes == 9
        assert bench.compile() == {"trials": [], "reason": "none"}
        process = bench._process
    assert process.poll() is not None


def test_its_error_is_raised_here(start):
    error = {"kind": "InputError", "message": "data.root=x is no folder"}
    with pytest.raises(InputError, match=r"data\.root=x is no folder"):
        start(f"send({{'error': {error}}})")


def test_one_that_is_killed_says_so(start):
    bench = start("""
        send({"result": {}})
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGKILL)
        """)
    with bench, pytest.raises(FaultError, match="killed by signal 9"):
        bench.alone()
    with pytest.raises(FaultError, match="exit code 3"):
        start("sys.exit(3)")
