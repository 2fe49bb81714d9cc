import numpy as np
import pytest

from gpuopt.data import EvaluationSampler, GlobalWindowSampler, micro_batches_per_window

COUNT, GLOBAL = 70, 16  # four full windows and one of 6


def sampler(micro=5, rank=0, world=1, count=COUNT, weights=None, **options):
    options = {"seed": 3, "mixup_alpha": 0.3, "cutmix_alpha": 1.0, "image_size": 32, **options}
    weights = np.ones(count) if weights is None else weights
    return GlobalWindowSampler(weights, GLOBAL, micro, rank=rank, world_size=world, **options)


def windows(micro, world, **options):
    """Gather each window's rows over all ranks: {row: (weight, partner, ratio, box)}."""
    epoch = options.pop("epoch", 0)
    gathered = []
    for rank in range(world):
        mine = sampler(micro, rank, world, **options)
        mine.set_epoch(epoch)
        chunks = list(mine)
        assert len(chunks) == len(mine)
        per_window, at = mine.accumulate_grad_batches, 0
        for window in range(0, len(chunks), per_window):
            at = window // per_window
            if len(gathered) <= at:
                gathered.append({})
            for chunk in chunks[window : window + per_window]:
                assert len(chunk.indices) <= micro
                for i, row in enumerate(chunk.indices):
                    if chunk.weights[i] == 0:
                        continue
                    partner = None if chunk.partners is None else int(chunk.partners[i])
                    value = (float(chunk.weights[i]), partner, chunk.mix_ratio, chunk.box)
                    assert int(row) not in gathered[at]
                    gathered[at][int(row)] = value
    return gathered


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("micro", [1, 3, 5, 16, 40])
def test_windows_do_not_depend_on_micro_batch_size_and_ranks(micro, world):
    weights = np.random.default_rng(0).uniform(0.2, 3, COUNT)
    assert windows(micro, world, weights=weights) == windows(16, 1, weights=weights)


@pytest.mark.parametrize("world", [1, 3])
def test_an_epoch_holds_every_row_once_and_weights_sum_to_one(world):
    weights = np.random.default_rng(0).uniform(0.2, 3, COUNT)
    found = windows(5, world, weights=weights)
    assert [len(window) for window in found] == [16, 16, 16, 16, 6]
    assert sorted(row for window in found for row in window) == list(range(COUNT))
    for window in found:
        shares = {row: value[0] for row, value in window.items()}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
        rows = list(shares)
        expected = weights[rows] / weights[rows].sum()
        assert [shares[row] for row in rows] == pytest.approx(expected, rel=1e-6)


def test_micro_batches_of_a_window():
    big = GlobalWindowSampler(np.ones(256 + 60), 256, 57, seed=0)
    assert [len(chunk.indices) for chunk in big] == [57, 57, 57, 57, 28, 57, 3]
    assert big.accumulate_grad_batches == 5
    assert len(big) == 7
    assert micro_batches_per_window(256, 57, 1) == 5
    assert micro_batches_per_window(256, 64, 3) == 2


def test_every_rank_yields_equally_many_and_pads_with_weight_zero():
    for count in range(1, 40):
        ranks = [list(sampler(2, rank, 4, count=count)) for rank in range(4)]
        assert len({len(chunks) for chunks in ranks}) == 1
        for chunks in ranks:
            for chunk in chunks:
                padded = chunk.weights == 0
                assert len(chunk.indices) >= 1
                assert not padded.any() or len(padded) == 1


def test_partners_are_other_rows_of_the_same_window():
    for window in windows(5, 1):
        partners = [value[1] for value in window.values()]
        assert sorted(partners) == sorted(window)
        assert all(partner != row for row, partner in zip(window, partners, strict=True))
        assert len({value[2:] for value in window.values()}) == 1


def test_epochs_and_seeds_shuffle_and_mix_anew():
    first = windows(5, 1)
    for other in (windows(5, 1, epoch=1), windows(5, 1, seed=4)):
        assert [sorted(w) for w in other] != [sorted(w) for w in first]
        assert [next(iter(w.values()))[2] for w in other] != [
            next(iter(w.values()))[2] for w in first
        ]
    assert windows(5, 1) == first


def test_without_shuffle_rows_come_in_order():
    rows = [row for chunk in sampler(7, shuffle=False) for row in chunk.indices]
    assert rows == list(range(COUNT))


def test_without_mixing_there_are_no_partners():
    plain = sampler(mixup_alpha=0.0, cutmix_alpha=0.0)
    assert all(chunk.partners is None and chunk.mix_ratio == 1 for chunk in plain)


@pytest.mark.parametrize("start", [0, 1, 4, 7, 16, 18])
def test_start_holds_for_one_iteration(start):
    mine = sampler()
    whole = [chunk.indices.tolist() for chunk in mine]
    mine.start_at(start)
    iter(mine)  # one that is never asked for a chunk does not use the start up
    assert [chunk.indices.tolist() for chunk in mine] == whole[start:]
    assert len(mine) == len(whole)
    assert [chunk.indices.tolist() for chunk in mine] == whole


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 6, 7, 20])
def test_evaluation_counts_every_row_once_in_order(count, world):
    ranks = [list(EvaluationSampler(count, 3, rank, world)) for rank in range(world)]
    shapes = [[len(chunk.indices) for chunk in chunks] for chunks in ranks]
    assert all(shape == shapes[0] for shape in shapes)
    assert len(shapes[0]) == len(EvaluationSampler(count, 3, 0, world))
    counted = []
    for chunks in ranks:
        mine = [int(r) for c in chunks for r, w in zip(c.indices, c.weights, strict=True) if w]
        assert mine == sorted(mine)
        counted += mine
    assert sorted(counted) == list(range(count))
    assert {float(w) for chunks in ranks for c in chunks for w in c.weights} <= {0.0, 1.0}


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_evaluation_can_start_later_once(start):
    mine = EvaluationSampler(7, 3, rank=1, world_size=2)
    whole = [chunk.indices.tolist() for chunk in mine]
    mine.start_at(start)
    iter(mine)
    assert [chunk.indices.tolist() for chunk in mine] == whole[start:]
    assert len(mine) == len(whole)
    assert [chunk.indices.tolist() for chunk in mine] == whole
