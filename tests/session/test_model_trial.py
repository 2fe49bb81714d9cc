import pytest
import torch

from gpuopt.errors import FaultError, InputError
from gpuopt.session.model_trial import try_model

CPU = torch.device("cpu")


def run(**changes):
    options = {
        "precision": "fp32",
        "device": CPU,
        "train_batch_size": 4,
        "predict_batch_size": 8,
        "budget_s": 0.02,
    }
    return try_model("test_vit", 32, **{**options, **changes})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_speeds_are_measured(precision):
    found = run(precision=precision)
    assert (found.train_batch_size, found.predict_batch_size) == (4, 8)
    assert found.train_per_s > 0
    assert found.predict_per_s > 0
    assert found.as_dict()["train_batch_size"] == 4


def test_speed_is_samples_over_time_without_the_first_step(monkeypatch):
    monkeypatch.setattr("gpuopt.session.model_trial._MOST_STEPS", 5)
    ticks = iter([0, 50, 50, 52, 52, 62, 100, 103, 103, 105, 105, 125])
    found = run(budget_s=10_000, clock=lambda: next(ticks))
    # Two steps took 2 s: 10,000 s would be 10,000 steps, and 5 are the most.
    assert found.train_per_s == pytest.approx(4 * 5 / 10)
    assert found.predict_per_s == pytest.approx(8 * 5 / 20)


def test_a_step_beyond_the_budget_is_the_only_one():
    ticks = iter([0, 50, 50, 60])
    found = run(budget_s=5, clock=lambda: next(ticks))
    assert found.train_per_s == pytest.approx(4 / 50)
    assert found.predict_per_s == pytest.approx(8 / 10)


def test_a_batch_is_halved_until_it_fits(monkeypatch):
    from gpuopt.model import Classifier

    forward = Classifier.forward

    def limited(self, images):
        if len(images) > most:
            raise torch.OutOfMemoryError("planted")
        return forward(self, images)

    monkeypatch.setattr(Classifier, "forward", limited)
    most = 3
    found = run(train_batch_size=8)
    assert (found.train_batch_size, found.predict_batch_size) == (2, 2)
    most = 0
    with pytest.raises(FaultError, match="not one sample of test_vit at 32 px fits"):
        run()


def test_another_error_is_not_taken_for_a_lack_of_memory(monkeypatch):
    from gpuopt.model import Classifier

    def broken(self, images):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Classifier, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        run()


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="no model named"):
        try_model(
            "resnet51",
            32,
            precision="fp32",
            device=CPU,
            train_batch_size=1,
            predict_batch_size=1,
        )
