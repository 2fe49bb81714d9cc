"""One's own images in class folders."""

from pathlib import Path
from typing import Any

import numpy as np

from gpuopt.data.datamodule import ImageDataModule
from gpuopt.data.image_files import existing_folder, list_images, shown
from gpuopt.data.splits import DataSets, ImageSet
from gpuopt.errors import InputError, nearest

__all__ = ["ImageFolder"]

_VALIDATION_NAMES = ("val", "valid", "validation")


class ImageFolder(ImageDataModule):
    """Images in one folder per class: `root/cat/1.jpg`, `root/dog/2.png`.

    When `root` has a folder `train` that holds folders, the classes are in there, and folders
    `val` (or `valid`, `validation`) and `test` beside it are used for what they say. A test
    folder may hold images directly, whose classes are then unknown. Folders are searched to any
    depth; hidden files and files that do not end like an image are passed over.

    Args:
        root: Folder with the class folders, or with `train`, `val`, `test`.
        test_root: Folder of the test images, if it is elsewhere; as `root/test`.
        options: See `ImageDataModule`.

    Raises:
        InputError: For a value out of its range.
    """

    def __init__(
        self, root: str | Path | None, test_root: str | Path | None = None, **options: Any
    ) -> None:
        if root is None:
            raise InputError("data.root is not set: give the folder with one folder per class")
        self.root = Path(root).expanduser()
        self.test_root = Path(test_root).expanduser() if test_root is not None else None
        super().__init__(**options)

    def read_sets(self) -> DataSets:
        """List the images of all class folders.

        Raises:
            InputError: When folders are missing, empty or name unknown classes.
        """
        root = existing_folder(self.root, "data.root")
        has_parts = bool(_folders(root / "train"))
        train_root = root / "train" if has_parts else root
        names = [folder.name for folder in _folders(train_root)]
        if not names:
            raise InputError(_nothing_in(train_root))
        validation_root = next(
            (root / name for name in _VALIDATION_NAMES if (root / name).is_dir()), None
        )
        test_root = root / "test" if has_parts and (root / "test").is_dir() else None
        if self.test_root is not None:
            test_root = existing_folder(self.test_root, "data.test_root")
            if test_root.resolve() in (root.resolve(), train_root.resolve()):
                raise InputError("data.test_root is the training folder: give another")
        return DataSets(
            class_names=[shown(name) for name in names],
            train=_labelled(train_root, names, root, complete=True),
            validation=_labelled(validation_root, names, root)
            if has_parts and validation_root
            else None,
            test=_test_set(test_root, names, self.test_root or root) if test_root else None,
        )


def _test_set(folder: Path, names: list[str], base: Path) -> ImageSet:
    if _folders(folder):
        return _labelled(folder, names, base)
    files = list_images(folder)
    if not files:
        raise InputError(_nothing_in(folder))
    unknown = np.full(len(files), -1, np.int64)
    return ImageSet([shown(file.relative_to(base)) for file in files], unknown, files)


def _labelled(folder: Path, names: list[str], base: Path, complete: bool = False) -> ImageSet:
    files: list[Path] = []
    targets: list[int] = []
    for class_folder in _folders(folder):
        if class_folder.name not in names:
            raise InputError(
                f"{shown(class_folder)} is no class of the training images"
                f"{nearest(class_folder.name, names)}"
            )
        found = list_images(class_folder)
        if complete and not found:
            raise InputError(
                f"class folder {shown(class_folder)} holds no images: add some or remove it"
            )
        files += found
        targets += [names.index(class_folder.name)] * len(found)
    if not files:
        raise InputError(_nothing_in(folder))
    ids = [shown(file.relative_to(base)) for file in files]
    return ImageSet(ids, np.array(targets, np.int64), files)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
    )


def _nothing_in(folder: Path) -> str:
    if list_images(folder):
        return (
            f"{shown(folder)} holds images but no class folders: "
            f"put each class into a folder of its own, as {shown(folder / 'cat' / '1.jpg')}"
        )
    return f"{shown(folder)} holds no images: give the folder with one folder per class"
