"""Runs that run out of memory, against the same runs that do not."""

import logging
import weakref

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from gpuopt.callbacks import MovingAverage, OomRecovery
from gpuopt.errors import FaultError, InputError
from tests.callbacks.memory_faults import Limits, Net, difference, fit, loader

FAILURES = {
    "forward": {"forward": 4},
    "backward": {"backward": 3},
    "validation": {"validation": 3},
    "all": {"forward": 4, "backward": 3, "validation": 3},
    "first batch": {"backward": 3, "at": 0},
    "last, smaller batch": {"forward": 2, "at": 4},
    "in the middle of a window": {"backward": 3, "at": 1},
    "last batch of the run": {"backward": 1, "at": 9},
}


@pytest.fixture(scope="module")
def undisturbed():
    return {n: fit(accumulate_grad_batches=n) for n in (1, 2, 3)}


def recovered(*callbacks, limits, **options):
    recovery = OomRecovery()
    run = fit(*callbacks, recovery, limits=Limits(**limits), **options)
    assert recovery.events
    return run


@pytest.mark.parametrize("accumulate", [1, 2, 3])  # 5 batches an epoch: ragged windows
@pytest.mark.parametrize("failure", FAILURES)
def test_the_result_is_that_of_an_undisturbed_run(undisturbed, failure, accumulate):
    run = recovered(limits=FAILURES[failure], accumulate_grad_batches=accumulate)
    assert difference(undisturbed[accumulate], run) < 1e-12


@pytest.mark.parametrize("options", [{}, {"norm": "batch", "dropout": 0.3}])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_without_a_failure_not_a_bit_changes(options, accumulate):
    recovery = OomRecovery()
    options = {**options, "accumulate_grad_batches": accumulate}
    assert difference(fit(**options), fit(recovery, **options)) == 0.0
    assert recovery.events == []


def at_size(size):
    recovery = OomRecovery()
    recovery.steps.sizes["training"].limit = size
    return recovery


@pytest.mark.parametrize(
    "options", [{"norm": "batch"}, {"dropout": 0.3}, {"norm": "batch", "dropout": 0.3}]
)
@pytest.mark.parametrize("limits", [{"forward": 5}, {"backward": 5}, {"backward": 3}])
def test_batch_norm_and_dropout_give_a_run_at_the_final_size(options, limits):
    options = {**options, "accumulate_grad_batches": 2}
    run = recovered(limits=limits, **options)
    assert difference(fit(at_size(max(limits.values())), **options), run) == 0.0


def test_batch_norm_at_the_final_size_is_plain_lightning_with_more_accumulation():
    """20 samples in parts of 5, against a loader of 5 that accumulates 4."""

    options = {"norm": "batch", "gradient_clip_val": None, "validates": False}
    plain, _ = fit(data=loader(40, 5), accumulate_grad_batches=4, **options)
    limits = Limits(backward=5)
    split, _ = fit(OomRecovery(), data=loader(40, 20), limits=limits, **options)
    assert limits.failures == 2
    plain, split = plain.state_dict(), split.state_dict()
    for name, value in plain.items():
        if "accuracy" not in name:
            torch.testing.assert_close(split[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("limits", [{"forward": 4}, {"backward": 3}, {"validation": 3}])
def test_the_moving_average_is_that_of_an_undisturbed_run(is_first, limits):
    average, recovery = MovingAverage(), OomRecovery()
    both = [recovery, average] if is_first else [average, recovery]
    run = fit(*both, limits=Limits(**limits))
    assert recovery.events
    assert difference(fit(MovingAverage()), run) < 1e-12


@pytest.mark.parametrize("accumulate", [2, 3])
@pytest.mark.parametrize("limits", [{"forward": 4, "backward": 3, "validation": 3}])
def test_the_moving_average_of_accumulated_steps_is_too(accumulate, limits):
    options = {"accumulate_grad_batches": accumulate}
    run = recovered(MovingAverage(), limits=limits, **options)
    assert difference(fit(MovingAverage(), **options), run) < 1e-12


@pytest.mark.parametrize("limits", [{"forward": 4}, {"backward": 3}])
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_val": None},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"gradient_clip_val": 1e-3},
    ],
)
def test_clipping_sees_the_gradients_of_the_whole(options, limits):
    run = recovered(limits=limits, accumulate_grad_batches=2, **options)
    assert difference(fit(accumulate_grad_batches=2, **options), run) < 1e-12


def in_half(scale=1024.0):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("limits", [{"forward": 4}, {"backward": 3}])
def test_a_scaler_goes_on_as_if_nothing_had_been(accumulate, limits):
    plain = fit(accumulate_grad_batches=accumulate, **in_half())
    same = fit(OomRecovery(), accumulate_grad_batches=accumulate, **in_half())
    assert difference(plain, same) == 0.0
    run = recovered(limits=limits, accumulate_grad_batches=accumulate, **in_half())
    assert difference(plain, run) < 2e-3  # rounding of fp16 after ten steps of 0.01
    scales = [trainer.precision_plugin.scaler.get_scale() for _, trainer in (plain, run)]
    assert scales[0] == scales[1]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # stock Lightning's
