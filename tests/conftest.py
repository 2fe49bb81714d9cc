"""Shared by all tests: small settings that train in a second or two on one core."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from gpuopt.config import compose_settings
from gpuopt.run import RunFolder

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


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tests run beside each other and beside other work; sums must not depend on threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_predictions(tmp_path_factory):
    """Predictions of this session only: what another one left behind is not looked at."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuopt.memory.step_cache.default_cache_dir", lambda: folder)
        yield


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    return TINY


@pytest.fixture(scope="session")
def train():
    """Train in this process, as `gpuopt train` does once its settings are checked."""
    from gpuopt.worker import work

    def run(folder: Path, *overrides: str) -> dict:
        settings = compose_settings("train", [*TINY, *overrides])
        run = RunFolder(folder)
        with run.lock:
            run.write_config(settings)
            return work(run, Console(quiet=True))

    return run
