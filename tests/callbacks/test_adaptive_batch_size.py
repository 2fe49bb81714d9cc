"""The micro-batch follows a device's memory, and nothing else changes."""

import logging

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from gpuopt.callbacks import AdaptiveBatchSize, MovingAverage, OomRecovery
from gpuopt.errors import FaultError, InputError
from tests.callbacks.memory_faults import FakeMeter, Limits, difference, fit, loader, metered

LONG = {"validates": False, "max_epochs": 6}  # 30 batches of 10, each sixth one of 4


@pytest.fixture(scope="module")
def undisturbed():
    return fit(**LONG)


def changes(callback):
    kinds = ("adapt", "out_of_memory")
    return [(e["samples"], e["micro_batch_size"]) for e in callback.events if e["event"] in kinds]


def test_it_grows_to_the_loaders_batch_and_the_result_stays(undisturbed):
    meter = FakeMeter(total=100)
    adaptive = AdaptiveBatchSize(initial=2, meter=meter)
    run = fit(adaptive, kind=metered(meter), **LONG)
    assert changes(adaptive) == [(2, 3), (3, 4), (4, 5), (5, 10)]
    assert adaptive.summary()["final_micro_batch_size"] == 10
    assert adaptive.summary()["bytes_per_sample"] == meter.per_sample
    assert max(run[0].parts) == 10
    assert difference(undisturbed, run) < 1e-12


@pytest.mark.parametrize(
    ("total", "target_ratio", "maximum", "last"),
    [
        (50, 0.85, None, 5),  # 10 samples take 60 units, 5 take 35 of 42.5
        (70, 0.85, None, 5),  # 10 take 60 of 59.5
        (71, 0.85, None, 10),
        (71, 0.5, None, 5),  # 35 of 35.5
        (69, 0.5, None, 4),  # 30 of 34.5
        (100, 0.85, 5, 5),
        (100, 0.85, 7, 5),  # 10 samples in parts of at most 7 are two of 5
        (100, 0.85, 64, 10),
    ],
)
def test_it_stops_where_the_next_size_is_expected_above_the_target(
    total, target_ratio, maximum, last
):
    meter = FakeMeter(total=total)
    adaptive = AdaptiveBatchSize(1, maximum, target_ratio, meter=meter)
    net, _ = fit(adaptive, kind=metered(meter), **LONG)
    assert max(net.parts) == last
    assert not [e for e in adaptive.events if e["event"] == "out_of_memory"]


def test_the_growth_ratio_bounds_a_change():
    meter, fast = FakeMeter(total=1000), FakeMeter(total=1000)
    kinds = metered(meter), metered(fast)
    slow, quick = (
        AdaptiveBatchSize(2, growth_ratio=ratio, meter=m)
        for ratio, m in ((1.01, meter), (5.0, fast))
    )
    for callback, kind in zip((slow, quick), kinds, strict=True):
        fit(callback, kind=kind, **LONG)
    assert changes(quick) == [(2, 10)]
    assert changes(slow) == [(2, 3), (3, 4), (4, 5), (5, 10)]  # always at least one part less


def fill(units):
    def happen(meter):
        meter.other = units

    return happen


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("is_sudden", [False, True])
def test_another_process_takes_memory_and_frees_it(accumulate, is_sudden):
    """Slowly it is seen in a reading; suddenly a step runs out of memory, and is taken again."""
    meter = FakeMeter(total=100)
    taken = 55 if is_sudden else 36  # 10 samples need 60 units
    adaptive = AdaptiveBatchSize(meter=meter)
    options = {**LONG, "max_epochs": 12, "accumulate_grad_batches": accumulate}
    run = fit(adaptive, kind=metered(meter, {10: fill(taken), 36: fill(0)}), **options)
    kinds = [event["event"] for event in adaptive.events]
    assert ("out_of_memory" in kinds) is is_sudden
    down, *_, up = changes(adaptive)
    assert down == (10, 5)
    assert up == (5, 10)
    assert difference(fit(**options), run) < 1e-12


def test_a_size_that_failed_is_left_alone_until_there_is_more_memory():
    meter = FakeMeter(total=100)
    adaptive = AdaptiveBatchSize(meter=meter, target_ratio=1.0)
    kind = metered(meter, {5: fill(41), 6: fill(40), 20: fill(20)})
    fit(adaptive, kind=kind, **LONG)
    assert changes(adaptive) == [(10, 5), (5, 10)]
    assert [event["step"] for event in adaptive.events] == [5, 20]


