from dataclasses import replace
from types import SimpleNamespace

import pytest

from gpuopt.callbacks import CompileChooser
from gpuopt.choice import Choice
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu
from gpuopt.measure.compile_choice import CompileChoice
from gpuopt.model import Classifier
from gpuopt.schema import Compile
from gpuopt.session.compilation import (
    compile_backbone,
    compile_choosers,
    may_accumulate,
    with_compiled,
)
from gpuopt.session.plan import Plan
from gpuopt.steps.compiled_part import GraphedCall

OTHER = Choice("num_workers", 2, "table", "decoded")


def plan(devices=1, global_batch_size=256):
    return Plan("cuda", Gpu("Card"), "bf16", 32, global_batch_size, 57, devices, (OTHER,))


@pytest.fixture
def model():
    return Classifier("test_vit", 10)


@pytest.mark.parametrize(
    ("mode", "is_compiled"), [("off", False), ("auto", False), ("default", True)]
)
def test_only_a_mode_that_is_given_compiles_at_once(model, mode, is_compiled):
    names = list(model.state_dict())
    compile_backbone(model, mode, "eager")
    assert (model.backbone._compiled_call_impl is not None) == is_compiled
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("mode", ["auto", "default"])
def test_a_backend_that_there_is_not_is_refused(model, mode):
    with pytest.raises(InputError, match="backend=indictor: no such backend"):
        compile_backbone(model, mode, "indictor")


def test_cuda_graphs_are_not_to_add_up_gradients(model, monkeypatch):
    with pytest.raises(InputError, match="reduce-overhead: its CUDA graphs cannot"):
        compile_backbone(model, "reduce-overhead", "inductor", accumulates=True)
    assert model.backbone._compiled_call_impl is None
    asked = []
    monkeypatch.setattr(model.backbone, "compile", lambda **options: asked.append(options["mode"]))
    compile_backbone(model, "max-autotune", "inductor", accumulates=True)
    assert asked == ["max-autotune-no-cudagraphs"]
    asked.clear()
    compile_backbone(model, "reduce-overhead", "inductor")
    assert asked[-1] == "reduce-overhead"
    assert isinstance(model.backbone._compiled_call_impl, GraphedCall)


@pytest.mark.parametrize(
    ("changes", "callbacks", "size", "accumulates"),
    [
        ({}, {}, 64, False),
        ({"devices": 3}, {}, 64, True),  # 192 of 256 at once
        ({"devices": 3, "accelerator": "cpu"}, {}, 64, False),
        ({"global_batch_changes": {3: 512}}, {}, 64, True),
        ({}, {"batch_size_finder": {"enabled": True}}, "auto", True),
        ({}, {"batch_size_finder": {"enabled": True}}, 64, False),  # nothing is searched for
        ({}, {"batch_size_finder": {"enabled": False}}, "auto", False),
        ({}, {"adaptive_batch_size": {"enabled": True}}, 64, True),
        ({}, {"adaptive_batch_size": {"enabled": False}}, 64, False),
    ],
)
def test_it_is_known_whether_micro_batches_may_accumulate(changes, callbacks, size, accumulates):
    made = replace(plan(4), micro_batch_size=64)
    assert may_accumulate(replace(made, **changes), callbacks, size) == accumulates


@pytest.mark.parametrize("mode", ["off", "default", "max-autotune"])
def test_nothing_is_tried_unless_asked_for(mode):
    config = SimpleNamespace(compile=Compile(mode=mode), cache_dir=None)
    assert compile_choosers(config, plan(), None, 100) == []


@pytest.mark.parametrize(
    ("devices", "micro", "size", "batches"),
    [
        (1, 57, 57, 4),  # 57, 57, 57, 57, 28
        (1, 64, 64, 4),
        (1, 400, 256, 1),  # the whole global batch at once
        (4, 57, 57, 1),
    ],
)
def test_the_real_micro_batch_is_tried_as_often_as_it_is_full(
    tmp_path, devices, micro, size, batches
):
    asked = []
    data = SimpleNamespace(micro_batch_size=1, sample_batch=lambda n: asked.append(n))
    settings = Compile(mode="auto", backend="eager", time_limit_s=7.0)
    config = SimpleNamespace(compile=settings, cache_dir=str(tmp_path))
    (chooser,) = compile_choosers(config, plan(devices), data, 100)
    data.micro_batch_size = micro  # what a search has found
    chooser._sample_batch()
    assert asked == [size]
    assert chooser._batches_per_step() == batches
    trainer = SimpleNamespace(accumulate_grad_batches=5)
    assert chooser._batches_left(trainer) == 100 * batches
    assert (chooser._backend, chooser._time_limit_s) == ("eager", 7.0)
    assert chooser._cache.folder.is_relative_to(tmp_path)


def test_the_choice_is_one_of_the_plan():
    chooser = CompileChooser()
    assert with_compiled(plan(), [object(), chooser]).choices == (OTHER,)
    chooser.choice = CompileChoice("off", "too short", 3, 0.1).choice()
    choices = with_compiled(plan(), [object(), chooser]).choices
    assert [choice.key for choice in choices] == ["num_workers", "compile.mode"]
