import functools

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim import lr_scheduler as schedules

from gpuopt.callbacks.learning_rates import scale_learning_rates

MADE = {
    "lambda": lambda o: schedules.LambdaLR(o, lambda step: 0.9**step),
    "step": lambda o: schedules.StepLR(o, 3, 0.5),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.9),
    "linear": lambda o: schedules.LinearLR(o, 0.1, total_iters=8),
    "polynomial": lambda o: schedules.PolynomialLR(o, 12),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 12, eta_min=1e-3),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 4, eta_min=1e-3),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.1, total_steps=12),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "sequential": lambda o: schedules.SequentialLR(
        o,
        [schedules.LinearLR(o, 0.1, total_iters=4), schedules.CosineAnnealingLR(o, 8)],
        milestones=[5],
    ),
}


def rates(make, kind, scaled_at=None, steps=12):
    """Return the learning rates of two groups after each step."""
    layers = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [
        {"params": layer.parameters(), "lr": lr}
        for layer, lr in zip(layers, (0.1, 0.02), strict=True)
    ]
    optimizer = kind(groups)
    schedule = make(optimizer)
    found = []
    for step in range(steps):
        if step == scaled_at:
            scale_learning_rates([optimizer], [schedule], 3.0)
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if step < steps - 1:
            schedule.step()
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("scaled_at", [0, 3, 6])
def test_every_later_rate_is_a_multiple_of_what_it_was(name, scaled_at):
    # CyclicLR cycles the momentum.
    kind = functools.partial(SGD, momentum=0.9) if name == "cyclic" else AdamW
    plain, scaled = rates(MADE[name], kind), rates(MADE[name], kind, scaled_at)
    torch.testing.assert_close(scaled[:scaled_at], plain[:scaled_at], rtol=0, atol=0)
    torch.testing.assert_close(scaled[scaled_at:], 3 * plain[scaled_at:], rtol=1e-12, atol=1e-15)


def test_plateaus_keep_their_floor_in_proportion():
    layer = nn.Linear(2, 2)
    optimizer = SGD(layer.parameters(), 0.1)
    schedule = schedules.ReduceLROnPlateau(optimizer, patience=0, factor=0.1, min_lr=0.05)
    scale_learning_rates([optimizer], [schedule], 2.0)
    for _ in range(3):
        schedule.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_a_rate_that_is_a_tensor_stays_that_tensor():
    rate = torch.tensor(0.5)
    optimizer = AdamW(nn.Linear(2, 2).parameters(), lr=rate, foreach=False)
    held = optimizer.param_groups[0]["lr"]
    scale_learning_rates([optimizer], [], 2.0)
    assert optimizer.param_groups[0]["lr"] is held
    assert float(held) == 1.0
