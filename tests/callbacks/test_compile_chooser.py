from types import SimpleNamespace
from typing import ClassVar

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from gpuopt.callbacks import AdaptiveBatchSize, CompileChooser, MovingAverage, OomRecovery
from gpuopt.callbacks import compile_chooser as chooser_module
from gpuopt.callbacks import compile_trial as trial_module
from gpuopt.errors import InputError
from gpuopt.measure.compile_choice import CompileChoice, CompileFailedError
from gpuopt.steps.compiled_part import GraphedCall
from gpuopt.steps.compiling_process import CompilingProcess
from tests.callbacks.finder_modules import ByHand, FakeMeter, OwnData, Rows, Unknown
from tests.callbacks.test_batch_size_finder import SETTINGS, same

CALLS = []


def noting(graph, examples, **options):
    """Compile nothing, and note when the result is run, and by how many samples."""
    CALLS.append(("compile", len(examples[-1])))

    def run(*args):
        CALLS.append("run")
        return graph(*args)

    return run


def wrong(graph, examples, **options):
    """Compile into something that gives other logits."""
    return lambda *args: tuple(out * 1.01 + 0.01 * out.flip(-1) for out in graph(*args))


def broken(graph, examples, **options):
    raise ValueError("this compiler has no idea\nand much more to say")


class Stub:
    """A process that compiles at once, or never."""

    started: ClassVar[list] = []

    def __init__(self, task, mode):
        self.task, self.mode, self.ended = task, mode, False
        self.is_done, self.words = True, None
        Stub.started.append(self)

    def fault(self):
        return self.words

    def end(self):
        self.ended = True


class Plain(Unknown):
    """Without dropout, so that compiled steps are those of eager ones to the bit."""

    def __init__(self, meter=None):
        super().__init__(meter or FakeMeter(10**6))
        self.net[3] = nn.Identity()


@pytest.fixture(autouse=True)
def process(monkeypatch):
    """No process is started; the first call of all tests registers the compilers."""
    torch.compiler.reset()
    for backend in (noting, wrong, broken):
        if backend.__name__ not in torch.compiler.list_backends(()):
            torch._dynamo.register_backend(backend)
    CALLS.clear()
    Stub.started = []
    monkeypatch.setattr(trial_module, "CompilingProcess", Stub)
    yield Stub
    torch.compiler.reset()


@pytest.fixture
def take(monkeypatch):
    """Choose a mode whatever the times are, if it can be made; notes what it was asked with."""
    asked = []

    def install(mode):
        def choose(step_eager, make_compiled, steps_left, **options):
            asked.append(SimpleNamespace(steps_left=steps_left, **options))
            step_eager()
            try:
                if mode != "off":
                    make_compiled(mode, 60.0)()
            except CompileFailedError as error:
                return CompileChoice("off", f"{mode}: {error}", steps_left, 1.0)
            return CompileChoice(mode, "as the test wants it", steps_left, 1.0)

        monkeypatch.setattr(chooser_module, "choose_compile_mode", choose)
        return asked

    return install


def fit(module, *callbacks, data=None, ckpt_path=None, **options):
    torch.manual_seed(3)
    trainer = L.Trainer(
        callbacks=list(callbacks), **(SETTINGS | {"gradient_clip_val": 0.5} | options)
    )
    if data is None:
        loaders = (DataLoader(Rows(), 8, shuffle=True), DataLoader(Rows(), 8))
        trainer.fit(module, *loaders, ckpt_path=ckpt_path)
    else:
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    module.random_numbers = torch.get_rng_state()
    return module, trainer


def built(kind=Plain):
    torch.manual_seed(5)
    return kind() if kind is Plain else kind(FakeMeter(10**6))


def chooser(tmp_path, backend="noting", **options):
    return CompileChooser("net", backend=backend, cache_dir=tmp_path, **options)


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


class Fading(FakeMeter):
    """Memory that runs out in one step, as when another process takes some."""

    def __init__(self, step):
        super().__init__(10**6)
        self.step = step

    def take(self, samples):
        super().take(samples)
        if len(self.sizes) == self.step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Separable(Plain):
    """Takes a batch in parts as it takes the whole."""

    def training_step(self, batch, batch_idx):
        self.meter[0].take(len(batch[0]))
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


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


@pytest.mark.parametrize(
    ("device", "local_rank", "is_first"),
    [("cpu", 0, True), ("cpu", 1, False), ("cuda:0", 0, True), ("cuda:1", 1, True)],
)
def test_each_card_is_compiled_for_and_the_processor_once(device, local_rank, is_first):
    assert trial_module.is_first_of_device(torch.device(device), local_rank) == is_first


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
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
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
