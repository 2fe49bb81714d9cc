import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from gpuopt.tta import OPERATIONS, apply_view, parse_views
from gpuopt.tta.apply import FUNCTIONS

EVERY = [
    {"rotate": 90},
    {"rotate": 15},
    {"rotate": -7, "scale": 0.9},
    {"hflip": True},
    {"vflip": True},
    {"transpose": True},
    {"scale": 1.3},
    {"brightness": 1.3},
    {"contrast": 1.15},
    {"gamma": 0.8},
    {"equalize": 0.5},
    {"blur": 1.0},
    {"motion_blur": 5},
    {"sharpen": 0.5},
    {"noise": 8},
]


def view(**operations):
    return parse_views([operations])[0]


def pictures(samples=3, size=24, seed=0):
    """Smooth uint8 images, so that resampling has something to interpolate."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(samples, 3, 5, 5, generator=generator) * 255
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", antialias=True)
    return fine.clamp(0, 255).round().byte()


def as_pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def as_tensor(picture):
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float()


def test_every_operation_has_a_function_and_is_tested_here():
    assert set(FUNCTIONS) == set(OPERATIONS)
    assert {name for mapping in EVERY for name in mapping} == set(OPERATIONS)


@pytest.mark.parametrize("mapping", EVERY, ids=lambda mapping: view(**mapping).name)
def test_a_view_is_repeatable_in_range_and_treats_samples_alone(mapping):
    images = pictures()
    before = images.clone()
    seen = apply_view(view(**mapping), images)
    assert torch.equal(images, before)
    assert seen.dtype == torch.float32
    assert seen.shape == images.shape
    assert seen.min() >= -1e-3
    assert seen.max() <= 255 + 1e-3
    assert torch.equal(seen, apply_view(view(**mapping), images))
    assert torch.equal(seen, apply_view(view(**mapping), images.float()))
    one_by_one = torch.cat([apply_view(view(**mapping), image[None]) for image in images])
    assert torch.allclose(seen, one_by_one, atol=1e-4, rtol=0)
    assert not torch.equal(seen, images.float())


def test_identity_changes_nothing():
    images = pictures()
    assert torch.equal(apply_view(view(), images), images.float())


@pytest.mark.parametrize(
    ("mapping", "method"),
    [
        ({"rotate": 90}, Image.Transpose.ROTATE_90),
        ({"rotate": -90}, Image.Transpose.ROTATE_270),
        ({"rotate": 180}, Image.Transpose.ROTATE_180),
        ({"rotate": 270}, Image.Transpose.ROTATE_270),
        ({"hflip": True}, Image.Transpose.FLIP_LEFT_RIGHT),
        ({"vflip": True}, Image.Transpose.FLIP_TOP_BOTTOM),
        ({"transpose": True}, Image.Transpose.TRANSPOSE),
    ],
)
def test_turns_and_mirrors_equal_pillow_exactly(mapping, method):
    images = pictures()
    for image, seen in zip(images, apply_view(view(**mapping), images), strict=True):
        assert torch.equal(seen, as_tensor(as_pil(image).transpose(method)))


@pytest.mark.parametrize("degrees", [15, -7, 200])
def test_other_angles_turn_as_pillow_does_with_white_corners(degrees):
    image = pictures(1, 48)
    seen = apply_view(view(rotate=degrees), image)[0]
    expected = as_tensor(
        as_pil(image[0]).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(255, 255, 255))
    )
    inner = slice(12, 36)  # the border blends with white differently
    assert (seen - expected)[:, inner, inner].abs().max() < 2.0
    if degrees == 15:
        corners = seen[:, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert torch.all(corners == 255)


def test_nearly_a_quarter_turn_is_nearly_the_exact_one():
    image = pictures(1, 48)
    difference = apply_view(view(rotate=89.999), image) - apply_view(view(rotate=90), image)
    assert difference[..., 2:-2, 2:-2].abs().max() < 0.1


def test_scaling_down_adds_a_white_margin_and_keeps_the_ink():
    image = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    seen = apply_view(view(scale=0.5), image)
    assert torch.all(seen[..., :9, :] == 255)
    assert torch.all(seen[..., 11:29, 11:29] == 0)
    assert (255 - seen).sum() == pytest.approx(255 * 3 * 20 * 20, rel=1e-3)


def test_brightness_and_contrast_follow_pillow():
    image = pictures(1)
    bright = as_tensor(ImageEnhance.Brightness(as_pil(image[0])).enhance(1.3))
    assert (apply_view(view(brightness=1.3), image)[0] - bright).abs().max() <= 1.0
    strong = as_tensor(ImageEnhance.Contrast(as_pil(image[0])).enhance(1.5))
    assert (apply_view(view(contrast=1.5), image)[0] - strong).abs().max() <= 2.0


def test_gamma_below_one_brightens_and_keeps_black_and_white():
    image = torch.tensor([0, 64, 128, 255], dtype=torch.uint8).repeat(1, 3, 4, 1)
    seen = apply_view(view(gamma=0.5), image)[0, 0, 0]
    assert torch.allclose(seen, 255 * (torch.tensor([0, 64, 128, 255]) / 255) ** 0.5)


def test_full_equalisation_of_a_grey_image_is_close_to_pillow():
    grey = pictures(1, 240)[:, :1] // 2
    seen = apply_view(view(equalize=1.0), grey.repeat(1, 3, 1, 1))[0, 0]
    expected = as_tensor(ImageOps.equalize(as_pil(grey[0].repeat(3, 1, 1))))[0]
    assert seen.min() == 0
    assert seen.max() == 255
    assert (seen - expected).abs().mean() < 2.0


def test_equalising_a_flat_image_changes_nothing():
    image = torch.full((2, 3, 8, 8), 77, dtype=torch.uint8)
    assert torch.equal(apply_view(view(equalize=1.0), image), image.float())


@pytest.mark.parametrize("mapping", [{"blur": 3.0}, {"motion_blur": 9}, {"sharpen": 2.0}])
def test_filters_keep_flat_images_even_small_ones(mapping):
    image = torch.full((1, 3, 4, 4), 90, dtype=torch.uint8)
    assert torch.allclose(apply_view(view(**mapping), image), image.float(), atol=1e-3)


def test_blur_spreads_a_dot_as_a_gaussian():
    image = torch.zeros(1, 3, 21, 21)
    image[..., 10, 10] = 255
    seen = apply_view(view(blur=1.5), image)[0, 0] / 255
    distance = torch.arange(21) - 10
    variance = (seen.sum(0) * distance**2).sum() / seen.sum()
    assert seen.sum() == pytest.approx(1.0, abs=1e-4)
    assert variance == pytest.approx(1.5**2, rel=0.03)
    assert torch.allclose(seen, seen.T)


def test_motion_blur_is_horizontal():
    image = torch.zeros(1, 3, 15, 15)
    image[..., 7, 7] = 255
    seen = apply_view(view(motion_blur=5), image)[0, 0]
    assert torch.allclose(seen[7, 5:10], torch.full((5,), 51.0))
    assert seen.sum() == pytest.approx(255, abs=1e-2)


def test_noise_is_one_pattern_of_the_given_strength():
    images = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    noise = apply_view(view(noise=8), images) - 128
    assert torch.equal(noise[0], noise[1])
    assert noise.std().item() == pytest.approx(8, rel=0.05)


def test_sharpening_raises_the_contrast_of_an_edge():
    image = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    image[..., 8:] = 150
    seen = apply_view(view(sharpen=1.0), image)[0, 0, 8]
    assert seen[7] < 95
    assert seen[8] > 155


def test_operations_are_applied_in_the_order_written():
    images = pictures()
    darker = apply_view(view(brightness=3, gamma=3), images)
    assert torch.equal(darker, apply_view(view(gamma=3), apply_view(view(brightness=3), images)))
    assert not torch.allclose(darker, apply_view(view(gamma=3, brightness=3), images))
