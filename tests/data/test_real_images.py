import numpy as np
import pytest
import torch

from gpuopt.data import Digits, PredictionImages, prediction_images, real_images


@pytest.fixture(scope="module")
def digits():
    data = Digits(image_size=16, micro_batch_size=8, global_batch_size=8)
    data.setup()
    return data


def test_validation_images_come_first_as_they_are(digits):
    images, names = real_images(digits, 50)
    assert (images.dtype, images.shape) == (torch.uint8, (50, 3, 16, 16))
    assert set(names) <= set(digits.validation_ids)
    assert len(set(names)) == 50
    every = torch.cat([batch.images for batch in digits.val_dataloader()])
    assert torch.equal(images[30], every[digits.validation_ids.index(names[30])])


def test_they_are_taken_from_all_over(digits):
    _, names = real_images(digits, 50)
    places = np.array([digits.validation_ids.index(name) for name in names])
    assert places[0] == 0
    assert np.diff(places).max() - np.diff(places).min() <= 1
    assert places[-1] > 0.95 * digits.validation_size


def test_training_images_fill_up_what_validation_lacks(digits):
    count = digits.validation_size + 20
    images, names = real_images(digits, count)
    assert len(images) == len(names) == len(set(names)) == count
    assert list(names[: digits.validation_size]) == digits.validation_ids
    assert set(names[digits.validation_size :]) <= set(digits.train_ids)


def test_fewer_than_wanted_are_all(digits):
    images, names = real_images(digits, 10_000)
    assert len(images) == len(names) == digits.validation_size + digits.train_size


def test_images_without_classes(make_image, tmp_path):
    for number in range(4):
        make_image(tmp_path / "scans" / f"{number}.png", seed=number)
    source = PredictionImages(prediction_images(tmp_path / "scans"), 16, 4, cache="off")
    images, names = real_images(source, 3)
    assert names == ("0.png", "1.png", "2.png")
    assert images.shape == (3, 3, 16, 16)
    assert not torch.equal(images[0], images[1])
