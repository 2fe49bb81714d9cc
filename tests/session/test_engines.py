"""Which engine a prediction takes, with proved engines that only record what they are asked."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gpuopt.choice import Choice
from gpuopt.data import Digits
from gpuopt.engine.cache_key import network_key
from gpuopt.engine.fallback import ProofImages
from gpuopt.engine.record import ENGINES, FastEngine
from gpuopt.engine.trained import network_of
from gpuopt.errors import FaultError, InputError
from gpuopt.model import Classifier
from gpuopt.session import engines as module
from gpuopt.session.engines import EngineSettings, PredictionEngines, proof_images
from gpuopt.storage import IntactFile

CPU = torch.device("cpu")
FILE = IntactFile(Path("best.ckpt"), "abc", ())


@pytest.fixture(scope="module")
def model():
    return Classifier("test_resnet", 5).eval()


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Records what engines are opened; any of them answers zeros."""
    calls = []

    class Proved:
        def __init__(self, network, cache, **options):
            self.network = network

        def open(self, names, request, proof):
            if "tensorrt" in names:
                raise InputError("engine=tensorrt needs torch-tensorrt")
            if "aot_inductor" in names:
                raise FaultError("the package cannot be loaded")
            calls.append((names, request))
            engine = SimpleNamespace(
                name=names[0],
                device=CPU,
                max_batch_size=request.max_batch_size,
                __call__=None,
            )
            return engine, Choice("engine", names[0], "measured", "proved")

        def open_file(self, file, request, proof):
            calls.append((file.path.name, request))
            return self.open(("onnx",), request, proof)

    monkeypatch.setattr(module, "ProvedEngines", Proved)
    monkeypatch.setattr("gpuopt.engine.seal.default_cache_dir", lambda: tmp_path / "seal")
    monkeypatch.chdir(tmp_path)  # with the cache
    monkeypatch.setattr(module, "forward_of", lambda engine: engine.name)
    return calls


def settings(**changes):
    words = {
        "cache_dir": "cache",
        "engine": "auto",
        "path": None,
        "provider": "auto",
        "optimize": False,
        "precision": "auto",
    }
    return EngineSettings(**{**words, **changes})


def engines(run, lines=None, **changes):
    return PredictionEngines(
        settings(**changes),
        run,
        image_size=32,
        num_classes=5,
        batch_size=8,
        device=CPU,
        proof=lambda: None,
        tell=(lines if lines is not None else []).append,
    )


def recorded(monkeypatch, place, best):
    (place / ENGINES).write_text("{}")
    monkeypatch.setattr(
        module, "fastest_verified", lambda run, here: best if run == place else None
    )


def test_eager_is_the_model_itself(model, opened, tmp_path):
    assert engines(tmp_path, engine="eager").forward_of(model, FILE) is model
    assert opened == []


def test_a_named_engine_is_made_for_the_batch(model, opened, tmp_path):
    assert engines(tmp_path, engine="onnx").forward_of(model, FILE) == "onnx"
    ((names, request),) = opened
    assert names == ("onnx",)
    assert (request.image_size, request.num_classes, request.precision) == (32, 5, "fp32")
    assert (request.optimal_batch_size, request.max_batch_size) == (8, 8)


def test_a_file_is_opened_and_one_of_another_kind_than_asked_for_refused(
    model, opened, tmp_path, monkeypatch
):
    monkeypatch.setattr(module.EngineFile, "content", lambda file: {"key": {"engine": "onnx"}})
    for engine in ("auto", "onnx"):
        engines(tmp_path, engine=engine, path="my.onnx").forward_of(model, FILE)
        assert opened.pop(0)[0] == "my.onnx"
        opened.clear()
    for engine in ("eager", "aot_inductor"):
        with pytest.raises(InputError, match=f"engine={engine}: my.onnx is one of onnx"):
            engines(tmp_path, engine=engine, path="my.onnx").forward_of(model, FILE)
    assert opened == []


def test_auto_without_a_record_is_the_model_and_says_what_measures(
    model, opened, tmp_path, monkeypatch
):
    lines = []
    monkeypatch.setattr(module, "network_key", None)  # nothing is digested for it
    assert engines(tmp_path, lines).forward_of(model, FILE) is model
    assert opened == []
    assert lines[0].startswith("engine=eager (table: ")
    assert "gpuopt benchmark" in lines[0]


