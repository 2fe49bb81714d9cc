"""Shared by all tests: small settings that train in a second or two on one core."""

import contextlib
import copy
import functools
import gc
import logging
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gpuopt.config import compose_settings
from gpuopt.run import RunFolder
from tests.faults.commands import Command, Warm

# A real timm network of 0.5 M parameters, random weights, real digits, no logger.
TINY = (
    "data=digits",
    "model=timm",
    "model.name=test_vit",
    "model.pretrained=false",
    "image_size=32",
    "global_batch_size=128",
    "micro_batch_size=64",
    "trainer.max_epochs=1",
    "gpu=cpu",
    "tta=none",
    "logger=none",
)


# Files of half a minute and more whose tests are many or train, but start no commands.
LONG = (
    "test_worker.py",
    "test_fold_runs.py",
    "test_find_batch_size.py",
    "test_recommend_tta.py",
    "test_conf.py",
    "test_seed_commands.py",
    "test_seed_flags.py",
    "test_limits.py",
    "test_sweep.py",
    "test_calibrated_runs.py",
    "test_package_trial.py",
    "test_aot_package.py",
    "test_allocation_sites.py",
)


def pytest_collection_modifyitems(items):
    """Leave out what needs a GPU where none is, and put the files with long tests first.

    So no process is left alone with a long one at the end.
    """
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in long, item.path.name not in LONG))


# Where nobody may keep bytecode, each worker and each process of the tests compiles all anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(autouse=True, scope="session")
def _signals():
    """Processes of the tests answer signals as in a terminal, under `nohup` and `&` as well."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tests run beside each other and beside other work; sums must not depend on threads.

    Neither here nor in the processes that tests start: where there are more threads than
    processors, OpenMP's wait for each other in loops that take several times the work.
    """
    torch.set_num_threads(1)
    os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})


@pytest.fixture(autouse=True, scope="session")
def _composed_once():
    """Leave out that Hydra composes all settings a first time to read `hydra.mode`, unset here.

    Commands in processes of their own do it as ever.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda *_, **__: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def _quick_collection():
    """Leave what is imported, and what other files left, out of `gc.collect()`.

    It takes a quarter of a second at first and seconds in the end, and is called very often.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _open_loggers():
    """Hydra, run in this process, silences the loggers that it finds; the next test needs them."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("gpuopt") and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True


@pytest.fixture(autouse=True, scope="session")
def _own_predictions(tmp_path_factory):
    """Predictions of this session only: what another one left behind is not looked at."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuopt.memory.step_cache.default_cache_dir", lambda: folder)
        patch.setattr("gpuopt.measure.roofline.default_cache_dir", lambda: folder)
        yield


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    return TINY


@pytest.fixture(scope="session")
def train(compose):
    """Train in this process, as `gpuopt train` does once its settings are checked.

    Drawing the pictures takes as long as the training: they are drawn where a test asks for it.
    """
    from gpuopt import worker

    def run(folder: Path, *overrides: str, pictures: bool = False) -> dict:
        settings = compose(*TINY, *overrides)
        run = RunFolder(folder)
        with run.lock, pytest.MonkeyPatch.context() as patch:
            if not pictures:
                patch.setattr(worker, "draw_figures", lambda *_: {})
            run.write_config(settings)
            return worker.work(run, Console(quiet=True))

    return run


@pytest.fixture(scope="session")
def compose():
    """Compose settings for training; the same words only once, as a resumed run has the same."""
    composed = functools.cache(lambda *words: compose_settings("train", list(words)))
    return lambda *words: copy.deepcopy(composed(*words))


@pytest.fixture(scope="session")
def warm():
    """Forks commands that have imported everything."""
    with contextlib.closing(_forking()) as server:
        yield server


@pytest.fixture(scope="session")
def light():
    """Forks commands that have not imported torch yet."""
    with contextlib.closing(_forking("light")) as server:
        yield server


def _forking(*words: str) -> Warm:
    if not sys.platform.startswith("linux"):
        pytest.skip("tells how forked commands ended, which only Linux's /proc and prctl can")
    return Warm(*words)


@pytest.fixture
def start_command(warm):
    """Start a command in a folder; none outlives the test."""
    started = []

    def start(cwd, *words, **options):
        command = Command(*words, cwd=cwd, warm=warm, **options)
        started.append(command)
        return command

    yield start
    for command in started:
        command.give_up()
