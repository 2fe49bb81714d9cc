import pytest
import torch

from gpuopt.callbacks import StepProfiler
from gpuopt.callbacks.step_profiler import usable_activities
from gpuopt.errors import InputError
from gpuopt.profiling import profile_trace, read_trace

QUIET = {"enable_checkpointing": False, "limit_val_batches": 0}


class Sorting(torch.nn.Module):
    """A planted fault: what an innocent layer would do in no time."""

    def forward(self, values):
        return values + 0 * torch.randn(300_000).sort().values[0]


@pytest.fixture
def slow_module(module):
    module.net.insert(0, Sorting())
    return module


def test_the_planted_operator_is_named_first(make_trainer, slow_module, loader, tmp_path):
    profiler = StepProfiler(
        tmp_path / "p", wait=5, warmup=1, active=3, record_shapes=True, with_stack=True
    )
    trainer = make_trainer(profiler, **QUIET)
    trainer.fit(slow_module, loader, loader)
    assert trainer.global_step == 9
    assert trainer.state.finished
    assert profiler.recorded_steps == 3
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["trace.json.gz"]
    profile = profile_trace(profiler.trace_path, plain_step_ms=profiler.plain_step_ms)
    assert profile.steps == 3
    assert profile.operators[0].name == "aten::sort"
    assert profile.operators[0].calls == 3
    assert "aten::sort takes" in profile.headline()
    assert "[[300000]" in profile.operators_by_shape[0].shapes
    assert profile.sites[0].name.endswith("test_step_profiler.py(15): forward")
    assert [phase.name for phase in profile.phases] == ["data", "forward", "backward", "optimizer"]
    assert profile.phases[1].host_ms == max(phase.host_ms for phase in profile.phases)
    assert profile.shares[0].name == "operators"


def test_a_step_of_several_batches_is_one_step(make_trainer, module, loader, tmp_path):
    profiler = StepProfiler(tmp_path, wait=0, warmup=1, active=2)
    trainer = make_trainer(profiler, accumulate_grad_batches=2, **QUIET)
    trainer.fit(module, loader, loader)
    assert trainer.global_step == 3
    trace = read_trace(profiler.trace_path)
    assert len(trace.steps) == 2
    names = [span.name for span in trace.phases if span.start_us >= trace.start_us]
    batch = ["data", "forward", "backward"]
    assert names == [*batch, "optimizer"] * 4 + ["profiler"]
    assert profiler.plain_step_ms is None


def test_memory_is_followed(make_trainer, module, loader, tmp_path):
    profiler = StepProfiler(tmp_path, wait=0, warmup=1, active=1, profile_memory=True)
    make_trainer(profiler, **QUIET).fit(module, loader, loader)
    profile = profile_trace(profiler.trace_path)
    assert profile.peak_bytes > 0
    assert any(row.self_bytes for row in profile.operators)
    assert not profiler.snapshot_path.exists()  # the allocator of a CPU keeps none


def test_training_goes_on_where_it_is_not_to_stop(make_trainer, module, loader, tmp_path):
    done = []
    profiler = StepProfiler(tmp_path, wait=1, warmup=1, active=2, stops=False, on_step=done.append)
    trainer = make_trainer(profiler, **QUIET)
    trainer.fit(module, loader, loader)
    assert trainer.global_step == 18
    assert done == [1, 2, 3, 4]
    assert len(read_trace(profiler.trace_path).steps) == 2


