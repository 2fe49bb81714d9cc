import weakref

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from gpuopt.callbacks import BatchSizeFinder, MovingAverage, OomRecovery
from gpuopt.errors import InputError, TargetNotMetError
from gpuopt.memory import MOST_PROBES
from tests.callbacks.finder_modules import ByHand, FakeMeter, OwnData, Rows, Unknown

# 5 % of 800 MiB stay free, and 0.3 GiB for what the peaks of other sizes may have more: with
# 100 MiB at rest and 10 MiB for each sample 39 fit.
FITS = 39


SETTINGS = {
    "max_epochs": 2,
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


def loaders(batch_size=4):
    data = {"dataset": Rows(), "batch_size": batch_size}
    return DataLoader(**data, shuffle=True), DataLoader(**data)


def fitted(kind, *callbacks, meter=None, data=None, batch_size=4, **options):
    torch.manual_seed(3)
    module = kind(meter or FakeMeter(10**6))
    settings = SETTINGS | {"gradient_clip_val": 0.5 if kind is Unknown else None}
    trainer = L.Trainer(callbacks=list(callbacks), **(settings | options))
    if data is None:
        trainer.fit(module, *loaders(batch_size))
    else:
        trainer.fit(module, datamodule=data)
    module.random_numbers = torch.get_rng_state()
    return module, trainer


def same(one, other):
    """Compare two fits bit by bit."""
    (module, trainer), (module2, trainer2) = one, other
    state, state2 = module.state_dict(), module2.state_dict()
    assert state.keys() == state2.keys()
    assert all(torch.equal(state[key], state2[key]) for key in state)
    for optimizer, optimizer2 in zip(trainer.optimizers, trainer2.optimizers, strict=True):
        values, values2 = optimizer.state_dict(), optimizer2.state_dict()
        torch.testing.assert_close(values, values2, rtol=0, atol=0)
    for config, config2 in zip(
        trainer.lr_scheduler_configs, trainer2.lr_scheduler_configs, strict=True
    ):
        assert config.scheduler.state_dict() == config2.scheduler.state_dict()
    assert trainer.global_step == trainer2.global_step
    assert trainer.fit_loop.state_dict() == trainer2.fit_loop.state_dict()
    assert trainer.callback_metrics == trainer2.callback_metrics
    assert (module.calls, module.seen) == (module2.calls, module2.seen)
    assert torch.equal(module.random_numbers, module2.random_numbers)
    return True


def test_a_fit_after_finding_equals_one_that_was_given_the_size():
    meter = FakeMeter()
    finder = BatchSizeFinder(meter=meter)
    found = fitted(Unknown, finder, OomRecovery(), MovingAverage(), meter=meter)
    assert finder.result.largest == FITS
    assert finder.result.out_of_memory_count == meter.failures == 0
    assert len(finder.result.probes) <= MOST_PROBES
    given = fitted(Unknown, OomRecovery(), MovingAverage(), batch_size=FITS)
    assert same(found, given)
    assert found[0].seen[0] == FITS


def test_somebody_elses_data_module_and_manual_optimization():
    meter, data = FakeMeter(), OwnData()
    finder = BatchSizeFinder(meter=meter, batch_arg_name="per_step")
    found = fitted(ByHand, finder, meter=meter, data=data)
    assert data.per_step == finder.result.largest == FITS
    given = OwnData(FITS)
    assert same(found, fitted(ByHand, data=given))
    assert (data.asked, data.rows.reads) == (given.asked, given.rows.reads)


def test_steps_in_float16_leave_no_trace_in_the_scaler():
    def plugin():
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        return MixedPrecision("16-mixed", "cpu", scaler)

    meter = FakeMeter()
    found = fitted(Unknown, BatchSizeFinder(meter=meter), meter=meter, plugins=[plugin()])
    given = fitted(Unknown, batch_size=FITS, plugins=[plugin()])
    assert same(found, given)
    scales = [fit[1].precision_plugin.scaler.state_dict() for fit in (found, given)]
    assert scales[0] == scales[1]


def test_a_global_batch_sets_micro_batch_and_accumulation():
    meter = FakeMeter()
    finder = BatchSizeFinder(meter=meter, global_batch_size=60)
    found = fitted(Unknown, finder, meter=meter)
    assert found[1].accumulate_grad_batches == 2
    assert found[0].seen[:2] == [30, 30]
    assert finder.choice.value == 30
    assert finder.choice.evidence == "measured"
    assert same(found, fitted(Unknown, batch_size=30, accumulate_grad_batches=2))
    assert max(probe.samples for probe in finder.result.probes) <= 60


@pytest.mark.parametrize(
    ("recovers", "phase"),
    [(True, "forward"), (False, "forward"), (True, "backward"), (True, "validation")],
)
def test_a_probe_that_runs_out_of_memory_is_survived(recovers, phase):
    """The device has less than it says, as when another process grows."""
    meter = FakeMeter(capacity_mib=4000, real_mib=800, phase=phase)
    callbacks = [OomRecovery()] if recovers else []
    finder = BatchSizeFinder(meter=meter)
    found = fitted(Unknown, finder, *callbacks, meter=meter)
    assert meter.failures == finder.result.out_of_memory_count >= 1
    assert len(finder.result.probes) <= MOST_PROBES
    size = finder.result.largest
    assert 2 <= size <= 70
    assert same(found, fitted(Unknown, *callbacks, batch_size=size))
    if recovers:
        assert callbacks[0].events == []


def test_a_minimum_that_does_not_fit_ends_with_a_clear_error():
    meter = FakeMeter()
    with pytest.raises(TargetNotMetError, match="batch size 200 does not fit"):
        fitted(Unknown, BatchSizeFinder(meter=meter, minimum=200), meter=meter)


def test_finding_only_ends_before_the_first_step():
    meter = FakeMeter()
    finder = BatchSizeFinder(meter=meter, find_only=True)
    module, trainer = fitted(Unknown, finder, meter=meter)
    assert finder.result.largest == FITS
    assert (trainer.global_step, module.calls, module.seen) == (0, 0, [])


def test_a_size_can_be_set_by_a_function_and_batches_be_given():
    meter, sizes = FakeMeter(), []
    finder = BatchSizeFinder(
        meter=meter,
        find_only=True,
        set_batch_size=sizes.append,
        sample_batch=lambda samples: (torch.zeros(samples, 8), torch.zeros(samples).long()),
    )
    fitted(Unknown, finder, meter=meter)
    assert sizes == [FITS]
    assert meter.sizes[0] == 2


def test_without_a_device_nothing_is_measured():
    finder = BatchSizeFinder()
    module, _ = fitted(Unknown, finder)
    assert finder.result is finder.summary() is None
    assert module.seen[0] == 4


class Once:
    def __iter__(self):
        return self

    def __next__(self):
        return torch.zeros(4, 8), torch.zeros(4).long()


def test_what_cannot_be_measured_or_set_is_refused():
    meter = FakeMeter()
    with pytest.raises(InputError, match="give another batch_arg_name"):
        fitted(Unknown, BatchSizeFinder(meter=meter, batch_arg_name="rows"), meter=meter)
    trainer = L.Trainer(callbacks=[BatchSizeFinder(meter=meter)], **SETTINGS)
    with pytest.raises(InputError, match=r"read only once.*sample_batch"):
        trainer.fit(Unknown(meter), Once(), loaders()[1])
    for options in ({"take": "most"}, {"headroom_ratio": 1.5}, {"minimum": 9, "maximum": 3}):
        with pytest.raises(InputError, match="BatchSizeFinder"):
            BatchSizeFinder(**options)


class Cache(FakeMeter):
    """An allocator that keeps a cache, which it has to give back from some size on."""

    def __init__(self, most):
        super().__init__()
        self.most, self.gave_back, self.fullest = most, 0, 0
        self.lost_s = 0.0

    def take(self, samples):
        super().take(samples)
        self.gave_back += samples > self.most
        self.lost_s += 1000.0 * (samples > self.most)

    def clock_s(self):
        return super().clock_s() + self.lost_s

    def note_fragments(self):
        self.fullest += 1

    def live_bytes(self):
        return 0  # unknown

    def retries(self):
        return self.gave_back


@pytest.mark.parametrize(
    ("kind", "make_data", "passes"), [(Unknown, lambda: None, 1), (ByHand, OwnData, 2)]
)
def test_the_allocator_is_looked_at_when_a_step_is_fullest_and_must_not_thrash(
    kind, make_data, passes
):
    meter, data = Cache(most=20), make_data()
    name = None if data is None else "per_step"
    finder = BatchSizeFinder(meter=meter, find_only=True, batch_arg_name=name)
    fitted(kind, finder, meter=meter, data=data)
    assert meter.fullest == passes * len(meter.sizes)  # backward passes of a step
    assert finder.result.largest <= 20
    assert any(probe.thrashed for probe in finder.result.probes)
    assert finder.result.out_of_memory_count == 0


class WatchesGradients(Unknown):
    """Tells its meter, which nothing puts back, whether gradients are there before backward."""

    def backward(self, loss, *args, **options):
        there = all(p.grad is not None for p in self.parameters())
        self.meter[0].there.append((len(self.meter[0].sizes), there))
        super().backward(loss, *args, **options)


@pytest.mark.parametrize(("global_batch_size", "accumulates"), [(10_000, True), (2, False)])
def test_a_probe_holds_gradients_where_training_will_add_to_some(global_batch_size, accumulates):
    meter = FakeMeter()
    meter.there = []
    module = WatchesGradients(meter)
    finder = BatchSizeFinder(
        meter=meter, global_batch_size=global_batch_size, steps=3, find_only=True
    )
    L.Trainer(callbacks=[finder], **SETTINGS).fit(module, *loaders())
    probes = len(finder.result.probes)
    assert [there for _, there in meter.there] == [False, accumulates, accumulates] * probes
    assert all(p.grad is None for p in module.parameters())


class WatchesBoth(Unknown):
    """Tells which gradients of the step before are alive when its backward pass has ended."""

    def backward(self, loss, *args, **options):
        earlier = self.meter[0].earlier
        super().backward(loss, *args, **options)
        own = {id(p.grad) for p in self.parameters()}
        alive = [ref for ref in earlier if (g := ref()) is not None and id(g) not in own]
        self.meter[0].apart.append(len(alive))
        earlier[:] = [weakref.ref(p.grad) for p in self.parameters()]


@pytest.mark.parametrize("recovers", [True, False])
def test_a_probe_keeps_two_sets_of_gradients_where_recovery_will(recovers):
    """With BatchNorm; see `gpuopt.steps.window_gradients`."""
    meter = FakeMeter()
    meter.earlier, meter.apart = [], []
    module = WatchesBoth(meter)
    finder = BatchSizeFinder(meter=meter, global_batch_size=10_000, steps=3, find_only=True)
    callbacks = [finder, *([OomRecovery()] if recovers else [])]
    L.Trainer(callbacks=callbacks, **SETTINGS).fit(module, *loaders())
    sets = 6 if recovers else 0  # tensors of the network
    assert meter.apart == [0, sets, sets] * len(finder.result.probes)
