import pytest
import torch

from gpuopt.callbacks import AdaptiveBatchSize, CompileChooser, MovingAverage, OomRecovery
from gpuopt.callbacks import compile_trial as trial_module
from gpuopt.errors import InputError
from gpuopt.steps.compiled_part import GraphedCall
from tests.callbacks.compile_modules import CALLS, Separable, Stub, built, chooser, fit
from tests.callbacks.finder_modules import ByHand, FakeMeter, OwnData, Unknown
from tests.callbacks.test_batch_size_finder import same

pytestmark = pytest.mark.usefixtures("process")


@pytest.mark.parametrize("mode", ["off", "default"])
def test_a_fit_after_the_trial_equals_one_without(tmp_path, take, mode):
    take(mode)
    one = chooser(tmp_path)
    tried = fit(built(), one, OomRecovery(), MovingAverage())
    plain = fit(built(), OomRecovery(), MovingAverage())
    assert same(tried, plain)
    assert one.choice.value == mode
    assert one.summary()["mode"] == mode
    assert ("run" in CALLS) == (mode == "default")


def test_chance_is_no_obstacle_and_leaves_no_trace(tmp_path, take):
    take("default")
    one = chooser(tmp_path)
    assert same(fit(built(Unknown), one), fit(built(Unknown)))
    assert one.choice.value == "default"
    assert Stub.started[0].task.has_chance
    # Of training and, to be compared, of a forward pass without dropout.
    assert len([call for call in CALLS if call != "run"]) == 2


def test_manual_optimization_and_somebody_elses_data(tmp_path, take):
    take("default")
    one = chooser(tmp_path)
    options = {"gradient_clip_val": None}
    tried, plain = OwnData(), OwnData()
    result = fit(built(ByHand), one, data=tried, **options)
    assert one.choice.value == "default"
    assert same(result, fit(built(ByHand), data=plain, **options))


def test_in_training_only_full_batches_run_compiled_and_nothing_is_compiled_anew(tmp_path, take):
    take("default")
    module = built()
    names = list(module.state_dict())
    one = chooser(tmp_path)
    fit(module, one)
    compiled = [call for call in CALLS if call != "run"]
    assert len(compiled) == 1
    in_trial = 3 + 1 + 1  # to warm up, to compare, and the step of the test
    # Of 60 rows 7 batches of 8 in each of two epochs; not the last 4, and no validation.
    assert CALLS.count("run") == in_trial + 2 * 7
    assert one.summary()["compiled_calls"] == 2 * 7
    assert one.summary()["eager_calls"] == 2 + 2 * (1 + 8)  # the sanity check as well
    assert list(module.state_dict()) == names
    assert module.net._compiled_call_impl is None  # for what follows


@pytest.mark.parametrize(("real_mib", "ends"), [(10**6, False), (140, True)])
def test_a_batch_that_is_split_ends_cuda_graphs(tmp_path, monkeypatch, real_mib, ends):
    monkeypatch.setattr(torch, "compile", lambda run, **options: run)
    module = built(lambda _: Separable(FakeMeter(10**6, real_mib=real_mib)))
    graphed = GraphedCall(module.net, "max-autotune", "inductor")
    recovery = OomRecovery()
    _, trainer = fit(module, recovery, max_epochs=1)
    assert (module.net._compiled_call_impl is not graphed) == ends
    assert module.net._compiled_call_impl is not None
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    module = built(lambda _: Separable(FakeMeter(10**6)))
    graphed = GraphedCall(module.net, "max-autotune", "inductor")
    fit(module, OomRecovery(), ckpt_path=tmp_path / "last.ckpt")
    assert (module.net._compiled_call_impl is not graphed) == ends  # its parts are remembered


def test_a_second_start_needs_no_process(tmp_path, take):
    take("default")
    fit(built(), chooser(tmp_path))
    fit(built(), chooser(tmp_path))
    assert len(Stub.started) == 1
    take("max-autotune")  # another mode is compiled anew
    fit(built(), chooser(tmp_path, "eager"))
    assert len(Stub.started) == 2


