"""What is found out about a loss before a batch is split."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gpuopt.callbacks import GradientAccumulation, OomRecovery
from gpuopt.errors import InputError
from tests.callbacks.memory_faults import Limits, Net, difference, fit

WEIGHTS = torch.tensor([1.0, 20.0, 1.0], dtype=torch.float64)
OPTIONS = {"validates": False, "max_epochs": 1}


def one_class_first(batches=1, rare=2):
    """Batches of 16 whose labels are 0, but for the last of the last batch."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16 * batches, 6, generator=generator).double()
    y = torch.zeros(len(x), dtype=torch.long)
    y[-rare:] = 1
    return DataLoader(TensorDataset(x, y), batch_size=16)


def losing(make):
    class Losing(Net):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.criterion = make()

        def loss(self, batch):
            logits = self(batch[0])
            return self.criterion(logits, batch[1]), logits

    return Losing


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_a_loss_with_class_weights_is_refused(kind):
    with pytest.raises(InputError, match="a loss with class weights, so it"):
        fit(OomRecovery(), kind=losing(lambda: kind(WEIGHTS)), limits=Limits(forward=9), **OPTIONS)


def test_labels_that_are_ignored_are_refused_where_they_occur():
    kind = losing(lambda: nn.CrossEntropyLoss(ignore_index=1))
    kind_without = losing(nn.CrossEntropyLoss)
    options = {"data": one_class_first(), "limits": Limits(forward=9), **OPTIONS}
    with pytest.raises(InputError, match="a loss with labels that it ignores"):
        fit(OomRecovery(), kind=kind, **options)
    fit(OomRecovery(), kind=kind_without, **options)


@pytest.mark.parametrize("batches", [1, 3])
def test_weights_in_a_function_are_found_where_the_first_samples_are_of_one_class(batches):
    class Weighted(Net):
        def loss(self, batch):
            logits = self(batch[0])
            return nn.functional.cross_entropy(logits, batch[1], WEIGHTS), logits

    data = one_class_first(batches)
    with pytest.raises(InputError, match="neither the mean over its samples nor their sum"):
        fit(OomRecovery(), kind=Weighted, data=data, limits=Limits(forward=9), **OPTIONS)


def test_an_unweighted_loss_of_the_same_batches_is_exact():
    options = {"data": one_class_first(3), "kind": losing(nn.CrossEntropyLoss), **OPTIONS}
    run = fit(OomRecovery(), limits=Limits(forward=9), **options)
    assert difference(fit(**options), run) < 1e-12


def dropping(logits):
    return nn.functional.dropout(logits, 0.5)


def doubling_some(logits):
    return logits * (2 if random.random() < 0.5 else 1)


def jittering(logits):
    return logits + torch.from_numpy(np.random.standard_normal(logits.shape))


def randomly(change):
    class Random(Net):
        def loss(self, batch):
            logits = change(self(batch[0]))
            return nn.functional.cross_entropy(logits, batch[1]), logits

    return Random


@pytest.mark.parametrize("change", [dropping, jittering, doubling_some])
def test_a_step_that_draws_random_numbers_itself_is_split_and_that_is_said(change, caplog):
    random.seed(0)
    recovery = OomRecovery()
    fit(recovery, kind=randomly(change), limits=Limits(forward=6), max_epochs=2, validates=False)
    assert recovery.summary()["final_micro_batch_size"] == 5
    if change is not doubling_some:  # a few comparisons may draw alike
        assert caplog.text.count("with random numbers in training_step the result") == 1


@pytest.mark.parametrize("limits", [{"forward": 6}, {"backward": 6}])
def test_a_logged_loss_is_weighted_as_the_loss_and_what_else_is_logged_by_samples(limits):
    class Weighted(Net):
        def loss(self, batch):
            logits = self(batch[0])
            self.log("first", logits[:, 0].mean(), on_step=True, on_epoch=False)
            return nn.functional.cross_entropy(logits, batch[1], WEIGHTS), logits

    def run(*callbacks, **options):
        accumulation = GradientAccumulation(10, loss_weight=lambda batch: WEIGHTS[batch[1]].sum())
        return fit(accumulation, *callbacks, kind=Weighted, **OPTIONS, **options)

    recovery = OomRecovery()
    split = run(recovery, limits=Limits(**limits))
    assert recovery.events
    assert difference(run(), split) < 1e-12