def test_what_is_trained_is_the_same(make_trainer, module, loader, tmp_path):
    states = []
    for callbacks in ([], [StepProfiler(tmp_path, wait=2, warmup=1, active=1, stops=False)]):
        torch.manual_seed(1)
        copied = type(module)()
        make_trainer(*callbacks, **QUIET).fit(copied, loader, loader)
        states.append(copied.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_shorter_training_leaves_what_was_recorded(make_trainer, module, loader, tmp_path):
    profiler = StepProfiler(tmp_path, wait=1, warmup=1, active=9)
    make_trainer(profiler, max_steps=5, **QUIET).fit(module, loader, loader)
    assert profiler.recorded_steps == 3
    assert len(read_trace(profiler.trace_path).steps) >= 3


@pytest.mark.parametrize("steps", [1, 3])
def test_a_training_that_ends_before_the_window_leaves_nothing(
    make_trainer, module, loader, tmp_path, steps
):
    profiler = StepProfiler(tmp_path / "p", wait=2, warmup=3, active=1)
    make_trainer(profiler, max_steps=steps, **QUIET).fit(module, loader, loader)
    assert profiler.recorded_steps == 0
    assert not profiler.trace_path.exists()
    again = StepProfiler(tmp_path / "q", wait=0, warmup=1, active=1)
    make_trainer(again, **QUIET).fit(module, loader, loader)  # the profiler is free again
    assert again.recorded_steps == 1


def test_a_training_that_fails_frees_the_profiler(make_trainer, module, loader, tmp_path):
    def fail(optimizer=None):
        raise RuntimeError("planted")

    profiler = StepProfiler(tmp_path / "p", wait=0, warmup=1, active=5)
    module.on_before_optimizer_step = fail
    with pytest.raises(RuntimeError, match="planted"):
        make_trainer(profiler, **QUIET).fit(module, loader, loader)
    del module.on_before_optimizer_step
    again = StepProfiler(tmp_path / "q", wait=0, warmup=1, active=1)
    make_trainer(again, **QUIET).fit(module, loader, loader)
    assert again.trace_path.exists()


def test_a_profiler_that_cannot_start_is_never_stopped(
    make_trainer, module, loader, tmp_path, monkeypatch
):
    stops = []

    class Refusing(torch.profiler.profile):
        def start(self):
            raise RuntimeError("no events here")

        def stop(self):  # PyTorch's own ends the process when nothing was started
            stops.append(self)

    monkeypatch.setattr("gpuopt.callbacks.step_profiler.profile", Refusing)
    profiler = StepProfiler(tmp_path, wait=1, warmup=1, active=1)
    with pytest.raises(RuntimeError, match="no events here"):
        make_trainer(profiler, **QUIET).fit(module, loader, loader)
    assert not stops


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "trace.json.gz").write_text("mine")
    with pytest.raises(InputError, match=r"trace\.json\.gz exists"):
        StepProfiler(tmp_path)


@pytest.mark.parametrize("steps", [{"wait": -1}, {"warmup": 0}, {"active": 0}])
def test_too_few_steps_are_refused(tmp_path, steps):
    with pytest.raises(InputError, match="give at least 0, 1 and 1"):
        StepProfiler(tmp_path, **steps)


def test_activities_are_those_of_this_machine(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert len(usable_activities(["cpu", "cuda"])) == 1
    with pytest.raises(InputError, match="there is no CUDA device"):
        usable_activities(["cuda"])
    with pytest.raises(InputError, match="tpu is not one of cpu, cuda"):
        usable_activities(["tpu"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert len(usable_activities(["cpu", "cuda"])) == 2


@pytest.mark.gpu
def test_on_a_gpu_kernels_and_the_allocator_are_recorded(make_trainer, module, loader, tmp_path):
    profiler = StepProfiler(tmp_path, wait=5, warmup=2, active=3, profile_memory=True)
    make_trainer(profiler, accelerator="gpu", devices=1, **QUIET).fit(module, loader, loader)
    profile = profile_trace(profiler.trace_path, plain_step_ms=profiler.plain_step_ms)
    assert profile.has_device
    assert profile.kernels
    assert sum(share.ratio for share in profile.shares) == pytest.approx(1)
    assert sum(phase.device_ms for phase in profile.phases) > 0
    assert profile.peak_bytes > 0
    assert profiler.snapshot_path.stat().st_size > 0