@pytest.mark.parametrize(("folder", "name"), [("", "onnx"), ("fold_1", "onnx"), ("", "eager")])
def test_auto_takes_the_fastest_that_was_proved(model, opened, tmp_path, monkeypatch, folder, name):
    """Eager too is what was timed: the served network, not the model under autocast."""
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    best = FastEngine(name, "fp32", ("stem",), 16, 64, 1234.5, 300)
    recorded(monkeypatch, place, best)
    lines = []
    assert engines(tmp_path, lines).forward_of(model, FILE) == name
    ((_, request),) = opened
    assert (request.optimal_batch_size, request.max_batch_size) == (16, 64)
    assert request.fp32_layers == ("stem",)
    assert "1234 images/s" in lines[-1] or "1235 images/s" in lines[-1]


@pytest.mark.parametrize(
    ("best", "precision"),
    [
        (None, "auto"),
        (FastEngine("onnx", "fp16", (), 8, 8, 9.0, 500), "bf16"),
        (FastEngine("tensorrt", "fp32", (), 8, 8, 9.0, 500), "auto"),
        (FastEngine("aot_inductor", "fp32", (), 8, 8, 9.0, 500), "auto"),
    ],
)
def test_auto_stays_with_the_model_where_nothing_better_can_be_used(
    model, opened, tmp_path, monkeypatch, best, precision
):
    recorded(monkeypatch, tmp_path, best)
    lines = []
    assert engines(tmp_path, lines, precision=precision).forward_of(model, FILE) is model
    assert opened == []
    if best is not None and best.name == "tensorrt":
        assert "engine=tensorrt is the fastest, but: engine=tensorrt needs" in lines[0]
    if best is not None and best.name == "aot_inductor":
        assert "is the fastest, but: the package cannot be loaded" in lines[0]


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"engine": "onnx"}, [("onnx",)]),
        ({"optimize": True}, [("onnx", "compiled")]),
        ({"engine": "eager"}, []),
        ({}, []),
        ({"path": "my.onnx"}, []),
    ],
)
def test_what_was_accepted_for_a_file_is_opened_without_its_model(
    model, opened, accepted, tmp_path, monkeypatch, changes, asked
):
    """Not where no engine is asked for, and not where an engine's file is named."""
    monkeypatch.setattr(module, "preferred", lambda device, provider: ("onnx", "compiled"))
    lines = []
    here = engines(tmp_path, lines, **changes)
    assert not here.knows(FILE)  # nothing is known of the file
    assert here.reopen([FILE]) == [None]
    engines(tmp_path, engine="onnx").forward_of(model, FILE)
    assert here.knows(FILE) is bool(asked)
    assert here.reopen([FILE]) == [asked[0][0] if asked else None]
    assert [names for names, *_ in accepted] == asked
    assert len(lines) == len(asked)
    for _, request, words in accepted:
        assert (request.image_size, request.num_classes) == (32, 5)
        assert words == network_key(network_of(model))


@pytest.fixture
def accepted(monkeypatch):
    """Records what is asked for; `compiled` was never accepted alone."""

    class Accepted:
        def __init__(self, cache, *, provider, bounds):
            self.bounds = bounds

        def is_there(self, names, request, words):
            return names != ("compiled",)

        def open(self, names, request, words):
            if not self.is_there(names, request, words):
                return None
            calls.append((names, request, words))
            calls.bounds = self.bounds
            return SimpleNamespace(name=names[0]), Choice("engine", names[0], "measured", "proved")

    class Calls(list):
        bounds = None

    calls = Calls()
    monkeypatch.setattr(module, "AcceptedEngines", Accepted)
    return calls


