import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make_image():
    """Write a small image whose colours depend on `seed`."""

    def write(path, seed=0, size=(24, 16), mode="RGB", **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).save(path, **options)
        return path

    return write


@pytest.fixture
def class_folders(tmp_path, make_image):
    """Three classes of 12 images: root/cat/00.png, ..."""
    root = tmp_path / "animals"
    for label, name in enumerate(("cat", "dog", "owl")):
        for number in range(12):
            make_image(root / name / f"{number:02d}.png", seed=100 * label + number)
    return root


@pytest.fixture
def settings(tmp_path):
    """The common arguments of a data module, small and with a cache of its own."""
    return {
        "image_size": 16,
        "micro_batch_size": 4,
        "global_batch_size": 8,
        "cache_dir": tmp_path / "cache",
    }
