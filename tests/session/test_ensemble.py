"""Loading the models of folds: several at the same time, in order, and none kept."""

import gc
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch

from gpuopt.errors import InputError
from gpuopt.hardware import Gpu, float32_matmul_precision
from gpuopt.model import ImageNetwork
from gpuopt.session import ensemble as module
from gpuopt.session.ensemble import Ensemble
from gpuopt.session.prediction import ImageSource, PredictionSetup
from gpuopt.session.streamed import StreamOptions
from gpuopt.session.weights import describe_model
from gpuopt.storage import IntactFile

COUNT = 3


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    model = ImageNetwork("test_vit", 2)
    own = {"gpuopt": describe_model(model, ["a", "b"], 32)}
    for fold in range(COUNT):
        with torch.no_grad():
            model.backbone.get_classifier().bias.fill_(fold)
        torch.save({"state_dict": model.state_dict(), **own}, folder / f"fold_{fold}.ckpt")
    return [IntactFile.of_any(folder / f"fold_{fold}.ckpt") for fold in range(COUNT)]


@pytest.fixture
def ensemble(files):
    first = Ensemble.open(files[0].path)
    return Ensemble(files, COUNT, {}, first.description)


def folds_of(models):
    return [int(model.backbone.get_classifier().bias[0]) for model in models]


def test_weights_are_loaded_at_the_same_time_by_threads_that_have_ended(
    ensemble, files, monkeypatch
):
    together, original, threads = threading.Barrier(COUNT), module.load_weights, []

    def load(*words):
        threads.append(threading.current_thread())
        together.wait(60)
        original(*words)

    monkeypatch.setattr(module, "load_weights", load)
    models = ensemble._loaded(files)
    first = next(models)
    assert len(set(threads)) == COUNT
    assert not any(thread.is_alive() for thread in threads)
    assert folds_of([first, *models]) == [0, 1, 2]


@pytest.mark.parametrize("at_once", [1, 2])
def test_so_many_and_no_more_are_loaded_before_one_is_taken(ensemble, files, monkeypatch, at_once):
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    living, original = weakref.WeakSet(), module.build_described

    def build(*words):
        gc.collect()
        assert len(living) < at_once
        model, description = original(*words)
        living.add(model)
        return model, description

    monkeypatch.setattr(module, "build_described", build)
    folds = []
    for model in ensemble._loaded(files):
        folds += folds_of([model])
        del model
    assert folds == [0, 1, 2]


def test_a_model_that_is_loaded_already_is_given_away_once(ensemble, files):
    ensemble.load_first()
    kept = ensemble._first
    first = next(ensemble._loaded(files))
    assert first is kept
    assert ensemble._first is None
    assert next(ensemble._loaded(files)) is not kept


def test_weights_that_fail_in_a_thread_are_named(ensemble, files, monkeypatch):
    original = module.load_weights

    def load(model, checkpoint, where):
        kept = {} if where.endswith("fold_1.ckpt") else checkpoint["state_dict"]
        original(model, {"state_dict": kept}, where)

    monkeypatch.setattr(module, "load_weights", load)
    with pytest.raises(InputError, match=r"fold_1\.ckpt"):
        list(ensemble._loaded(files))


def test_a_fold_of_another_model_is_refused(ensemble, files, tmp_path):
    own = describe_model(ImageNetwork("test_vit", 2), ["a", "c"], 32)
    state = ImageNetwork("test_vit", 2).state_dict()
    torch.save({"state_dict": state, "gpuopt": own}, tmp_path / "other.ckpt")
    other = IntactFile.of_any(tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"other\.ckpt has another model, image size or classes"):
        ensemble._forwards([files[0], other], SimpleNamespace(torch_device="cpu"), Opened())


class Opened:
    """Engines of some files; what was built is in `built`."""

    def __init__(self, *known):
        self.known, self.built = known, []

    def knows(self, file):
        return file in self.known

    def reopen(self, files):
        return [(lambda images, file=file: file) if file in self.known else None for file in files]

    def forward_of(self, model, file):
        self.built.append(file)
        return lambda images: model


def test_only_models_without_an_engine_are_built(ensemble, files):
    opened = Opened(files[0], files[2])
    forwards = ensemble._forwards(files, SimpleNamespace(torch_device="cpu"), opened)
    assert opened.built == [files[1]]
    first, second, third = (forward(None) for forward in forwards)
    assert (first, third) == (files[0], files[2])
    assert folds_of([second]) == [1]


def test_an_engine_of_a_fold_of_another_run_is_refused(ensemble, files, tmp_path):
    other = ImageNetwork("test_vit", 3)
    own = {"gpuopt": describe_model(other, ["a", "b", "c"], 32)}
    torch.save({"state_dict": other.state_dict(), **own}, tmp_path / "other.ckpt")
    file = IntactFile.of_any(tmp_path / "other.ckpt")
    opened = Opened(file)
    opened.reopen = None  # it is refused before any engine is opened
    with pytest.raises(InputError, match="its fold does not belong to this run"):
        ensemble._forwards([files[0], file], SimpleNamespace(torch_device="cpu"), opened)


def test_weights_are_counted_without_a_model(ensemble, tmp_path, monkeypatch):
    model = ImageNetwork("test_vit", 2)
    monkeypatch.setattr(module, "build_described", None)
    full = sum(t.nbytes for t in model.state_dict().values())
    assert ensemble.weights_bytes() == full
    own = {"gpuopt": describe_model(model, ["a", "b"], 32)}
    for name, state in (("half", model.half().state_dict()), ("none", None)):
        torch.save({"state_dict": state, **own}, tmp_path / f"{name}.ckpt")
    assert Ensemble.open(tmp_path / "half.ckpt").weights_bytes() == full  # the model is in fp32
    with pytest.raises(InputError, match="holds no weights"):
        Ensemble.open(tmp_path / "none.ckpt").weights_bytes()


def test_whether_an_engine_is_known_is_asked_under_the_arithmetic_that_predicts(
    ensemble, files, monkeypatch
):
    """It is a part of the question: outside, no engine would be known."""
    seen = []

    class Asked(Opened):
        def knows(self, file):
            seen.append(torch.get_float32_matmul_precision())
            return super().knows(file)

    class Stop(Exception):
        pass

    def stop(*words):
        raise Stop

    monkeypatch.setattr(module, "open_images", stop)
    monkeypatch.setattr(module, "build_described", None)  # no model is built
    setup = PredictionSetup("cpu", Gpu("x", 8192), "bf16", 2, 0, ())
    options = StreamOptions(forwards=Asked(files[0]))
    before = torch.get_float32_matmul_precision()
    with pytest.raises(Stop):
        ensemble.predict(setup, None, None, ImageSource("x"), None, options=options)
    assert seen == [float32_matmul_precision("bf16")] != [before]
