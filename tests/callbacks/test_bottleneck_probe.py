"""A real Trainer on a clock that only planted work moves: each part is found to the bit."""

import random

import lightning.pytorch as L
import pytest
import torch

from gpuopt.callbacks import DurableCheckpoint
from gpuopt.callbacks.bottleneck_probe import BottleneckProbe
from gpuopt.data import Digits
from gpuopt.diagnosis.bottleneck import find_bottlenecks
from gpuopt.errors import InputError
from gpuopt.model import Classifier
from tests.callbacks.timed_training import parts_of, trainer_with


def measure(spent=None, batch_size=4, **options):
    module, loader, spends, clock = parts_of(spent or {}, batch_size=batch_size)
    probe = BottleneckProbe(rounds=3, block_s=0.1, clock=clock)
    trainer = trainer_with(spends, probe, **options)
    trainer.fit(module, loader)
    return probe.measured


def test_every_part_is_found():
    measured = measure()
    parts = {name: part.value for name, part in measured.parts.parts_ms().items()}
    assert parts == pytest.approx(
        {
            "data wait": 0.04,
            "batch preparation": 0.1,
            "callbacks": 0.1,
            "optimizer": 2.0,
            "backward": 30.0,
            "forward": 16.5,
            "loop": 0.1,
        }
    )
    assert measured.parts.closure_ratio() == pytest.approx(1.0)
    assert measured.parts.samples_per_step == 4
    assert measured.loads_ms == pytest.approx([0.04] * 3)
    assert (measured.micro_batch_size, measured.sized_ratio) == (4, 0.5)
    assert (measured.work, measured.quiet_work) == (None, None)  # a CPU does what it is told


def test_steps_of_several_batches():
    measured = measure(accumulate_grad_batches=5)
    parts = {name: part.value for name, part in measured.parts.parts_ms().items()}
    assert measured.parts.samples_per_step == 20
    assert measured.batches_per_step == 5
    assert parts["backward"] == pytest.approx(150.0)
    assert parts["optimizer"] == pytest.approx(2.0)
    assert parts["data wait"] == pytest.approx(0.2)


def test_a_smaller_last_batch_of_an_epoch_makes_no_difference():
    measured = measure(batch_size=6)  # 6, 6, 6 and 2
    assert measured.micro_batch_size == 6
    assert measured.parts.samples_per_step < 6
    assert measured.parts.closure_ratio() == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "plants", [("data",), ("host",), ("preparation",), ("batch",), ("data", "host"), ()]
)
def test_plants_of_random_severity_are_named(plants, seed):
    dice = random.Random(seed)
    values = {
        "data": {"load_s": dice.uniform(0.002, 0.03)},
        "host": {dice.choice(("callback_s", "hook_s")): dice.uniform(0.006, 0.1)},
        "preparation": {"preparation_s": dice.uniform(0.006, 0.1)},
        "batch": {"fixed_s": dice.uniform(0.06, 0.3)},
    }
    spent = {key: value for plant in plants for key, value in values[plant].items()}
    assert {one.kind for one in find_bottlenecks(measure(spent)).found} == set(plants)


def test_the_module_is_put_back_and_nothing_is_saved(tmp_path):
    data = Digits(image_size=32, micro_batch_size=16, global_batch_size=32)
    module = Classifier("test_vit", num_classes=10)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    probe = BottleneckProbe(rounds=3, block_s=0.001)
    checkpoint = DurableCheckpoint(tmp_path / "checkpoints", every_n_steps=1)
    trainer = trainer_with(
        probe,
        checkpoint,
        accumulate_grad_batches=2,
        use_distributed_sampler=False,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=data)
    assert probe.measured is not None
    assert probe.measured.parts.samples_per_step == 32
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert list(tmp_path.rglob("*.ckpt")) == []
    assert checkpoint in trainer.callbacks
    assert "training_step" not in vars(trainer.strategy)
    assert not torch.is_inference_mode_enabled()


def test_it_tells_how_far_it_is_and_puts_back_what_fails():
    module, loader, spends, clock = parts_of({})
    rounds = []

    def fails_at_two(done):
        rounds.append(done)
        if done == 2:
            raise OSError("the terminal is gone")

    probe = BottleneckProbe(rounds=3, block_s=0.1, clock=clock, on_round=fails_at_two)
    trainer = trainer_with(spends, probe)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(OSError, match="terminal"):
        trainer.fit(module, loader)
    assert rounds == [1, 2]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert spends in trainer.callbacks


class TakesTheLoader(L.LightningModule):
    def training_step(self, dataloader_iter):
        return None

    def configure_optimizers(self):
        return None


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter`")
@pytest.mark.filterwarnings("ignore:.*this fit will run with no optimizer")
def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="rounds=2"):
        BottleneckProbe(rounds=2)
    _, loader, _, _ = parts_of({})
    with pytest.raises(InputError, match="takes its batches from the loader itself"):
        trainer_with(BottleneckProbe()).fit(TakesTheLoader(), loader)
