"""Measure a card in a process of its own: fresh, nothing cached, its memory given back after."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpuopt.errors import (
    FaultError,
    GpuoptError,
    InputError,
    PreemptedError,
    TargetNotMetError,
)
from gpuopt.finding.answer import CardAnswer, SizedProbe

__all__ = ["Measured", "measure_in_process"]

_KINDS = (GpuoptError, InputError, FaultError, TargetNotMetError, PreemptedError)
_MODULE = "gpuopt.prober"


@dataclass(frozen=True)
class Measured:
    """What a probing process has sent.

    Attributes:
        answer: For its card.
        snapshot: Of the allocator, or `{"absent": why}`.
    """

    answer: CardAnswer
    snapshot: Mapping[str, Any]


def measure_in_process(
    order: Mapping[str, Any],
    *,
    on_probe: Callable[[SizedProbe], None] | None = None,
    module: str = _MODULE,
) -> Measured:
    """Start a process that probes one device, and wait for its answer.

    Args:
        order: Plain values that say what to measure; goes through the process's stdin as JSON.
        on_probe: Called after each probe.
        module: What the process runs.

    Raises:
        GpuoptError: What ended the process; FaultError when it was killed or crashed.
    """
    # A session of its own: Ctrl-C reaches this process alone, which then ends the other.
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        return _converse(process, order, on_probe)
    finally:
        process.kill()  # does nothing to one that has ended
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _converse(
    process: "subprocess.Popen[str]",
    order: Mapping[str, Any],
    on_probe: Callable[[SizedProbe], None] | None,
) -> Measured:
    assert process.stdin is not None  # both are pipes
    assert process.stdout is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()  # it stays open: its end tells the process that nobody waits any more
    for line in process.stdout:
        message = json.loads(line)
        if "probe" in message and on_probe is not None:
            on_probe(SizedProbe(**message["probe"]))
        if "error" in message:
            raise _error(message["error"])
        if "answer" in message:
            return Measured(CardAnswer.from_dict(message["answer"]), message["snapshot"])
    code = process.wait()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise FaultError(
        f"the process that measures {how}: see the lines above; a smaller max_batch_size asks less"
    )


def _error(content: Mapping[str, str]) -> GpuoptError:
    kinds = {kind.__name__: kind for kind in _KINDS}
    return kinds.get(content["kind"], FaultError)(content["message"])
