"""What a setting tells a loader and a data module."""

from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from gpuopt.data import Digits
from gpuopt.tuning.loader_setting import LoaderSetting


@pytest.mark.parametrize("workers", [0, 2])
def test_pytorch_takes_the_arguments(workers):
    setting = LoaderSetting(workers, 3)
    loader = DataLoader(list(range(8)), **setting.loader_arguments())
    assert (loader.num_workers, loader.persistent_workers) == (workers, workers > 0)
    assert loader.prefetch_factor == (3 if workers else None)
    assert setting.waiting_batches == 3 * workers + 1


def test_it_is_set_where_a_data_module_has_it():
    data = Digits(image_size=32, micro_batch_size=4, global_batch_size=8)
    LoaderSetting(1, 5, True).apply_to(data)
    loader = data.train_dataloader()
    assert (loader._loader.num_workers, loader._loader.prefetch_factor) == (1, 5)
    other = SimpleNamespace(num_workers=0)
    LoaderSetting(3).apply_to(other)
    assert vars(other) == {"num_workers": 3}


def test_it_reads_as_on_a_command_line():
    assert str(LoaderSetting(2, 4, True)) == "num_workers=2 prefetch_factor=4 pin_memory=true"