@pytest.mark.parametrize("limits", [{"forward": 4}, {"backward": 3}])
def test_steps_that_a_scaler_skips_are_the_same(limits):
    """The first gradients overflow fp16, split or not, until the scale has come down."""
    plain = fit(**in_half(2.0**22))
    run = recovered(limits=limits, **in_half(2.0**22))
    scales = [trainer.precision_plugin.scaler.get_scale() for _, trainer in (plain, run)]
    assert scales[0] == scales[1] < 2.0**22
    assert difference(plain, run) < 2e-3


@pytest.mark.parametrize("limits", [{"forward": 4}, {"backward": 4}])
def test_the_failed_attempt_is_freed_before_the_retry(limits):
    activations, seen = [], []

    class Watched(Net):
        def forward(self, x):
            seen.append([activation() is not None for activation in activations])
            activations.clear()
            hidden = self.before(x)
            activations.append(weakref.ref(hidden))
            logits = self.head(self.after(hidden * 1.0))
            self.limits.check("forward", len(x))
            if logits.requires_grad:
                logits.register_hook(lambda gradient: self.limits.check("backward", len(gradient)))
            return logits

    recovered(limits=limits, kind=Watched, max_epochs=1, validates=False)
    assert len(seen) > 10
    assert not any(any(flags) for flags in seen)


def test_each_batch_starts_at_the_size_that_fitted_and_grows_back():
    recovery = OomRecovery(grow_after_batches=2)
    net, _ = fit(recovery, limits=Limits(forward=4, at=0), validates=False)
    kinds = [(event["event"], event["micro_batch_size"]) for event in recovery.events]
    assert kinds[:2] == [("out_of_memory", 5), ("out_of_memory", 3)]
    assert kinds[2:] == [("grow", 6), ("grow", 10)]
    assert net.sizes[-5:] == [10, 10, 10, 10, 4]
    assert recovery.summary()["final_micro_batch_size"] == 10


def test_growing_into_a_full_device_is_tried_less_and_less_often():
    recovery = OomRecovery(grow_after_batches=1)
    fit(recovery, limits=Limits(forward=4), max_epochs=4, validates=False)
    tries = [e for e in recovery.events if e["event"] == "grow"]
    assert 2 <= len(tries) <= 5  # of 20 batches


def test_every_event_is_told(tmp_path, caplog):
    from lightning.pytorch.loggers import CSVLogger

    recovery = OomRecovery()
    with caplog.at_level(logging.INFO, "gpuopt"):
        logger = CSVLogger(tmp_path)
        fit(recovery, limits=Limits(backward=5), norm="batch", logger=logger, validates=False)
    assert recovery.events == [
        {
            "event": "out_of_memory",
            "phase": "backward pass",
            "epoch": 0,
            "step": 0,
            "samples": 10,
            "micro_batch_size": 5,
        }
    ]
    assert "out of memory in the backward pass with 10 samples at step 0" in caplog.text
    assert caplog.text.count("with BatchNorm1d the result is that of a run with the smaller") == 1
    written = next(tmp_path.rglob("metrics.csv")).read_text("utf-8")
    assert "memory/micro_batch_size" in written


@pytest.mark.parametrize("limits", [{"forward": 4}, {"backward": 3}])
def test_parameters_that_the_optimizer_alone_has_get_the_gradients_of_the_whole(limits):
    class Apart(Net):
        """Holds the temperature of its loss where the module does not see it."""

        def __init__(self, *args):
            super().__init__(*args)
            self.apart = [nn.Parameter(torch.ones(3, dtype=torch.float64))]

        def loss(self, batch):
            logits = self(batch[0]) * self.apart[0]
            return nn.functional.cross_entropy(logits, batch[1]), logits

        def configure_optimizers(self):
            return torch.optim.AdamW([*self.parameters(), *self.apart], 0.01)

    options = {"kind": Apart, "accumulate_grad_batches": 2}
    plain, run = fit(**options), recovered(limits=limits, **options)
    assert difference(plain, run) < 1e-12
    torch.testing.assert_close(run[0].apart[0], plain[0].apart[0], rtol=1e-12, atol=1e-12)


