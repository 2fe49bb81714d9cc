"""What a trial of compiled steps finds, and that it leaves nothing behind."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gpuopt.callbacks import CompileChooser, OomRecovery
from gpuopt.callbacks import compile_trial as trial_module
from gpuopt.steps.compiling_process import CompilingProcess
from tests.callbacks.compile_modules import CALLS, Plain, Separable, Stub, built, chooser, fit
from tests.callbacks.finder_modules import FakeMeter, Unknown
from tests.callbacks.test_batch_size_finder import same

pytestmark = pytest.mark.usefixtures("process")


class Fading(FakeMeter):
    """Memory that runs out in one step, as when another process takes some."""

    def __init__(self, step):
        super().__init__(10**6)
        self.step = step

    def take(self, samples):
        super().take(samples)
        if len(self.sizes) == self.step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_what_gives_other_logits_is_rejected(tmp_path, take):
    take("default")
    one = chooser(tmp_path, "wrong")
    assert same(fit(built(), one), fit(built()))
    assert one.choice.value == "off"
    assert "logits differ by" in one.choice.reason
    assert "0.001 is allowed" in one.choice.reason


def test_a_compiler_that_fails_leaves_the_part_eager_with_one_line(tmp_path, take):
    take("default")
    one = chooser(tmp_path, "broken")
    assert same(fit(built(), one), fit(built()))
    assert one.choice.value == "off"
    assert "this compiler has no idea" in one.choice.reason
    assert "\n" not in one.choice.reason
    assert "more to say" not in one.choice.reason


def test_a_batch_that_never_fits_is_left_to_the_recovery(tmp_path):
    def fitted(*callbacks):
        module = built(lambda _: Separable(FakeMeter(10**6, real_mib=140)))  # 4 of the 8 samples
        return fit(module, *callbacks, OomRecovery())

    one = chooser(tmp_path)
    assert same(fitted(one), fitted())
    assert (one.choice.value, one.choice.reason) == ("off", "memory ran out in the trial")
    assert Stub.started == []


# The step that is watched, eager ones, and compiled and eager ones in turn after three to warm up.
@pytest.mark.parametrize("step", [1, 2, 3, 8, 12])
def test_memory_that_runs_out_in_any_step_of_the_trial_leaves_it_off(tmp_path, step):
    meter = Fading(step)
    one = chooser(tmp_path, total_steps=10**6)
    tried = fit(built(lambda _: Plain(meter)), one)
    assert meter.step == step < len(meter.sizes)
    assert (one.choice.value, one.choice.reason) == ("off", "memory ran out in the trial")
    assert same(tried, fit(built()))
    assert tried[0].net._compiled_call_impl is None


def test_what_is_not_done_in_time_is_ended(tmp_path, take, monkeypatch):
    take("default")
    monkeypatch.setattr(Stub, "is_done", False, raising=False)
    monkeypatch.setattr(
        Stub,
        "__setattr__",
        lambda self, name, value: (
            None if name == "is_done" else object.__setattr__(self, name, value)
        ),
    )
    ticks = iter(range(0, 10_000, 20))
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)), sleep=lambda seconds: None)
    monkeypatch.setattr(trial_module, "time", clock)
    one = chooser(tmp_path)
    fit(built(), one)
    assert "default: not compiled within 1 min 00 s" in one.choice.reason
    assert Stub.started[0].ended
    assert CALLS == []  # nor compiled here


def test_a_fault_of_the_process_is_the_reason(tmp_path, take, monkeypatch):
    take("default")
    monkeypatch.setattr(Stub, "fault", lambda self: "the process that compiles was killed")
    one = chooser(tmp_path)
    fit(built(), one)
    assert one.choice.reason == "default: the process that compiles was killed"
    assert Stub.started[0].ended
    assert CALLS == []


@pytest.mark.parametrize(
    ("device", "local_rank", "is_first"),
    [("cpu", 0, True), ("cpu", 1, False), ("cuda:0", 0, True), ("cuda:1", 1, True)],
)
def test_each_card_is_compiled_for_and_the_processor_once(device, local_rank, is_first):
    assert trial_module.is_first_of_device(torch.device(device), local_rank) == is_first


def test_a_part_that_no_step_calls_stays_eager(tmp_path):
    module = built()
    module.spare = nn.Linear(2, 2)
    one = CompileChooser("spare", backend="noting", cache_dir=tmp_path)
    fit(module, one)
    assert one.choice.value == "off"
    assert one.choice.reason == "a step does not call Linear"


def test_a_part_of_several_tensors_stays_eager(tmp_path):
    class Two(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return {"logits": self.inner(x)}

    class Module(Plain):
        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.two(batch[0])["logits"], batch[1])

    module = built(lambda _: Module())
    module.two = Two(module.net)
    one = CompileChooser("two", backend="noting", cache_dir=tmp_path)
    fit(module, one)
    assert one.choice.reason == "Two returns no tensor but dict"


@pytest.mark.gpu
def test_on_a_gpu_modes_are_compiled_in_a_process_and_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(trial_module, "CompilingProcess", CompilingProcess)
    monkeypatch.setattr("gpuopt.measure.compile_choice._MOST_SAVED_RATIO", 1e6)
    one = chooser(tmp_path, "inductor", time_limit_s=240.0)
    _, trainer = fit(built(Unknown), one, accelerator="gpu", devices=1)
    assert trainer.global_step == 16
    first = one.result.trials[0]
    assert first.mode == "default"
    assert first.step_s > 0  # compiled, found right and timed
    assert list((tmp_path / "compiled" / "gpuopt").glob("*.json"))
