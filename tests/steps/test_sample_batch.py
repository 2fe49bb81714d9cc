import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from gpuopt.errors import InputError
from gpuopt.steps.batch_parts import resized
from gpuopt.steps.sample_batch import data_objects, sample_batch
from tests.callbacks.finder_modules import Rows


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(20.0))


class Batches:
    """A loader that is no DataLoader."""

    def __iter__(self):
        return iter([torch.zeros(5, 2)])


def test_samples_are_collated_as_the_loader_does():
    batch, count = sample_batch(DataLoader(Rows(named=True), batch_size=64, num_workers=2))
    assert count == 7
    assert batch["x"].shape == (7, 8)
    assert batch["name"] == [str(row) for row in range(7)]


@pytest.mark.parametrize(
    ("loader", "count"),
    [
        (DataLoader(TensorDataset(torch.zeros(3, 2)), batch_size=2), 3),
        (DataLoader(TensorDataset(torch.zeros(3, 4, 2)), batch_size=None), 4),
        (DataLoader(Stream(), batch_size=3), 7),
        (Batches(), 5),
        ({"a": DataLoader(Rows(), batch_size=4), "b": DataLoader(Rows(), batch_size=2)}, 7),
        ([DataLoader(Rows(), batch_size=4), DataLoader(Stream(), batch_size=2)], 7),
    ],
)
def test_every_kind_of_loader_gives_a_batch(loader, count):
    batch, found = sample_batch(loader)
    assert found == count
    assert type(batch) in (torch.Tensor, list, dict)


def test_what_is_used_up_by_reading_is_refused():
    with pytest.raises(InputError, match="give sample_batch"):
        sample_batch(iter([torch.zeros(4, 2)]))
    with pytest.raises(InputError, match="data is empty"):
        sample_batch(DataLoader(TensorDataset(torch.zeros(0, 2)), batch_size=2))


def test_objects_behind_a_loader_are_found():
    rows = Rows()
    inner = Subset(rows, range(30))
    loader = DataLoader(inner, batch_size=4, shuffle=True)
    found = data_objects({"train": loader})
    assert all(
        any(item is one for one in found)
        for item in (loader, inner, rows, loader.sampler, loader.batch_sampler)
    )


@pytest.mark.parametrize("samples", [1, 3, 8])
def test_a_batch_takes_any_size_by_repeating_samples(samples):
    batch = {"x": torch.arange(3), "names": ["a", "b", "c"], "scale": torch.tensor(2.0), "n": 3}
    new = resized(batch, samples, 3)
    assert new["x"].tolist() == [row % 3 for row in range(samples)]
    assert new["names"] == ["abc"[row % 3] for row in range(samples)]
    assert (new["scale"], new["n"]) == (2.0, 3)
    assert batch["x"].tolist() == [0, 1, 2]
