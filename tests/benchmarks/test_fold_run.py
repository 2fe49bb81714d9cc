import numpy as np
import pytest
import torch

from benchmarks import fold_run
from benchmarks.fold_run import FoldRun, make_fold_run
from gpuopt.data.drawing import CLASS_NAMES, DocumentSet
from gpuopt.model import Classifier
from gpuopt.session.ensemble import Ensemble
from gpuopt.session.fold_results import read_fold
from gpuopt.session.out_of_fold import pool
from gpuopt.storage.checkpoint import read_checkpoint
from gpuopt.trained_run import data_of_run, find_run, folds_of

SET = DocumentSet(seed=0, train_count=102, test_count=4, size_px=64)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return FoldRun("test_vit", 32, 2, SET, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    make_fold_run(place, run, torch.device("cpu"))
    return place


def test_commands_take_it_for_a_run_of_finished_folds(folder, run):
    place = find_run(str(folder))
    assert folds_of(place) == 2
    ensemble = Ensemble.open(place, folds=2)
    assert not ensemble.missing
    assert ensemble.description.class_names == CLASS_NAMES
    assert ensemble.description.image_size == 32
    node, _ = data_of_run(place)
    assert (node["drawn_size"], node["train_count"], node["test_count"]) == (64, 102, 4)
    assert len(list(run.test_folder.glob("*.jpg"))) == 4


def test_folds_differ_and_say_that_they_were_not_trained(folder):
    states = []
    for fold in range(2):
        found = read_fold(folder / f"fold_{fold}", fold)
        assert "random" in found.results["weights"]
        states.append(read_checkpoint(folder / f"fold_{fold}/checkpoints/best.ckpt")["state_dict"])
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_each_image_is_judged_by_one_fold(folder):
    parts = [read_fold(folder / f"fold_{fold}", fold).out_of_fold for fold in range(2)]
    pooled = pool(parts)
    assert len(pooled.ids) == 102
    # The heads are fitted to them: far better than chance.
    assert np.mean(pooled.classes == pooled.targets) > 0.9


def test_it_is_made_once(folder, run):
    file = folder / "fold_0" / "checkpoints" / "best.ckpt"
    before = file.stat().st_mtime_ns
    make_fold_run(folder, run, torch.device("cpu"))
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_the_head_says_of_an_image_what_was_fitted(name):
    torch.manual_seed(0)
    model = Classifier(name, len(CLASS_NAMES)).eval()
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    targets = np.arange(40) % len(CLASS_NAMES)
    features = fold_run._features(model, images)
    rounding = fold_run._features(fold_run._rounded(model), images) - features
    assert 0 < rounding.std() < 0.02 * features.std()
    weight, bias = fold_run._fit_head(features, rounding, targets)
    with torch.no_grad():
        head = model.backbone.get_classifier()
        head.weight.copy_(weight)
        head.bias.copy_(bias)
        said = model(images)
    fitted = features @ weight.T + bias
    torch.testing.assert_close(said.double(), fitted, atol=1e-3, rtol=1e-3)
    assert (fitted.argmax(1).numpy() == targets).mean() > 0.9
    # What rounding does to a logit is far from what would change a class.
    first, second = fitted.topk(2, dim=1).values.unbind(1)
    assert (rounding @ weight.T).abs().max() < 0.1 * (first - second).min()
