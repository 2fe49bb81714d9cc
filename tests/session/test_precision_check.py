import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gpuopt.choice import Choice
from gpuopt.data import Digits
from gpuopt.hardware import Gpu
from gpuopt.model import Classifier
from gpuopt.session.plan import Plan
from gpuopt.session.precision_check import settle_precision

CPU = torch.device("cpu")
PLAN = Plan(
    "cuda",
    Gpu("Card"),
    "fp16",
    32,
    16,
    8,
    1,
    (Choice("gpu", "Card", "given", ""), Choice("precision", "fp16", "table", "tensor cores")),
)


@pytest.fixture(scope="module")
def data():
    module = Digits(image_size=32, micro_batch_size=8, global_batch_size=16)
    module.setup()
    return module


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Classifier("test_efficientnet", 10, drop_rate=0.2, optimizer=None)


@pytest.fixture
def fast(monkeypatch):
    """A card on which half precision is three times as fast; a CPU is slower in it."""
    monkeypatch.setattr("gpuopt.measure.precision_probe._Trial.speedup", lambda self, samples: 3.0)


@pytest.fixture
def settle(model, data, tmp_path):
    asked = []

    def plan_for(precision):
        asked.append(precision)
        table = Choice("precision", precision, "given", "asked for")
        return replace(
            PLAN,
            precision=precision,
            micro_batch_size=4,
            checkpointing="full",
            choices=(PLAN.choices[0], table),
        )

    def run(plan=PLAN, **options):
        options = {"requested": "auto", "tries": True, **options}
        before = {name: value.clone() for name, value in model.state_dict().items()}
        generator = torch.get_rng_state()
        settled = settle_precision(
            plan, model, data, folder=tmp_path, device=CPU, plan_for=plan_for, **options
        )
        assert torch.equal(torch.get_rng_state(), generator)
        after = model.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert all(parameter.grad is None for parameter in model.parameters())
        return settled

    matmul = torch.get_float32_matmul_precision()
    yield SimpleNamespace(run=run, asked=asked)
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = True
    data.micro_batch_size = 8


def precision_of(plan):
    (choice,) = (choice for choice in plan.choices if choice.key == "precision")
    return choice


def test_a_format_that_works_is_kept_with_its_evidence(settle, fast, tmp_path):
    settled = settle.run()
    assert settled.plan.precision == "fp16"
    choice = precision_of(settled.plan)
    assert (choice.value, choice.evidence) == ("fp16", "measured")
    assert "3.00 times as fast" in choice.reason
    assert settled.probe["samples"] == 8
    assert json.loads((tmp_path / "precision_probe.json").read_text())["probe"] == settled.probe
    assert not settle.asked


def overflow(model):
    """Multiply in half precision beyond its range, in a layer that fp32 has no trouble with."""
    stem = model.backbone.conv_stem
    own = stem.forward
    stem.forward = lambda images: own(images) * 1e6 * 1e-6
    model.backbone.conv_stem.weight.data.mul_(1e3)


def test_an_overflow_falls_back_to_fp32_in_one_line(settle, model, data, fast):
    overflow(model)
    settled = settle.run()
    plan = settled.plan
    assert (plan.precision, plan.micro_batch_size) == ("fp32", 4)
    assert settle.asked == ["fp32"]
    choice = precision_of(plan)
    assert (choice.value, choice.evidence) == ("fp32", "measured")
    assert "fp16 was tried and rejected: logits are not finite with 8 samples" in choice.reason
    assert "\n" not in str(choice)
    assert data.micro_batch_size == 4
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32
    assert type(model.backbone.blocks[0][0].forward).__name__ == "_Recomputed"


def test_what_is_slower_on_the_device_is_not_taken(settle, monkeypatch):
    monkeypatch.setattr("gpuopt.measure.precision_probe._Trial.speedup", lambda self, samples: 1.02)
    settled = settle.run()
    assert settled.plan.precision == "fp32"
    assert "1.02 times as fast: it has to be 1.05" in precision_of(settled.plan).reason


def test_a_resumed_run_keeps_the_verdict_of_its_first_attempt(settle, model, fast, caplog):
    first = settle.run()
    overflow(model)  # would be rejected now
    with caplog.at_level("INFO"):
        assert settle.run().probe == first.probe
    assert "first attempt stands" in caplog.text
    other = replace(PLAN, gpu=Gpu("Another"))
    assert settle.run(other).plan.precision == "fp32"


@pytest.mark.parametrize("content", ["[]", '{"probe": {}}'])
def test_a_damaged_verdict_is_measured_anew(settle, fast, tmp_path, content):
    (tmp_path / "precision_probe.json").write_text(content)
    assert settle.run().probe["is_accepted"]


@pytest.mark.parametrize(
    ("plan", "options", "remark"),
    [
        (replace(PLAN, devices=2), {}, "several devices"),
        (PLAN, {"tries": False}, "precision_probe=false"),
    ],
)
def test_what_is_not_tried_is_said(settle, model, plan, options, remark):
    overflow(model)
    settled = settle.run(plan, **options)
    assert settled.plan.precision == "fp16"
    assert settled.probe is None
    assert remark in precision_of(settled.plan).reason


@pytest.mark.parametrize(
    ("plan", "requested"), [(PLAN, "fp16"), (replace(PLAN, precision="fp32"), "auto")]
)
def test_there_is_nothing_to_try(settle, model, plan, requested):
    overflow(model)
    settled = settle.run(plan, requested=requested)
    assert settled.plan is plan


def test_a_micro_batch_that_does_not_fit_says_nothing_of_the_format(settle, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Classifier, "loss", fail)
    settled = settle.run()
    assert settled.plan.precision == "fp16"
    assert "memory ran out" in precision_of(settled.plan).reason


@pytest.mark.gpu
def test_on_a_gpu_a_real_format_is_tried(model, data, tmp_path):
    plan = replace(PLAN, precision="bf16")
    settled = settle_precision(
        plan,
        model,
        data,
        requested="auto",
        tries=True,
        folder=tmp_path,
        device=torch.device("cuda"),
        plan_for=lambda precision: replace(plan, precision=precision),
    )
    assert settled.probe["speedup_ratio"] > 0
    assert model.device == CPU
