import torch

from gpuopt.model.weighted_mean import WeightedMean


def test_the_mean_is_over_samples():
    mean = WeightedMean()
    mean.update(torch.tensor(1.0), 3)
    mean.update(torch.tensor(5.0), torch.tensor(1))
    mean.update(torch.tensor(0.0), 0)
    assert mean.compute() == 2.0


def test_nothing_is_zero_and_a_new_epoch_starts_anew():
    mean = WeightedMean()
    mean.update(torch.tensor(4.0), 2)
    mean.reset()
    assert (mean.total, mean.count) == (0, 0)


def test_ranks_add_up_sums_and_counts():
    """134 and 135 images: the mean of the two means would be another number."""
    parts = [WeightedMean(), WeightedMean()]
    parts[0].update(torch.tensor(2.0), 135)
    parts[1].update(torch.tensor(1.0), 134)
    for name, reduce in parts[0]._reductions.items():  # what torchmetrics does between ranks
        states = torch.stack([getattr(part, name) for part in parts])
        setattr(parts[0], name, reduce(states))
    torch.testing.assert_close(parts[0].compute(), torch.tensor((2 * 135 + 134) / 269))
