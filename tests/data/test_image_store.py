import os

import numpy as np
from PIL import Image

from gpuopt.data import ArrayImages, ImageDataset, Split
from gpuopt.data.cache import open_images
from gpuopt.data.image_store import FileImages, MappedImages, digest_of_files


def pictures(folder, count=3):
    paths = []
    for number in range(count):
        paths.append(folder / f"{number}.png")
        Image.new("RGB", (8, 8), (number, 0, 0)).save(paths[-1])
    return paths


def test_any_change_of_a_file_changes_the_digest(tmp_path):
    paths = pictures(tmp_path)
    digests = {digest_of_files(paths, "a"), digest_of_files(paths, "b")}
    digests.add(digest_of_files(paths[:2], "a"))
    digests.add(digest_of_files(paths[::-1], "a"))
    status = paths[0].stat()
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    digests.add(digest_of_files(paths, "a"))
    with paths[0].open("ab") as stream:
        stream.write(b"x")
    digests.add(digest_of_files(paths, "a"))
    paths[0].unlink()
    digests.add(digest_of_files(paths, "a"))
    assert len(digests) == 7
    assert digest_of_files(paths, "a") in digests


def test_every_store_has_a_fingerprint_of_its_images(tmp_path):
    paths = pictures(tmp_path)
    cached, _ = open_images(paths, 8, cache="on", cache_dir=tmp_path / "cache")
    again, _ = open_images(paths, 8, cache="on", cache_dir=tmp_path / "elsewhere")
    assert isinstance(cached, MappedImages)
    assert cached.fingerprint() == again.fingerprint()
    files = [FileImages(paths, 8), FileImages(paths, 16), FileImages(paths[:2], 8)]
    arrays = [np.zeros((2, 3, 8, 8), np.uint8), np.ones((2, 3, 8, 8), np.uint8)]
    arrays += [np.zeros((2, 1, 8, 8), np.uint8)]
    prints = [store.fingerprint() for store in [cached, *files, *map(ArrayImages, arrays)]]
    Image.new("RGB", (9, 8)).save(paths[0])
    changed, _ = open_images(paths, 8, cache="on", cache_dir=tmp_path / "cache")
    prints += [changed.fingerprint(), FileImages(paths, 8).fingerprint()]
    assert len(set(prints)) == len(prints)


def test_a_data_sets_fingerprint_follows_from_images_rows_and_targets():
    def fingerprint(rows, targets, shade=0):
        images = ArrayImages(np.full((4, 3, 8, 8), shade, np.uint8))
        split = Split([str(row) for row in rows], np.array(targets), images, np.array(rows))
        return ImageDataset(split, seed=0).fingerprint()

    prints = [
        fingerprint([0, 1], [1, 0]),
        fingerprint([1, 0], [1, 0]),
        fingerprint([0, 1], [1, -1]),
        fingerprint([0, 1], [1, 0], shade=1),
        fingerprint([0, 1, 2], [1, 0, 0]),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint([0, 1], [1, 0]) == prints[0]