@pytest.mark.parametrize("is_first", [True, False])
def test_together_with_recovery_one_of_them_takes_the_steps(undisturbed, is_first):
    meter = FakeMeter(total=100)
    adaptive, recovery = AdaptiveBatchSize(initial=5, meter=meter), OomRecovery()
    both = [adaptive, recovery] if is_first else [recovery, adaptive]
    kind = metered(meter, {12: fill(55), 18: fill(0)})
    run = fit(*both, kind=kind, **LONG)
    assert [e["event"] for e in recovery.events] == ["out_of_memory"]
    assert {e["event"] for e in adaptive.events} == {"adapt"}
    assert changes(adaptive) == [(5, 10), (5, 10)]
    assert recovery.summary()["final_micro_batch_size"] == 10
    assert difference(undisturbed, run) < 1e-12
    assert not {"training_step", "backward", "optimizer_step"} & set(vars(run[0]))


@pytest.mark.parametrize("kinds", [(AdaptiveBatchSize,), (AdaptiveBatchSize, OomRecovery)])
@pytest.mark.parametrize("options", [{}, {"norm": "batch", "dropout": 0.3}])
def test_without_a_reason_not_a_bit_changes(kinds, options):
    meter = FakeMeter(total=1000)
    callbacks = [kind(meter=meter) for kind in kinds]
    options = {**options, "accumulate_grad_batches": 2}
    assert difference(fit(**options), fit(*callbacks, kind=metered(meter), **options)) == 0.0
    assert [c.events for c in callbacks] == [[]] * len(callbacks)


def test_batch_norm_and_dropout_give_a_run_at_that_size(caplog):
    meter = FakeMeter(total=55)
    options = {"norm": "batch", "dropout": 0.3, "accumulate_grad_batches": 2}
    run = fit(AdaptiveBatchSize(initial=5, meter=meter), kind=metered(meter), **options)
    assert caplog.text.count("the result is that of a run with the smaller micro-batch") == 1
    assert run[1].callback_metrics["loss_epoch"] != fit(**options)[1].callback_metrics["loss_epoch"]
    fixed = AdaptiveBatchSize(maximum=5)  # no meter on a CPU: the size stays
    assert difference(fit(fixed, **options), run) == 0.0


def test_the_moving_average_is_that_of_an_undisturbed_run():
    meter = FakeMeter(total=100)
    adaptive = AdaptiveBatchSize(initial=3, meter=meter)
    kind = metered(meter, {7: fill(55)})
    run = fit(MovingAverage(), adaptive, kind=kind)
    assert "out_of_memory" in [event["event"] for event in adaptive.events]
    assert difference(fit(MovingAverage()), run) < 1e-12


def test_steps_whose_last_batch_is_smaller_are_measured(undisturbed):
    """Batches of 10, 10 and 4: the last one of each window says nothing of the others."""
    meter = FakeMeter(total=100)
    adaptive = AdaptiveBatchSize(initial=5, meter=meter)
    data = loader(24, 10)
    options = {"validates": False, "accumulate_grad_batches": 3, "max_epochs": 8}
    fit(adaptive, kind=metered(meter), data=data, **options)
    assert changes(adaptive) == [(5, 10)]


def test_a_step_with_validation_in_its_middle_is_left_out(undisturbed):
    meter = FakeMeter(total=100)

    class Hungry(metered(meter)):
        def validation_step(self, batch, batch_idx):
            self.meter.most = 99  # far more than any training batch
            return super().validation_step(batch, batch_idx)

    adaptive = AdaptiveBatchSize(initial=5, meter=meter)
    options = {"accumulate_grad_batches": 2, "val_check_interval": 3, "max_epochs": 4}
    fit(adaptive, kind=Hungry, **options)
    assert changes(adaptive) == [(5, 10)]


def test_a_further_run_without_it_is_not_bound_by_it():
    recovery = OomRecovery()
    fit(AdaptiveBatchSize(maximum=5, meter=(meter := FakeMeter())), recovery, kind=metered(meter))
    net, _ = fit(recovery)
    assert max(net.sizes) == 10


