import numpy as np
import pytest

from gpuopt.data import Digits
from gpuopt.errors import InputError


def digits(**options):
    return Digits(image_size=16, micro_batch_size=64, global_batch_size=64, **options)


def test_sizes_classes_and_ids():
    data = digits()
    data.setup()
    assert data.class_names == [str(digit) for digit in range(10)]
    assert data.num_classes == 10
    assert data.train_size + data.validation_size + data.test_size == 1797
    assert abs(data.test_size - 450) <= 5
    ids = [*data.train_ids, *data.validation_ids, *data.test_ids]
    assert len(set(ids)) == 1797
    assert data.has_test_set
    assert data.has_test_targets
    assert data.rejected == []


def test_test_images_do_not_depend_on_the_seed():
    first, second = digits(seed=1), digits(seed=2)
    assert first.test_ids == second.test_ids
    assert first.validation_ids != second.validation_ids


def test_images_are_enlarged_grey():
    batch = next(iter(digits().test_dataloader()))
    assert batch.images.shape == (64, 3, 16, 16)
    assert (batch.images[:, 0] == batch.images[:, 2]).all()
    assert batch.images.max() > 240


def test_pixels_tell_the_classes_apart():
    """The nearest mean image names most test digits, so images and targets belong together."""
    data = digits()

    def arrays(loader):
        batches = list(loader)
        images = np.concatenate([b.images.flatten(1).numpy() for b in batches]).astype(float)
        return images, np.concatenate([b.targets.numpy() for b in batches])

    known, labels = arrays(data.val_dataloader())
    means = np.stack([known[labels == label].mean(0) for label in range(10)])
    images, targets = arrays(data.test_dataloader())
    distances = ((images[:, None] - means[None]) ** 2).sum(2)
    assert (distances.argmin(1) == targets).mean() > 0.8


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5])
def test_absurd_test_ratio_is_refused(ratio):
    with pytest.raises(InputError, match=r"data\.test_ratio"):
        digits(test_ratio=ratio)
