"""Measure trainings in processes of their own: each with its own settings, memory and compiler."""

import json
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from gpuopt.errors import (
    FaultError,
    GpuoptError,
    InputError,
    PreemptedError,
    TargetNotMetError,
)
from gpuopt.tuning.goal import Figures
from gpuopt.tuning.loader_search import LoaderReading
from gpuopt.tuning.loader_setting import LoaderSetting

__all__ = ["BenchProcess"]

_KINDS = (GpuoptError, InputError, FaultError, TargetNotMetError, PreemptedError)
_MODULE = "gpuopt.tuner"


class BenchProcess:
    """A process that holds one training and measures it; ends with the `with` block.

    Args:
        settings: Of the training, composed and checked.
        probe_s: Seconds that steps are timed at least.
        module: What the process runs.

    Attributes:
        facts: What the training is on this machine; see `gpuopt.tuner.TrainingBench.facts`.

    Raises:
        GpuoptError: What ended the process; FaultError when it was killed or crashed.
    """

    def __init__(
        self, settings: Mapping[str, Any], probe_s: float, *, module: str = _MODULE
    ) -> None:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the other.
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        try:
            self.facts: Mapping[str, Any] = self._ask(
                {"settings": dict(settings), "probe_s": probe_s}
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "BenchProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def given(self) -> LoaderSetting:
        """The loader's setting that the training would run with."""
        return LoaderSetting(**self.facts["setting"])

    def reading(self) -> LoaderReading:
        """Measure one process that does nothing but load."""
        return LoaderReading(**self._ask({"do": "reading"}))

    def alone(self) -> Figures:
        """Time the steps with one batch again and again."""
        return Figures(**self._ask({"do": "alone"}))

    def beside(self, setting: LoaderSetting) -> Figures:
        """Time the training with its loader."""
        values = {
            "num_workers": setting.num_workers,
            "prefetch_factor": setting.prefetch_factor,
            "pin_memory": setting.pin_memory,
        }
        return Figures(**self._ask({"do": "beside", "setting": values}))

    def compile(self) -> Mapping[str, Any]:
        """Try the modes of torch.compile; returns `CompileChoice.as_dict()`."""
        found: Mapping[str, Any] = self._ask({"do": "compile"})
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()  # does nothing to one that has ended
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None  # both are pipes
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and its answer may say why
        line = self._process.stdout.readline()
        if line:
            message = json.loads(line)
            if "error" in message:
                raise _error(message["error"])
            return message["result"]
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise FaultError(
            f"the process that measures {how}: see the lines above; a smaller micro_batch_size "
            "asks less"
        )


def _error(content: Mapping[str, str]) -> GpuoptError:
    kinds = {kind.__name__: kind for kind in _KINDS}
    return kinds.get(content["kind"], FaultError)(content["message"])