def test_without_a_meter_the_first_size_stays_and_failures_are_survived(caplog):
    adaptive = AdaptiveBatchSize(initial=5)
    run = fit(adaptive, limits=Limits(backward=3))
    assert "the memory of a cpu cannot be measured: the micro-batch stays at 5" in caplog.text
    assert changes(adaptive) == [(5, 3)]
    assert difference(fit(), run) < 1e-12


def test_every_change_is_told(tmp_path, caplog):
    meter = FakeMeter(total=100)
    adaptive = AdaptiveBatchSize(initial=5, meter=meter)
    with caplog.at_level(logging.INFO, "gpuopt"):
        fit(adaptive, kind=metered(meter), logger=CSVLogger(tmp_path), **LONG)
    assert adaptive.events == [
        {
            "event": "adapt",
            "phase": "training",
            "epoch": 0,
            "step": 1,
            "samples": 5,
            "micro_batch_size": 10,
            "peak_bytes": 35,
            "available_bytes": 100,
            "expected_bytes": 60,
        }
    ]
    assert "micro-batch 5 -> 10 (measured: 5 took" in caplog.text
    assert "memory/micro_batch_size" in next(tmp_path.rglob("metrics.csv")).read_text("utf-8")


@pytest.mark.parametrize("others", [[], [OomRecovery]])
def test_a_resumed_run_goes_on_with_the_size_and_what_was_measured(tmp_path, others):
    meter = FakeMeter(total=50)
    first = AdaptiveBatchSize(initial=2, meter=meter)
    _, trainer = fit(first, *(kind() for kind in others), kind=metered(meter), **LONG)
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    second = AdaptiveBatchSize(initial=2, meter=meter)
    net, _ = fit(
        second,
        *(kind() for kind in others),
        kind=metered(meter),
        ckpt_path=tmp_path / "state.ckpt",
        **{**LONG, "max_epochs": 7},
    )
    assert set(net.parts) == {5, 4}  # the last batch of an epoch has 4 samples
    assert second.summary() == first.summary()


@pytest.mark.parametrize("others", [[], [OomRecovery]])
def test_a_run_resumed_with_smaller_batches_measures_these(tmp_path, others):
    meter = FakeMeter(total=100)
    first = AdaptiveBatchSize(meter=meter)
    _, trainer = fit(first, *(kind() for kind in others), kind=metered(meter), **LONG)
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    meter = FakeMeter(total=40)  # 6 samples take 40 units, 3 take 25 of 34
    second = AdaptiveBatchSize(meter=meter)
    net, _ = fit(
        second,
        *(kind() for kind in others),
        kind=metered(meter),
        data=loader(36, 6),
        ckpt_path=tmp_path / "state.ckpt",
        **{**LONG, "max_epochs": 7},
    )
    assert changes(second)[:1] == [(6, 3)]
    assert net.parts[-1] == 3
    assert second.summary()["final_micro_batch_size"] == 3


def test_a_sample_that_does_not_fit_ends_the_run(tmp_path):
    meter = FakeMeter(total=100)
    kind = metered(meter, {3: fill(90)})
    with pytest.raises(FaultError, match=r"with 1 sample at step 3; saved .*ckpt"):
        fit(AdaptiveBatchSize(meter=meter), kind=kind, default_root_dir=tmp_path)
    assert torch.load(tmp_path / "out_of_memory.ckpt", weights_only=True)["global_step"] == 3


def test_what_it_cannot_do_safely_is_refused_by_its_name():
    class Manual(metered(FakeMeter())):
        automatic_optimization = False

    with pytest.raises(InputError, match=r"AdaptiveBatchSize cannot .*adaptive_batch_size.enabled"):
        fit(AdaptiveBatchSize(), kind=Manual, gradient_clip_val=None)


@pytest.mark.parametrize(
    "options",
    [
        {"target_ratio": 0.0},
        {"target_ratio": 1.5},
        {"growth_ratio": 1.0},
        {"initial": 0},
        {"maximum": 0},
        {"initial": 8, "maximum": 4},
    ],
)
def test_arguments_that_cannot_work_are_refused(options):
    with pytest.raises(InputError, match=f"adaptive_batch_size.{next(iter(options))}="):
        AdaptiveBatchSize(**options)
