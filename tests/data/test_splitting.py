import numpy as np
import pytest

from gpuopt.data.splitting import balanced_weights, stratified_split
from gpuopt.errors import InputError

NAMES = ["cat", "dog", "owl"]
TARGETS = np.repeat([0, 1, 2], [50, 20, 2])


def split(ratio=0.2, seed=0, **options):
    return stratified_split(TARGETS, ratio, seed, NAMES, **options)


@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.5, 0.99])
def test_parts_are_disjoint_complete_and_stratified(ratio):
    first, second = split(ratio)
    assert sorted([*first, *second]) == list(range(72))
    for label, count in enumerate((50, 20, 2)):
        held = (TARGETS[second] == label).sum()
        assert 1 <= held <= count - 1
        assert abs(held - ratio * count) <= 1
    assert (np.diff(first) > 0).all()
    assert (np.diff(second) > 0).all()


def test_seed_decides():
    assert np.array_equal(split(seed=1)[1], split(seed=1)[1])
    assert not np.array_equal(split(seed=1)[1], split(seed=2)[1])


def test_leaving_a_sample_out_moves_only_few_others():
    kept = np.delete(np.arange(72), 10)
    _, second = stratified_split(TARGETS[kept], 0.2, 0, NAMES, rows=kept)
    moved = set(kept[second]) ^ (set(split()[1]) - {10})
    assert len(moved) <= 1


def test_a_class_of_one_is_refused_by_name():
    with pytest.raises(InputError, match="class owl has a single training image"):
        stratified_split(TARGETS[:71], 0.2, 0, NAMES)


def test_balanced_weights():
    weights = balanced_weights(TARGETS)
    assert weights.mean() == pytest.approx(1)
    totals = [weights[label == TARGETS].sum() for label in range(3)]
    assert totals == pytest.approx([24, 24, 24])
