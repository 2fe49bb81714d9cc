import pytest
import torch

from gpuopt.model import ConstantSchedule, CosineSchedule


def ratios(schedule, steps, batch):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, total_steps=steps, global_batch_size=batch)
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


def test_warm_up_counts_samples_whatever_the_batch():
    small = ratios(CosineSchedule(warmup_samples=640), 100, 32)
    large = ratios(CosineSchedule(warmup_samples=640), 100, 64)
    assert max(range(100), key=small.__getitem__) == 20
    assert max(range(100), key=large.__getitem__) == 10


def test_cosine_ends_at_the_final_ratio():
    seen = ratios(CosineSchedule(warmup_samples=0, final_ratio=0.1), 50, 1)
    assert seen[0] == 1.0
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == pytest.approx(0.1, abs=0.01)


def test_the_first_step_is_never_zero():
    assert ratios(CosineSchedule(warmup_samples=1000), 100, 10)[0] > 0


def test_a_short_run_still_reaches_the_top():
    assert max(ratios(CosineSchedule(warmup_samples=10**6), 10, 1)) == pytest.approx(1.0, abs=0.1)


def test_constant_stays():
    seen = ratios(ConstantSchedule(warmup_samples=4), 10, 1)
    assert seen[4:] == [1.0] * 6
    assert seen[:4] == sorted(seen[:4])
