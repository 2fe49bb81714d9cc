"""The program that times recovery turned on and off inside one fit."""

import itertools

import pytest

from benchmarks import recovery_overhead
from benchmarks.memory_cells import Cell, build
from benchmarks.recovery_overhead import WITH, WITHOUT, Blocks, blocks_within, time_blocks
from gpuopt.measure.pairs import abba_orders

TINY = Cell("test_vit", 32, precision="fp32", device="cpu")


@pytest.mark.parametrize("step_s", [0.01, 0.06, 0.15, 1.0])
def test_blocks_are_short_and_many_within_the_budget(step_s):
    blocks = blocks_within(25.0, step_s)
    assert blocks.pairs >= 20
    assert 3 <= blocks.steps <= 6
    if step_s < 0.15:
        assert 20 < 2 * blocks.pairs * (blocks.steps + 1) * step_s <= 25


def test_blocks_alternate_between_a_bound_module_and_its_own_methods(monkeypatch):
    models, seen, seconds = [], [], itertools.count(1.0)

    def built(*arguments):
        models.append(build(*arguments))
        return models[0]

    def mark(device):
        bound = {"training_step", "backward", "optimizer_step"} & set(vars(models[0]))
        knows = any(isinstance(c, recovery_overhead.OomRecovery) for c in callbacks())
        seen.append((len(bound), knows))
        return next(seconds)

    def callbacks():
        return models[0].trainer.callbacks

    monkeypatch.setattr(recovery_overhead, "build", built)
    monkeypatch.setattr(recovery_overhead, "_mark", mark)
    timer = time_blocks(TINY, 4, budget_s=1.0, blocks=Blocks(pairs=4, steps=3))
    assert timer.step_s == {WITHOUT: [1.0] * 4, WITH: [1.0] * 4}
    order = list(itertools.chain(*abba_orders((WITHOUT, WITH), 4)))
    expected = [(3, True) if name == WITH else (0, False) for name in order for _ in range(4)]
    assert seen == expected
    assert "training_step" not in vars(models[0])  # given back in the end