@pytest.mark.parametrize(("device", "anew"), [("cpu", False), ("Another card", True)])
def test_a_run_that_goes_on_keeps_its_choice_on_such_a_device(tmp_path, take, device, anew):
    asked = take("default")
    first = chooser(tmp_path)
    _, trainer = fit(built(), first, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert asked[0].steps_left == 8
    take("off")  # is not asked, unless the device is another one
    second = chooser(tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    (key,) = (key for key in state["callbacks"] if "CompileChooser" in key)
    assert state["callbacks"][key]["device"] == "cpu"
    state["callbacks"][key]["device"] = device
    torch.save(state, tmp_path / "last.ckpt")
    CALLS.clear()
    _, trainer = fit(built(), second, ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 16
    assert second.choice.value == ("off" if anew else "default")
    assert (len(asked) == 2) == anew
    assert ("run" in CALLS) == (not anew)
    if anew:
        assert asked[1].steps_left == 8  # of 16, half of them done
        assert second.choice.reason == "as the test wants it"


def test_a_choice_that_was_off_takes_no_step_when_the_run_goes_on(tmp_path, take, monkeypatch):
    asked = take("off")
    _, trainer = fit(built(), chooser(tmp_path), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    monkeypatch.setattr(trial_module, "FitState", None)  # nothing to be put back
    module, second = built(), chooser(tmp_path)
    fit(module, second, ckpt_path=tmp_path / "last.ckpt")
    assert module.seen == 7 * [8] + [4]
    assert (second.choice.value, second.choice.reason) == ("off", "as the test wants it")
    assert len(asked) == 1


def test_a_choice_that_cannot_be_made_again_is_off(tmp_path, take, monkeypatch):
    take("default")
    _, trainer = fit(built(), chooser(tmp_path), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = chooser(tmp_path, "broken")
    fit(built(), second, ckpt_path=tmp_path / "last.ckpt")
    assert second.choice.value == "off"
    assert "this compiler has no idea" in second.choice.reason


def test_sizes_that_follow_the_memory_stay_eager(tmp_path, take):
    asked = take("default")
    one = chooser(tmp_path)
    fit(built(lambda _: Separable(FakeMeter(10**6))), one, AdaptiveBatchSize(4), max_epochs=1)
    assert one.choice.value == "off"
    assert "AdaptiveBatchSize changes the size of batches" in one.choice.reason
    assert asked == []


def test_a_run_that_goes_on_in_parts_stays_eager(tmp_path, take):
    asked = take("default")
    small = built(lambda _: Separable(FakeMeter(10**6, real_mib=140)))
    _, trainer = fit(small, OomRecovery(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    one = chooser(tmp_path)
    module = built(lambda _: Separable(FakeMeter(10**6)))
    fit(module, one, OomRecovery(), ckpt_path=tmp_path / "last.ckpt")
    assert one.choice.reason == "OomRecovery goes on with 4 of 8 samples at a time"
    assert asked == []


def test_batches_left_are_those_of_full_size(tmp_path, take):
    asked = take("off")
    fit(built(), chooser(tmp_path), accumulate_grad_batches=2)
    fit(built(), chooser(tmp_path, total_steps=100, batches_per_step=lambda: 3))
    assert [call.steps_left for call in asked] == [2 * 8, 300]
    assert asked[0].modes == ("default",)
    assert asked[0].time_limit_s == 120.0


def test_a_batch_that_is_given_is_tried(tmp_path, take):
    take("default")
    rows = torch.randn(5, 8), torch.randint(3, (5,))
    fit(built(), chooser(tmp_path, sample_batch=lambda: rows), max_steps=1)
    assert Stub.started[0].task.call.args[0].shape == (5, 8)
    assert Stub.started[0].task.call.args[0].device.type == "meta"


def test_without_a_compiler_it_stays_off(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    one = chooser(tmp_path, "inductor")
    assert same(fit(built(), one), fit(built()))
    assert str(one.choice).startswith("compile.mode=off (measured: no C++ compiler: install")
    assert Stub.started == []


def test_the_part_has_to_be_there_and_uncompiled(tmp_path):
    with pytest.raises(InputError, match="Plain has no part 'backbone'"):
        fit(built(), CompileChooser(cache_dir=tmp_path))
    module = built()
    module.net.compile(backend="eager")
    with pytest.raises(InputError, match="net is compiled already"):
        fit(module, chooser(tmp_path))
    with pytest.raises(InputError, match="time_limit_s=0 is not above 0"):
        CompileChooser(time_limit_s=0)
