"""The finder on a real allocator, whose memory is capped."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from gpuopt.callbacks import BatchSizeFinder
from gpuopt.memory import MOST_PROBES

CAP_GIB = 3

pytestmark = pytest.mark.gpu


class Images(Dataset):
    image = torch.rand(3, 128, 128)

    def __len__(self):
        return 10_000

    def __getitem__(self, row):
        return self.image, row % 10


class Convolutions(L.LightningModule):
    def __init__(self):
        super().__init__()
        layers = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 64), (64, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.GELU()]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


@pytest.fixture
def small_card():
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.memory.set_per_process_memory_fraction(CAP_GIB * 2**30 / total, 0)
    yield
    torch.cuda.memory.set_per_process_memory_fraction(1.0, 0)
    torch.cuda.empty_cache()


def fit(module, batch_size, *callbacks):
    trainer = L.Trainer(
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=1,
        limit_train_batches=3,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    loaders = [DataLoader(Images(), batch_size=batch_size) for _ in range(2)]
    trainer.fit(module, *loaders)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_the_answer_fits_a_quarter_more_does_not_and_nothing_is_changed(small_card):
    torch.manual_seed(0)
    module, finder = Convolutions(), BatchSizeFinder(find_only=True)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    numbers = torch.get_rng_state(), torch.cuda.get_rng_state()
    fit(module, 4, finder)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(numbers[0], torch.get_rng_state())
    assert torch.equal(numbers[1], torch.cuda.get_rng_state())
    found = finder.result
    assert found.out_of_memory_count == 0
    assert len(found.probes) <= MOST_PROBES
    assert found.capacity_bytes <= CAP_GIB * 2**30
    assert 0 < found.peak_bytes <= found.budget_bytes
    assert found.step_time.seconds_per_sample > 0
    fit(Convolutions(), found.largest)
    torch.cuda.empty_cache()
    with pytest.raises(torch.OutOfMemoryError):
        fit(Convolutions(), int(found.largest * 1.25) + 1)
