import importlib.util
from types import SimpleNamespace

import pytest
import torch

from gpuopt.errors import InputError
from gpuopt.hardware import load_catalogue
from gpuopt.schema import CONF_DIR
from gpuopt.session.plan import make_plan

CATALOGUE = load_catalogue(CONF_DIR / "gpu")


def planned(preset="cpu", **settings):
    options = {
        "model": {"name": "test_vit"},
        "precision": "auto",
        "image_size": 160,
        "micro_batch_size": "auto",
        "global_batch_size": 64,
        "devices": 1,
        **settings,
    }
    return make_plan(preset=CATALOGUE[preset], catalogue=CATALOGUE, **options)


@pytest.fixture
def cuda(monkeypatch):
    """A 12 GB card that only answers questions."""
    properties = SimpleNamespace(
        name="NVIDIA GeForce RTX 3060",
        major=8,
        minor=6,
        total_memory=12288 * 2**20,
        multi_processor_count=28,
    )
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda index: properties,
        "get_arch_list": lambda: ["sm_80"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


@pytest.mark.parametrize(("micro", "expected", "steps"), [(64, 64, 1), (24, 24, 3), (500, 64, 1)])
def test_micro_batches_make_up_the_global_batch(micro, expected, steps):
    plan = planned(micro_batch_size=micro)
    assert (plan.micro_batch_size, plan.accumulate_grad_batches) == (expected, steps)


def test_automatic_values_have_a_reason_each():
    plan = planned(image_size="auto")
    assert (plan.accelerator, plan.image_size, plan.micro_batch_size) == ("cpu", 224, 32)
    assert [choice.key for choice in plan.choices] == [
        "gpu",
        "precision",
        "image_size",
        "micro_batch_size",
    ]
    assert all(choice.reason for choice in plan.choices)


@pytest.mark.parametrize(("rule", "expected"), [("linear", 0.002), ("sqrt", 0.001)])
def test_a_learning_rate_follows_the_rule_and_says_so(rule, expected):
    plan = planned(
        model={"name": "test_vit", "learning_rate": 0.0005},
        learning_rate_rule=rule,
        learning_rate_reference_batch=16,
    )
    assert plan.learning_rate == expected
    assert str(plan.choices[-1]).startswith(f"learning_rate_rule={rule} (predicted: ")
    assert (
        f"0.0005 x {expected / 0.0005:g} = {expected:g}, from 16 to 64" in plan.choices[-1].reason
    )


def test_without_a_rule_the_learning_rate_is_left_alone():
    plan = planned(model={"name": "test_vit", "learning_rate": 0.0005})
    assert plan.learning_rate is None
    assert "learning_rate_rule" not in [choice.key for choice in plan.choices]


def test_the_micro_batch_may_be_that_of_a_later_larger_step():
    plan = planned(micro_batch_size=48, global_batch_size=32, global_batch_changes={2: 64})
    assert (plan.micro_batch_size, plan.accumulate_grad_batches) == (48, 1)
    assert planned(micro_batch_size=48, global_batch_size=32).micro_batch_size == 32
    assert plan.global_batches.at(5) == 64


def test_workers_are_settled_later(cuda):
    plan = planned("rtx3060").with_workers(3, decoded=False)
    assert plan.num_workers == 3
    assert plan.choices[-1].key == "num_workers"


def test_a_card_plans_for_itself(cuda):
    plan = planned("rtx3060", image_size="auto")
    card = CATALOGUE["rtx3060"]
    assert (plan.accelerator, plan.precision) == ("cuda", "bf16")
    assert plan.image_size == card.image_size


def test_a_micro_batch_beyond_the_memory_is_said(cuda):
    plan = planned("rtx3060", micro_batch_size=10**6, global_batch_size=10**6)
    assert plan.micro_batch_size == 10**6
    assert "predicted to need more memory" in plan.choices[-1].reason
    assert planned("rtx3060", global_batch_size=10**6).micro_batch_size < 10**6


def test_what_the_machine_cannot_do_is_refused(cuda, monkeypatch):
    with pytest.raises(InputError, match="1 CUDA device"):
        planned("rtx3060", devices=2)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    with pytest.raises(InputError, match="cannot be driven"):
        planned("rtx3060")


def test_ranks_of_one_machine_share_its_processors(monkeypatch):
    monkeypatch.setattr("gpuopt.session.plan.available_cpus", lambda: 2)
    plan = planned()
    workers = [
        plan.with_workers("auto", decoded=False, ranks=ranks).num_workers for ranks in (1, 2, 9)
    ]
    assert workers == [2, 1, 1]  # the preset alone would take 2


def test_batches_of_the_workers_fit_into_shared_memory(monkeypatch):
    monkeypatch.setattr("gpuopt.session.plan.available_cpus", lambda: 8)
    monkeypatch.setattr("gpuopt.session.plan.workers_that_fit", lambda batch_bytes, **_: 1)
    few = planned("rtx3060").with_workers("auto", decoded=False)
    assert few.num_workers == 1
    assert few.choices[-1].evidence == "measured"
    assert "/dev/shm" in few.choices[-1].reason
    # Who gives a number knows better.
    assert planned("rtx3060").with_workers(4, decoded=False).num_workers == 4


def test_checkpointing_is_the_least_that_reaches_the_micro_batch(cuda):
    model = {"name": "test_vit", "checkpointing": "auto"}

    def settled(micro):
        return planned("rtx3060", model=model, micro_batch_size=micro, global_batch_size=micro)

    few = settled(64)
    most = planned("rtx3060", global_batch_size=10**6).micro_batch_size
    many = settled(most + 500)
    assert (few.checkpointing, few.micro_batch_size) == ("none", 64)
    assert many.checkpointing != "none"
    assert many.micro_batch_size == most + 500
    (choice,) = [choice for choice in many.choices if choice.key == "model.checkpointing"]
    assert choice.evidence == "predicted"
    assert "predicted to need more memory" not in many.choices[-1].reason


def test_checkpointing_on_a_cpu_is_what_was_asked_for():
    plan = planned(model={"name": "test_vit", "checkpointing": "stages=2"})
    assert plan.checkpointing == "stages=2"
    assert planned(model={"name": "test_vit", "checkpointing": "auto"}).checkpointing == "none"


def test_offloading_is_weighed_against_checkpointing(cuda, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: object() if name == "torchao" else find_spec(name, *rest),
    )
    settings = {"model": {"name": "vit_base_patch16_224"}, "global_batch_size": 10**6}
    optimizer = {"_target_": "gpuopt.model.AdamW", "offload": True}
    resident = planned("rtx3060", image_size=224, **settings)
    moved = planned("rtx3060", image_size=224, optimizer=optimizer, **settings)
    assert moved.micro_batch_size > resident.micro_batch_size
    (choice,) = [choice for choice in moved.choices if choice.key == "optimizer.offload"]
    assert "keeps 0.64 GiB off the card" in choice.reason
    assert "the better choice" in choice.reason
    with pytest.raises(InputError, match=r"optimizer\.offload=true: .* in host memory anyway"):
        planned(optimizer=optimizer)
