"""`gpu.memory_limit_mib` caps all that uses a card: what is planned, and the allocator."""

from types import SimpleNamespace

import pytest
import torch

from gpuopt.config import compose_settings
from gpuopt.parallel.rank import ALONE
from gpuopt.run_parts import plan_run, process_settings
from gpuopt.schema import CONF_DIR, to_predict_config, to_train_config
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.weights import ModelDescription

TOTAL_MIB = 12288
LIMIT = "gpu.memory_limit_mib=3072"
NAME = "test_vit"


@pytest.fixture
def shares(monkeypatch):
    """A 12 GB card that only answers questions; collects the shares that the allocator is given."""
    seen = []
    properties = SimpleNamespace(
        name="NVIDIA GeForce RTX 3060",
        major=8,
        minor=6,
        total_memory=TOTAL_MIB * 2**20,
        multi_processor_count=28,
    )
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda index: properties,
        "get_arch_list": lambda: ["sm_80"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(
        torch.cuda.memory,
        "set_per_process_memory_fraction",
        lambda ratio, index: seen.append(ratio),
    )
    return seen


def trained(*words):
    settings = ("model=timm", f"model.name={NAME}", "image_size=160", "global_batch_size=100000")
    return to_train_config(compose_settings("train", [*settings, *words]))


def test_training_plans_for_the_limit_and_caps_the_allocator(shares):
    whole, capped = plan_run(trained(), ALONE), plan_run(trained(LIMIT), ALONE)
    assert capped.micro_batch_size < whole.micro_batch_size / 3
    with process_settings(trained(LIMIT), capped, ALONE):
        assert shares == [0.25]
    assert shares == [0.25, 1.0]
    with process_settings(trained(), whole, ALONE):
        assert len(shares) == 2


def test_prediction_plans_for_the_limit_and_caps_the_allocator(shares, monkeypatch):
    from gpuopt.hardware import load_catalogue

    monkeypatch.setattr("gpuopt.memory.micro_batch.LARGEST_PREDICTION", 10**9)
    description = ModelDescription(NAME, ("a", "b"), 160, (0.0,) * 3, (1.0,) * 3)

    def chosen(*words):
        config = to_predict_config(compose_settings("predict", list(words)))
        return PredictionSetup.choose(
            description,
            preset=config.gpu,
            catalogue=load_catalogue(CONF_DIR / "gpu"),
            precision=config.precision.name,
            batch_size=config.batch_size,
            num_workers=0,
        )

    whole, capped = chosen(), chosen(LIMIT)
    assert capped.batch_size < whole.batch_size / 3
    with capped.applied():
        assert shares == [0.25]
    assert shares == [0.25, 1.0]
