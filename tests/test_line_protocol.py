"""A process answers in lines of JSON, whatever is printed in it and however it ends."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import threading, sys
from gpuopt.line_protocol import answering
from gpuopt.errors import InputError

threading.Thread(target=sys.stdin.read, daemon=True).start()
with answering() as send:
    print("a library speaks")
    send({"probe": 1})
    BODY
raise SystemExit("the process went on")
"""


def answers(body):
    """Run a process whose stdin stays open, as that of a waiting parent does."""
    command = [sys.executable, "-c", SCRIPT.replace("BODY", body)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        lines, errors = process.stdout.read(), process.stderr.read()
        assert process.wait(60) == 0
    return [json.loads(line) for line in lines.splitlines()], errors.decode()


@pytest.mark.parametrize(
    ("body", "last"),
    [
        ("send({'answer': 'ä'})", {"answer": "ä"}),
        (
            "raise InputError('a=b: no')",
            {"error": {"kind": "InputError", "message": "a=b: no"}},
        ),
        (
            "raise KeyError('x')",
            {"error": {"kind": "GpuoptError", "message": "internal error: KeyError: 'x'"}},
        ),
    ],
)
def test_an_answer_or_an_error_is_the_last_line(body, last):
    found, errors = answers(body)
    assert found == [{"probe": 1}, last]
    assert "a library speaks" in errors
    assert ("Traceback" in errors) == ("KeyError" in body)
    assert "went on" not in errors
