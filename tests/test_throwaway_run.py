"""What is profiled and diagnosed is the training that `gpuopt train` would run."""

import json

import pytest

from gpuopt.config import compose_settings
from gpuopt.schema import to_train_config
from gpuopt.throwaway_run import opened_run


@pytest.fixture
def opened(tiny):
    def open_with(*words):
        return opened_run(to_train_config(compose_settings("train", [*tiny, *words])))

    return open_with


def test_its_loader_is_that_of_the_training(opened):
    with opened("num_workers=1", "prefetch_factor=5") as run:
        loader = run.data.train_dataloader()
        inner = getattr(loader, "_loader", loader)
        assert (inner.num_workers, inner.prefetch_factor) == (1, 5)
        loader.close()


def test_its_choices_are_those_of_the_training(opened, train, tmp_path):
    train(tmp_path / "run", "trainer.max_steps=1")
    results = json.loads((tmp_path / "run/results.json").read_text())
    trained = {choice["key"]: choice["value"] for choice in results["choices"]}
    with opened("trainer.max_steps=1") as run:
        planned = {choice.key: choice.value for choice in run.plan.choices}
        assert run.steps == 1
    assert {"precision", "num_workers", "model.channels_last"} <= planned.keys()
    assert planned.items() <= trained.items()


def test_nothing_of_it_stays(opened):
    with opened() as run:
        run.fit(run.callbacks(), max_epochs=1, max_steps=2)
        assert run.folder.is_dir()
        assert run.model.trainer.global_step == 2
    assert not run.folder.exists()
