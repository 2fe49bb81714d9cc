from dataclasses import replace

import numpy as np
import pytest
import torch

from gpuopt.data import Digits
from gpuopt.errors import InputError
from gpuopt.hardware import load_catalogue
from gpuopt.model import Classifier
from gpuopt.schema import CONF_DIR
from gpuopt.session import view_passes
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.view_passes import HeldOutPart, image_files, load_part, score_parts
from gpuopt.session.weights import ModelDescription, describe_model, load_described
from gpuopt.storage import AnswerCache
from gpuopt.storage.checkpoint import read_checkpoint, write_checkpoint
from gpuopt.tta import TtaPredictor, parse_views

VIEWS = parse_views([{}, {"rotate": 90}, {"blur": 1}])
SETUP = PredictionSetup("cpu", load_catalogue(CONF_DIR / "gpu")["cpu"], "fp32", 64, 0, ())


def digits(**options):
    return Digits(
        image_size=32, micro_batch_size=64, global_batch_size=64, test_ratio=0.8, **options
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints of untrained networks."""
    folder = tmp_path_factory.mktemp("weights")
    data = digits()
    data.setup()
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        model = Classifier("test_efficientnet", 10)
        content = {
            "state_dict": model.state_dict(),
            "gpuopt": describe_model(model, data.class_names, 32),
        }
        write_checkpoint(content, folder / f"{name}.ckpt")
    return folder


@pytest.fixture(scope="module")
def description(folder):
    return load_described(read_checkpoint(folder / "a.ckpt"), "a")[1]


@pytest.fixture
def passes(monkeypatch):
    """Count the passes, by the views that each computes."""
    seen = []
    original = view_passes.score_views

    def counted(loader, forward, views, **options):
        seen.append([view.name for view in views])
        return original(loader, forward, views, **options)

    monkeypatch.setattr(view_passes, "score_views", counted)
    return seen


def scored(parts, description, cache, views=VIEWS):
    return score_parts(
        parts, description, views, SETUP, chunk_size=32, cache=cache, show_progress=False
    )


def test_views_are_scored_as_predict_does_and_only_once(folder, description, passes, tmp_path):
    cache, part = AnswerCache(tmp_path / "tta"), HeldOutPart(folder / "a.ckpt", digits())
    first = scored([part], description, cache, VIEWS[:2])
    assert passes == [["identity", "rotate 90"]]
    again = scored([HeldOutPart(folder / "a.ckpt", digits())], description, cache)
    assert passes == [["identity", "rotate 90"], ["blur 1"]]  # the others were known
    for one, other in zip(first.log_probabilities, again.log_probabilities, strict=False):
        assert np.array_equal(one, other)
    (batch, *_) = part.data.val_dataloader()
    model = load_part(part, description)
    expected = TtaPredictor(model, VIEWS)(batch.images).numpy()
    assert np.abs(np.exp(again.merged(VIEWS))[: len(expected)] - expected).max() < 1e-3
    assert (again.targets == part.data.validation_targets).all()
    assert again.folds == 1


def test_other_weights_images_or_arithmetic_are_scored_anew(folder, description, passes, tmp_path):
    cache = AnswerCache(tmp_path / "tta")
    parts = [
        HeldOutPart(folder / "a.ckpt", digits()),
        HeldOutPart(folder / "b.ckpt", digits()),
        HeldOutPart(folder / "a.ckpt", digits(seed=3)),  # another split
    ]
    for part in parts:
        scored([part], description, cache, VIEWS[:1])
    assert len(passes) == 3
    other = replace(SETUP, precision="bf16")
    score_parts(
        parts[:1],
        description,
        VIEWS[:1],
        other,
        chunk_size=32,
        cache=cache,
        show_progress=False,
    )
    assert len(passes) == 4


def test_a_damaged_or_foreign_answer_is_computed_again(folder, description, passes, tmp_path):
    cache, part = AnswerCache(tmp_path / "tta"), HeldOutPart(folder / "a.ckpt", digits())
    first = scored([part], description, cache, VIEWS[:1])
    (file,) = cache.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    second = scored([part], description, cache, VIEWS[:1])
    assert len(passes) == 2
    assert np.array_equal(first.log_probabilities[0], second.log_probabilities[0])
    assert view_passes._from_bytes(b"no array", (1, 1)) is None
    assert view_passes._from_bytes(view_passes._to_bytes(np.zeros((2, 3))), (2, 4)) is None


def test_every_fold_scores_its_own_images_with_its_own_model(folder, description, tmp_path):
    parts = [
        HeldOutPart(folder / f"{name}.ckpt", digits(folds=2, fold=fold), fold)
        for fold, name in enumerate("ab")
    ]
    found = scored(parts, description, AnswerCache(tmp_path), VIEWS[:1])
    sizes = [part.data.validation_size for part in parts]
    assert found.folds == 2
    assert len(found.targets) == sum(sizes)
    alone = scored(parts[1:], description, AnswerCache(tmp_path / "new"), VIEWS[:1])
    assert np.array_equal(found.log_probabilities[0][sizes[0] :], alone.log_probabilities[0])
    ids = [{*part.data.validation_ids} for part in parts]
    assert not ids[0] & ids[1]


def test_a_part_of_another_model_or_data_is_refused(folder, description, tmp_path):
    part = HeldOutPart(folder / "a.ckpt", digits())
    with pytest.raises(InputError, match="classes are not those"):
        scored([part], replace(description, class_names=("x", "y")), AnswerCache(tmp_path))
    with pytest.raises(InputError, match="does not belong to this run"):
        load_part(part, replace(description, image_size=64))
    assert isinstance(description, ModelDescription)


def test_files_of_images_are_listed_where_there_are_any(tmp_path):
    from PIL import Image

    from gpuopt.data import ImageFolder

    assert image_files(digits()) == []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{i}.png")
    data = ImageFolder(
        root=str(tmp_path), image_size=32, micro_batch_size=1, global_batch_size=1, cache="off"
    )
    assert len(image_files(data)) == 6
