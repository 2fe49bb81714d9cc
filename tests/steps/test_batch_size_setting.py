from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from gpuopt.errors import InputError
from gpuopt.steps.batch_size_setting import set_batch_size


class Module(L.LightningModule):
    def __init__(self, **options):
        super().__init__()
        self.save_hyperparameters()


def trainer_of(train, validation=None):
    def source(loaders):
        return SimpleNamespace(is_defined=lambda: loaders is not None, instance=loaders)

    validating = SimpleNamespace(_data_source=source(validation))
    fit_loop = SimpleNamespace(
        _data_source=source(train), epoch_loop=SimpleNamespace(val_loop=validating)
    )
    return SimpleNamespace(fit_loop=fit_loop, datamodule=None)


def loader(batch_size=4):
    return DataLoader(TensorDataset(torch.zeros(20, 2)), batch_size=batch_size)


def test_an_attribute_wins_over_the_loaders():
    data = loader()
    module, trainer = Module(batch_size=4), trainer_of(data)
    set_batch_size(trainer, module, 6)
    assert module.hparams.batch_size == 6
    assert data.batch_size == 4
    set_batch_size(trainer, Module(rows=4), 6)
    assert data.batch_size == 6


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"a": x}])
def test_loaders_that_were_handed_over_are_changed_in_place(wrap):
    train, validation = loader(), loader()
    set_batch_size(trainer_of(wrap(train), validation), Module(), 6)
    for changed in (train, validation):
        assert changed.batch_size == 6
        assert [len(rows) for (rows,) in changed] == [6, 6, 6, 2]


def test_an_unknown_place_is_refused_with_the_remedy():
    with pytest.raises(InputError, match="give another batch_arg_name, or set_batch_size"):
        set_batch_size(trainer_of(loader()), Module(), 6, name="rows")
    for unknown in (loader(batch_size=None), [torch.zeros(4)]):
        with pytest.raises(InputError, match="give batch_arg_name or set_batch_size"):
            set_batch_size(trainer_of(unknown), Module(), 6)
