import numpy as np
import pytest
import torch

from gpuopt.data import AUGMENTATION_UNIFORMS, Augmentation
from gpuopt.data.counter_random import Stream, random_uniforms
from gpuopt.errors import InputError

NOTHING = {
    "rotation90": False, "flip": False, "rotation_degrees": 0.0, "scale_ratio": 0.0,
    "shift_ratio": 0.0, "gamma": 0.0, "brightness": 0.0, "noise": 0.0, "blur": 0.0,
}  # fmt: skip
EVERYTHING = Augmentation(blur=0.8)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=generator)


def uniforms(count=16, **columns):
    rows = np.arange(count)
    values = random_uniforms(0, Stream.AUGMENTATION, 0, rows, AUGMENTATION_UNIFORMS)
    values = torch.from_numpy(values)
    for column, value in columns.items():
        values[:, int(column[1:])] = value
    return values


def only(**options):
    return Augmentation(**{**NOTHING, **options})


def test_nothing_changes_nothing(images):
    torch.testing.assert_close(only()(images, uniforms()), images.float(), rtol=0, atol=1e-3)


def test_a_batch_may_be_empty(images):
    for augmentation in (EVERYTHING, only(flip=True, rotation90=True)):
        assert augmentation(images[:0], uniforms()[:0]).shape == (0, 3, 32, 32)


def test_a_sample_does_not_depend_on_its_batch(images):
    numbers = uniforms()
    whole = EVERYTHING(images, numbers)
    for part in (slice(3, 4), slice(5, 12), [9, 2]):
        assert torch.equal(EVERYTHING(images[part], numbers[part]), whole[part])


def test_same_numbers_give_the_same_pixels_and_no_generator_is_used(images):
    state = torch.get_rng_state()
    first = EVERYTHING(images, uniforms())
    assert torch.equal(first, Augmentation(blur=0.8)(images, uniforms()))
    assert torch.equal(state, torch.get_rng_state())


def test_result_is_float_in_range_and_input_unchanged(images):
    before = images.clone()
    result = EVERYTHING(images, uniforms())
    assert result.dtype == torch.float32
    assert result.shape == images.shape
    assert result.min() >= 0
    assert result.max() <= 255
    assert torch.equal(images, before)
    pixels = images.float()
    EVERYTHING(pixels, uniforms())
    assert torch.equal(pixels, images.float())


@pytest.mark.parametrize("quarter", range(4))
def test_quarter_turns_are_exact(images, quarter):
    turned = only(rotation90=True)(images, uniforms(u0=quarter / 4 + 0.1))
    matches = [
        k for k in range(4) if torch.allclose(turned, images.rot90(k, (2, 3)).float(), atol=1e-2)
    ]
    assert len(matches) == 1
    if quarter == 0:
        assert matches == [0]


def test_all_quarter_turns_are_different_and_flip_mirrors(images):
    turns = [only(rotation90=True)(images, uniforms(u0=q / 4)).round() for q in range(4)]
    assert len({tuple(turn.flatten().tolist()) for turn in turns}) == 4
    flipped = only(flip=True)(images, uniforms(u1=0.2))
    torch.testing.assert_close(flipped, images.flip(3).float(), rtol=0, atol=1e-3)
    kept = only(flip=True)(images, uniforms(u1=0.7))
    torch.testing.assert_close(kept, images.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"rotation90": True}, {"flip": True},
                                     {"rotation90": True, "flip": True}])  # fmt: skip
def test_whole_pixel_moves_are_what_the_sampling_grid_gives(images, options):
    numbers = uniforms(u2=0.5, u4=0.5, u5=0.5)  # no tilt, no shift: the grid meets the pixels
    numbers[:, 0] = torch.arange(16) % 4 / 4
    numbers[:, 1] = torch.arange(16) // 4 % 2 / 2
    moved = only(**options)(images, numbers)
    sampled = only(**options, rotation_degrees=1e-6)(images, numbers)
    assert torch.equal(moved, moved.round())
    torch.testing.assert_close(moved, sampled, rtol=0, atol=1e-2)
    assert torch.equal(only(**options)(images[5:7], numbers[5:7]), moved[5:7])


def test_whole_pixel_moves_leave_float_input_alone(images):
    pixels = images.float()
    only(gamma=0.5)(pixels, uniforms())
    assert torch.equal(pixels, images.float())


def test_fresh_borders_are_white():
    black = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    shrunk = only(scale_ratio=1.0)(black, uniforms(4, u3=0.999))
    assert shrunk[:, :, 0, :].min() == 255
    assert shrunk[:, :, 16, 16].max() == 0
    # Shrunk to half the side: a quarter of the area is left.
    assert (shrunk < 128).float().mean() == pytest.approx(0.25, abs=0.03)


def test_shift_moves_by_a_share_of_half_the_side():
    image = torch.full((1, 3, 33, 33), 255, dtype=torch.uint8)
    image[:, :, 16, 16] = 0
    one_deviation = 0.8413447
    moved = only(shift_ratio=2 / 33)(image, uniforms(1, u4=one_deviation, u5=0.5))
    assert moved[0, 0].argmin().item() == 16 * 33 + 15


def test_rotation_keeps_centre_and_angle():
    line = torch.full((1, 3, 65, 65), 255, dtype=torch.uint8)
    line[:, :, :, 31:34] = 0
    tilted = only(rotation_degrees=45.0)(line, uniforms(1, u2=0.8413447))[0, 0]
    assert tilted.diagonal()[12:53].max() < 10  # anticlockwise: its upper end went left
    assert tilted.flip(1).diagonal()[12:28].min() > 245


def test_gamma_and_brightness():
    grey = torch.full((2, 3, 8, 8), 64, dtype=torch.uint8)
    brighter = only(gamma=0.5)(grey, uniforms(2, u6=0.1))
    darker = only(gamma=0.5)(grey, uniforms(2, u6=0.9))
    assert darker.max() < 64 < brighter.min()
    dim = only(brightness=0.2)(grey, uniforms(2, u7=0.0))
    bright = only(brightness=0.2)(grey, uniforms(2, u7=0.9999))
    assert dim.mean().item() == pytest.approx(64 * 0.7, rel=1e-3)
    assert bright.mean().item() == pytest.approx(64 * 1.1, rel=1e-3)


def test_noise_has_the_deviation_asked_for_and_differs_between_samples():
    grey = torch.full((3, 3, 64, 64), 128, dtype=torch.uint8)
    numbers = uniforms(3, u8=0.5)
    noise = only(noise=20.0)(grey, numbers) - 128
    assert noise.std().item() == pytest.approx(10, rel=0.05)
    assert abs(noise.mean().item()) < 0.5
    assert abs(np.corrcoef(noise[0].flatten(), noise[1].flatten())[0, 1]) < 0.05


def test_blur_smooths(images):
    def roughness(pixels):
        return (pixels[..., 1:] - pixels[..., :-1]).abs().mean()

    blurred = only(blur=1.0)(images, uniforms(u10=0.9))
    assert roughness(blurred) < 0.7 * roughness(images.float())


def test_empty_batch():
    empty = torch.zeros(0, 3, 32, 32, dtype=torch.uint8)
    assert EVERYTHING(empty, uniforms(0)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("option", "value"),
    [("noise", -1.0), ("blur", 1.5), ("rotation_degrees", 181.0), ("gamma", float("nan"))],
)
def test_absurd_amounts_are_refused(option, value):
    with pytest.raises(InputError, match=f"data.augmentation.{option}="):
        Augmentation(**{option: value})
