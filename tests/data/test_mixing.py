import numpy as np
import pytest
import torch

from gpuopt.data import Batch, mix_batch
from gpuopt.data.mixing import draw_window_mix


def draw(window=0, length=8, size=20, mixup=0.0, cutmix=0.0, **options):
    return draw_window_mix(
        seed=1, epoch=2, window=window, length=length, image_size=size,
        mixup_alpha=mixup, cutmix_alpha=cutmix, **options,
    )  # fmt: skip


def batch(images, partners, ratio, box):
    count = len(images)
    return Batch(
        images=images,
        targets=torch.zeros(count, dtype=torch.int64),
        ids=torch.arange(count),
        weights=torch.ones(count),
        partner_targets=torch.ones(count, dtype=torch.int64),
        mix_ratios=torch.full((count,), ratio),
        partner_images=partners,
        boxes=torch.tensor([box] * count),
        uniforms=torch.zeros(count, 12),
    )


@pytest.fixture
def images():
    return torch.randint(
        0, 256, (2, 3, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_mixup_blends(images):
    mixed = mix_batch(batch(images[0], images[1], 0.3, (0, 0, 0, 0)))
    torch.testing.assert_close(mixed.images, 0.3 * images[0] + 0.7 * images[1])
    assert mixed.images.dtype == torch.float32
    assert mixed.partner_images.shape == (0, 3, 20, 20)


def test_cutmix_fills_the_box_with_the_partner(images):
    mixed = mix_batch(batch(images[0], images[1], 0.5, (4, 2, 10, 20))).images
    expected = images[0].float()
    expected[:, :, 2:20, 4:10] = images[1].float()[:, :, 2:20, 4:10]
    assert torch.equal(mixed, expected)


def test_a_batch_without_partners_is_left_alone(images):
    plain = batch(images[0], images[0][:0], 1.0, (0, 0, 0, 0))
    assert mix_batch(plain) is plain


def test_nothing_is_drawn_when_it_is_off_or_there_is_no_partner():
    assert draw() is None
    assert draw(mixup=0.5, length=1) is None


def test_mixup_ratios_follow_beta():
    ratios = np.array([draw(window, mixup=0.4).ratio for window in range(2000)])
    assert all(draw(window, mixup=0.4).box == (0, 0, 0, 0) for window in range(20))
    assert ratios.mean() == pytest.approx(0.5, abs=0.03)
    assert ratios.var() == pytest.approx(0.25 / 1.8, rel=0.08)  # Beta(a, a): 1 / (4 (2a + 1))


def test_cutmix_ratio_is_the_uncovered_area():
    seen = set()
    for window in range(300):
        mix = draw(window, cutmix=1.0)
        x0, y0, x1, y1 = mix.box
        assert 0 <= x0 <= x1 <= 20
        assert 0 <= y0 <= y1 <= 20
        assert mix.ratio == pytest.approx(1 - (x1 - x0) * (y1 - y0) / 400)
        seen.add(mix.box)
    assert len(seen) > 200


def test_both_take_turns_and_shifts_cover_the_window():
    drawn = [draw(window, mixup=1.0, cutmix=1.0) for window in range(400)]
    share = np.mean([mix.box != (0, 0, 0, 0) for mix in drawn])
    assert 0.4 < share < 0.6
    assert {mix.shift for mix in drawn} == set(range(1, 8))