def test_the_fastest_that_was_measured_is_opened_again_without_its_model(
    model, opened, accepted, tmp_path, monkeypatch
):
    recorded(monkeypatch, tmp_path, FastEngine("onnx", "fp32", ("stem",), 16, 64, 1234.5, 300))
    first, second = [], []
    engines(tmp_path, first).forward_of(model, FILE)
    assert engines(tmp_path, second).reopen([FILE]) == ["onnx"]
    assert second == first
    ((names, request, _),) = accepted
    assert (names, request) == opened[0]
    assert accepted.bounds.least_images == 300
    recorded(monkeypatch, tmp_path, FastEngine("eager", "fp32", (), 16, 64, 1234.5, 300))
    assert engines(tmp_path).reopen([FILE]) == [None]  # that is the network
    recorded(monkeypatch, tmp_path, None)  # of other weights, or another card
    assert engines(tmp_path).reopen([FILE]) == [None]


def test_engines_of_folds_are_opened_together_and_told_in_order(
    model, opened, accepted, tmp_path, monkeypatch
):
    files = [IntactFile(Path(f"{fold}.ckpt"), str(fold), ()) for fold in range(3)]
    here, lines = engines(tmp_path, engine="onnx"), []
    for file in files[:2]:
        here.forward_of(model, file)
    together = threading.Barrier(2)

    def open_(self, names, request, words):
        together.wait(60)
        return SimpleNamespace(name=names[0]), Choice("engine", names[0], "given", words["order"])

    monkeypatch.setattr(module.AcceptedEngines, "open", open_)
    monkeypatch.setattr(module, "available_cpus", lambda: 2)
    monkeypatch.setattr(
        module.KnownNetworks,
        "find",
        lambda self, sha256: None if sha256 == "2" else {"weights": "w", "order": f"o{sha256}"},
    )
    assert engines(tmp_path, lines, engine="onnx").reopen(files) == ["onnx", "onnx", None]
    assert [line.split("given: ")[1][:2] for line in lines] == ["o0", "o1"]


def test_where_the_fastest_is_gone_the_next_one_is_opened(
    model, opened, accepted, tmp_path, monkeypatch
):
    best = {tmp_path: "compiled", tmp_path / "fold_1": "onnx"}
    for place in best:
        place.mkdir(exist_ok=True)
        (place / ENGINES).write_text("{}")
    monkeypatch.setattr(
        module,
        "fastest_verified",
        lambda run, here: FastEngine(best[run], "fp32", (), 8, 8, 9.0, 500),
    )
    engines(tmp_path, engine="onnx").forward_of(model, FILE)
    assert engines(tmp_path).knows(FILE)
    assert engines(tmp_path).reopen([FILE]) == ["onnx"]


def test_optimize_tries_all_that_are_installed(model, opened, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "preferred", lambda device, provider: ("onnx", "compiled"))
    engines(tmp_path, optimize=True).forward_of(model, FILE)
    assert opened[0][0] == ("onnx", "compiled")


def test_what_decides_about_the_engine_is_part_of_a_prediction(tmp_path):
    base = engines(tmp_path).identity
    for change in (
        {"engine": "onnx"},
        {"path": "x.onnx"},
        {"provider": "cpu"},
        {"optimize": True},
    ):
        assert engines(tmp_path, **change).identity != base
    assert engines(tmp_path / "model.ckpt").identity == base
    seen = [base]
    for place in (tmp_path, tmp_path / "fold_0", tmp_path / "fold_1"):
        place.mkdir(exist_ok=True)
        (place / ENGINES).write_text("{}")
        assert engines(tmp_path).identity not in seen
        seen.append(engines(tmp_path).identity)


def test_the_content_of_an_engines_file_is_part_of_a_prediction(tmp_path):
    path = tmp_path / "my.onnx"
    found = []
    for content in ("one", "two"):
        path.write_text(content)
        found.append(engines(tmp_path, path=str(path)).identity)
    assert found[0] != found[1]


def digits(tmp_path):
    return Digits(image_size=16, micro_batch_size=8, global_batch_size=8, cache_dir=tmp_path)


def test_images_come_from_the_first_place_that_has_enough(tmp_path):
    def gone():
        raise InputError("the folder has moved")

    found = proof_images([gone, lambda: digits(tmp_path)], 30)
    assert isinstance(found, ProofImages)
    assert found.images.shape == (30, 3, 16, 16)
    assert len(set(found.names)) == 30
    with pytest.raises(InputError, match=r"no images to prove .* moved\).*engine=eager"):
        proof_images([gone])
