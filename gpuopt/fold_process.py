"""Train one fold in a process of its own: its memory is given back, and a crash ends it alone."""

import subprocess
import sys

from gpuopt.errors import FaultError, InputError, PreemptedError
from gpuopt.override_words import quoted
from gpuopt.run import RunFolder

__all__ = ["train_in_process"]

_KINDS = {2: InputError, 75: PreemptedError}


def train_in_process(run: RunFolder, own: RunFolder, *, debug: bool) -> None:
    """Start `gpuopt train` on a fold's folder and wait for its end.

    A signal to this process stops the fold first, where a resume is exact.

    Args:
        run: The folder of the whole.
        own: The folder of the fold, not locked, with its configuration.
        debug: Let the fold show the trace when something fails.

    Raises:
        PreemptedError: When the fold was stopped, or this process was asked to stop.
        InputError: When the fold found its input bad.
        FaultError: When it failed otherwise, or was killed.
    """
    words = [f"resume={quoted(str(own.path))}", *(["debug=true"] if debug else [])]
    # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuopt.train", *words], start_new_session=True
    )
    code = _wait(process)
    if code == 0:
        return
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise _KINDS.get(code, FaultError)(
        f"{own.path.name} {how}, see the lines above; go on with resume={run.path}"
    )


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end; `stopping_on_signals` raises here, and the process is asked to stop."""
    stopped: PreemptedError | None = None
    while True:
        try:
            code = process.wait()
        except PreemptedError as error:
            stopped = error
            process.terminate()
        else:
            break
    if stopped is not None:
        raise stopped
    return code