# --- the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_a_sample_that_does_not_fit_ends_with_a_checkpoint(tmp_path, name):
    seen = {}

    class Watched(Net):
        def on_train_batch_start(self, batch, batch_idx):
            super().on_train_batch_start(batch, batch_idx)
            seen["weights"] = {k: v.clone() for k, v in self.state_dict().items()}

    limits = Limits(**{name: 0}, at=3)
    with pytest.raises(FaultError, match=r"with 1 sample at step 3; saved .*ckpt") as info:
        fit(OomRecovery(), limits=limits, kind=Watched, default_root_dir=tmp_path)
    assert "\n" not in str(info.value)
    saved = torch.load(tmp_path / "out_of_memory.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[key], value) for key, value in seen["weights"].items())


def test_a_validation_sample_that_does_not_fit_ends_without_one(tmp_path):
    with pytest.raises(FaultError, match=r"validation with 1 sample .* checkpoint stands"):
        fit(OomRecovery(), limits=Limits(validation=0), default_root_dir=tmp_path)


@pytest.mark.parametrize("is_reached", [False, True])
@pytest.mark.parametrize("is_half_done", [False, True])
def test_the_optimizer_running_out_of_memory_ends_the_run(tmp_path, is_half_done, is_reached):
    class Hungry(torch.optim.AdamW):
        def step(self, closure=None):
            loss = closure()
            if len(self.state) and self.done == 2:
                if is_half_done:
                    with torch.no_grad():
                        parameters = self.param_groups[0]["params"]
                        next(p for p in parameters if p.grad is not None).mul_(0.9)
                raise torch.OutOfMemoryError("CUDA out of memory.")
            self.done += 1
            super().step()
            return loss

    class Module(Net):
        def configure_optimizers(self):
            unused = [] if is_reached else [nn.Parameter(torch.ones(3))]
            optimizer = Hungry([*unused, *self.parameters()], 0.01)
            optimizer.done = 0
            return optimizer

    outcome = "the last checkpoint stands" if is_half_done else r"saved .*out_of_memory\.ckpt"
    with pytest.raises(FaultError, match=rf"optimizer's step 2; {outcome}"):
        fit(OomRecovery(), kind=Module, default_root_dir=tmp_path)
    assert (tmp_path / "out_of_memory.ckpt").exists() is not is_half_done


def test_a_lost_device_is_not_tried_again():
    class Lost(Net):
        def training_step(self, batch, batch_idx):
            raise torch.AcceleratorError(
                "CUDA error: an illegal memory access was encountered", 700
            )

    with pytest.raises(FaultError, match="device is lost"):
        fit(OomRecovery(), kind=Lost)


def test_without_it_the_error_passes():
    with pytest.raises(torch.OutOfMemoryError):
        fit(limits=Limits(forward=4))


def test_other_errors_pass_and_the_module_is_given_back():
    modules = []

    class Broken(Net):
        def training_step(self, batch, batch_idx):
            modules.append(self)
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        fit(OomRecovery(), kind=Broken)
    assert not {"training_step", "backward", "optimizer_step"} & set(vars(modules[0]))


def test_the_module_is_given_back():
    net, _ = fit(OomRecovery())
    steps = {"training_step", "validation_step", "backward", "optimizer_step", "log"}
    assert not steps & set(vars(net))


# --- what is refused --------------------------------------------------------------------------


class Contrastive(Net):
    """A loss between samples: no mean over them."""

    def loss(self, batch):
        logits = self(batch[0])
        return nn.functional.mse_loss(logits @ logits.T, torch.eye(len(logits)).double()), logits


class Summed(Net):
    """A loss that is the sum over samples, logged as such."""

    def loss(self, batch):
        logits = self(batch[0])
        return nn.functional.cross_entropy(logits, batch[1], reduction="sum"), logits


def test_a_loss_between_samples_is_refused_when_it_has_to_be_split():
    fit(OomRecovery(), kind=Contrastive)
    with pytest.raises(InputError, match="neither the mean over its samples nor their sum"):
        fit(OomRecovery(), kind=Contrastive, limits=Limits(forward=8))


def test_a_sum_over_samples_is_told_from_a_mean():
    run = recovered(kind=Summed, limits={"backward": 3, "forward": 5})
    assert difference(fit(kind=Summed), run) < 1e-11


def test_a_step_that_writes_into_its_batch_is_refused():
    class Writing(Net):
        def training_step(self, batch, batch_idx):
            batch[0].mul_(2)
            return super().training_step(batch, batch_idx)

    with pytest.raises(InputError, match="writes into its batch"):
        fit(OomRecovery(), kind=Writing, limits=Limits(forward=4))


def test_manual_optimization_is_refused():
    class Manual(Net):
        automatic_optimization = False

    with pytest.raises(InputError, match="optimizes by hand"):
        fit(OomRecovery(), kind=Manual, gradient_clip_val=None)


def test_synced_batch_norm_is_refused():
    class Synced(Net):
        def __init__(self, *args):
            super().__init__(*args)
            self.after = nn.SyncBatchNorm.convert_sync_batchnorm(
                nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8))
            )

    with pytest.raises(InputError, match="SyncBatchNorm"):
        fit(OomRecovery(), kind=Synced)


def test_lbfgs_is_refused():
    class Quasi(Net):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters())

    with pytest.raises(InputError, match="LBFGS"):
        fit(OomRecovery(), kind=Quasi, gradient_clip_val=None)
