"""Faults at named points of gpuopt's own code, in the process of a real command.

The product knows nothing of this. `install` wraps the functions that the points name, at once or
when their module is imported. `startup/sitecustomize.py` calls it in every Python process that
has the folder `startup` on its path, so that ranks, folds and jobs get their faults as well.
"""

import contextlib
import functools
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["POINTS", "VARIABLE", "install"]

VARIABLE = "GPUOPT_TEST_FAULTS"

# What a person would call the moment, and the function that is about to run then.
POINTS = {
    "starting": ("gpuopt.data.datamodule", "ImageDataModule.prepare_data"),
    "reading a checkpoint": ("gpuopt.storage.checkpoint_io", "DurableCheckpointIO.load_checkpoint"),
    "first batch": ("gpuopt.callbacks.exact_resume", "ExactResume.on_train_batch_start"),
    "training step": ("gpuopt.model.classifier", "Classifier.training_step"),
    "validation": ("gpuopt.model.classifier", "Classifier.validation_step"),
    "end of epoch": ("gpuopt.callbacks.durable_checkpoint", "DurableCheckpoint.on_train_epoch_end"),
    "saving": ("gpuopt.storage.checkpoint_io", "DurableCheckpointIO.save_checkpoint"),
    "writing a file": ("gpuopt.storage.checkpoint", "atomic_write"),
    "keeping the one before": ("gpuopt.storage.checkpoint", "link_copy"),
    "vouching": ("gpuopt.storage.sidecar", "Sidecar.vouch"),
    "syncing the folder": ("gpuopt.storage.checkpoint", "sync_folder"),
    "testing": ("gpuopt.tta.predictor", "TtaPredictor.with_single_view"),
    "keeping a prediction": ("gpuopt.tta.prediction_file", "PredictionFile.append"),
    "writing the predictions": ("gpuopt.report.predictions", "write_rows_csv"),
    "writing results": ("gpuopt.run", "RunFolder.write_results"),
    "reading an image": ("gpuopt.data.dataset", "ImageDataset.__getitem__"),
}


def install(environment: Mapping[str, str] = os.environ) -> None:
    """Put the faults in place that a variable of the environment asks for.

    It holds a list in JSON; each fault has `point`, `call` (from 1, counted in each process; the
    fault happens in this one, and with `lasting` in all later ones), `do` and, for some of them,
    `path`.
    """
    for fault in json.loads(environment.get(VARIABLE, "[]")):
        module, name = POINTS[fault["point"]]
        if module in sys.modules:
            _wrap(sys.modules[module], name, fault)
        else:
            sys.meta_path.insert(0, _AfterImport(module, name, fault))


class _AfterImport:
    """Finds one module as the others would, and wraps a function of it once it is there."""

    def __init__(self, module: str, name: str, fault: Mapping[str, Any]) -> None:
        self._module, self._name, self._fault = module, name, fault

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert isinstance(spec.loader, importlib.machinery.SourceFileLoader)
        run = spec.loader.exec_module

        def run_and_wrap(module: Any) -> None:
            run(module)
            _wrap(module, self._name, self._fault)

        spec.loader.exec_module = run_and_wrap
        return spec


def _wrap(module: Any, name: str, fault: Mapping[str, Any]) -> None:
    owner, _, attribute = name.rpartition(".")
    place = getattr(module, owner) if owner else module
    original = getattr(place, attribute)
    calls = iter(range(1, sys.maxsize))

    @functools.wraps(original)
    def disturbed(*arguments: Any, **options: Any) -> Any:
        number = next(calls)
        if number == fault["call"] or (fault.get("lasting") and number > fault["call"]):
            return _ACTIONS[fault["do"]](fault, original, *arguments, **options)
        return original(*arguments, **options)

    setattr(place, attribute, disturbed)


def _signal(number: int) -> Callable[..., Any]:
    def act(fault: Mapping[str, Any], original: Callable[..., Any], *a: Any, **k: Any) -> Any:
        os.kill(os.getpid(), number)
        return original(*a, **k)

    return act


def _hang(fault: Mapping[str, Any], original: Callable[..., Any], *a: Any, **k: Any) -> Any:
    time.sleep(3600)


def _raise(fault: Mapping[str, Any], original: Callable[..., Any], *a: Any, **k: Any) -> Any:
    raise RuntimeError("a fault of the test")


def _run_out(fault: Mapping[str, Any], original: Callable[..., Any], *a: Any, **k: Any) -> Any:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory.")


def _nan(fault: Mapping[str, Any], original: Callable[..., Any], *a: Any, **k: Any) -> Any:
    return original(*a, **k) * float("nan")


def _half(fault: Mapping[str, Any], original: Callable[..., Any], *a: Any, **k: Any) -> Any:
    """Die with half of a file written; for the point `writing a file`."""

    class Half:
        def __init__(self, opened: Any) -> None:
            self.opened = opened

        def __enter__(self) -> Any:
            self.stream = self.opened.__enter__()
            return self

        def write(self, content: Any) -> None:
            self.stream.write(content[: len(content) // 2])
            self.stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        def __exit__(self, *_: object) -> None: ...

    return Half(original(*a, **k))


def _mark(fault: Mapping[str, Any], original: Callable[..., Any], *a: Any, **k: Any) -> Any:
    """Leave a file, whose time tells when the process came here."""
    Path(fault["path"]).touch()
    return original(*a, **k)


def _fill(fault: Mapping[str, Any], original: Callable[..., Any], *a: Any, **k: Any) -> Any:
    """Fill a disk to its last byte, with a file whose removal frees it."""
    with contextlib.suppress(OSError), Path(fault["path"]).open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    return original(*a, **k)


def _turn_clock_back(
    fault: Mapping[str, Any], original: Callable[..., Any], *a: Any, **k: Any
) -> Any:
    """Jump a day back, as a clock does that is set right; the monotonic one goes on."""
    now = time.time
    time.time = lambda: now() - 86400
    return original(*a, **k)


_ACTIONS = {
    "kill": _signal(signal.SIGKILL),
    "stop": _signal(signal.SIGTERM),
    "hang": _hang,
    "raise": _raise,
    "run out of memory": _run_out,
    "nan": _nan,
    "half": _half,
    "mark": _mark,
    "fill": _fill,
    "turn the clock back": _turn_clock_back,
}
