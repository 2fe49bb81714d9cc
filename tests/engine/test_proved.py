from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gpuopt.engine import accepted, files, verification
from gpuopt.engine import proved as module
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.calls import CallableEngine
from gpuopt.engine.eager import Eager
from gpuopt.engine.export import export_engine
from gpuopt.engine.fallback import ProofImages
from gpuopt.engine.files import EngineFile
from gpuopt.engine.proved import ProvedEngines
from gpuopt.engine.verification import Bounds, read_report
from gpuopt.errors import FaultError, InputError, TargetNotMetError
from gpuopt.storage import sha256_of
from tests.engine.conftest import pictures, request, small

BOUNDS = Bounds(least_images=20)


class Fake:
    """A backend that answers as the network does, but for `error` added to one class."""

    name, suffix = "onnx", ".onnx"

    def __init__(self, error=0.0):
        self.error, self.built, self.loaded = error, [], []
        self.provider, self.code = "cpu", "code"

    def unavailable(self, device):
        return None

    def versions(self, device):
        return {}

    def build(self, asked, network, path):
        self.built.append(asked)
        path.write_text(self.code)

    def load(self, asked, path):
        self.loaded.append(asked)
        right = Eager().wrap(asked, small())
        wrong = torch.tensor([self.error, 0, 0, 0, 0])
        engine = CallableEngine("onnx", asked, lambda images: right(images) + wrong)
        engine.provider = self.provider
        return engine


@pytest.fixture
def fake(monkeypatch):
    fake = Fake()
    for where in (module, accepted):
        monkeypatch.setattr(
            where, "file_backend", lambda name, provider="auto": fake if name == "onnx" else None
        )
    monkeypatch.setattr("gpuopt.engine.export.file_backend", lambda name, provider="auto": fake)
    return fake


@pytest.fixture
def lines():
    return []


@pytest.fixture
def engines(fake, tmp_path, lines):
    cache = EngineCache(tmp_path / "cache")
    return ProvedEngines(small(), cache, tell=lines.append, bounds=BOUNDS)


def proof():
    return ProofImages(pictures(24), tuple(map(str, range(24))))


def never():
    raise AssertionError("nothing had to be proved")


def test_a_second_start_neither_builds_nor_proves(engines, fake, lines):
    engine, choice = engines.open(("onnx",), request(), proof)
    assert (engine.name, choice.value, choice.evidence) == ("onnx", "onnx", "given")
    assert "verified on 24 images" in choice.reason
    before = len(lines)
    again, second = engines.open(("onnx",), request(), never)
    assert len(fake.built) == 1
    assert len(lines) == before
    assert again.name == "onnx"
    assert "verified on 24 images" in second.reason
    assert engines.open(("onnx", "compiled"), request(), proof)[1].evidence == "measured"


def test_a_second_start_digests_the_engine_once(engines, fake, tmp_path, monkeypatch):
    engines.open(("onnx",), request(), proof)
    (file,) = (tmp_path / "cache").rglob("engine.onnx")
    digested = []
    for where in (files, verification):
        monkeypatch.setattr(
            where, "sha256_of", lambda path: digested.append(path) or sha256_of(path)
        )
    engines.open(("onnx",), request(), never)
    assert digested == [file]


def test_weights_that_change_meanwhile_are_proved_anew(engines, fake):
    engines.open(("onnx",), request(), proof)
    with torch.no_grad():
        engines._network.backbone.head.bias += 1
    with pytest.raises(AssertionError, match="nothing had to be proved"):
        engines.open(("onnx",), request(), never)


def test_another_request_or_other_weights_are_proved_anew(engines, fake, tmp_path):
    engines.open(("onnx",), request(), proof)
    with pytest.raises(AssertionError, match="nothing had to be proved"):
        engines.open(("onnx",), request(most=7), never)
    network = small()
    with torch.no_grad():
        network.backbone.head.bias[0] += 1e-4
    other = ProvedEngines(
        network, EngineCache(tmp_path / "cache"), tell=lambda line: None, bounds=BOUNDS
    )
    with pytest.raises(AssertionError, match="nothing had to be proved"):
        other.open(("onnx",), request(), never)


def test_a_report_that_rejects_is_no_proof(engines, fake, tmp_path):
    engines.open(("onnx",), request(), proof)
    (path,) = (tmp_path / "cache").rglob("*verification.json")
    path.write_text(path.read_text().replace('"accepted": true', '"accepted": false'))
    with pytest.raises(AssertionError, match="nothing had to be proved"):
        engines.open(("onnx",), request(), never)


@pytest.mark.parametrize("harm", ["file", "report", "memo"])
def test_what_was_damaged_is_proved_anew(engines, fake, tmp_path, harm):
    engines.open(("onnx",), request(), proof)
    pattern = {"file": "engine.onnx", "report": "*verification.json", "memo": "accepted_*.json"}
    (path,) = (tmp_path / "cache").rglob(pattern[harm])
    path.write_text("{")
    with pytest.raises(AssertionError, match="nothing had to be proved"):
        engines.open(("onnx",), request(), never)
    assert engines.open(("onnx",), request(), proof)[0].name == "onnx"


def test_an_engine_that_is_wrong_is_not_used(engines, fake, lines):
    fake.error = 5.0
    engine, choice = engines.open(("onnx",), request("fp16"), proof)
    assert engine.name == "eager"
    assert choice.evidence == "measured"
    assert any("onnx fp16 rejected" in line for line in lines)
    again, second = engines.open(("onnx",), request("fp16"), never)
    assert again.name == "eager"
    assert "rejected before" in second.reason


def test_eager_that_was_proved_is_opened_without_proving_it_again(engines, fake):
    """As where a benchmark found it the fastest."""
    assert engines.open(("eager",), request(), proof)[0].name == "eager"
    engine, choice = engines.open(("eager",), request(), never)
    assert (engine.name, choice.reason) == ("eager", "proved before, here and for these weights")


def test_a_proof_holds_for_the_provider_that_was_proved(engines, fake, tmp_path, lines):
    fake.provider = "cuda"
    engines.open(("onnx",), request(), proof)
    engines.open(("onnx",), request(), never)
    file = EngineFile(exported(tmp_path, fake, images=None).path, engines._cache.seal)
    engines.open_file(file, request(), proof)
    engines.open_file(file, request(), never)
    fake.provider = "tensorrt"  # whose library was not there at first
    for opening in (
        lambda images: engines.open(("onnx",), request(), images),
        lambda images: engines.open_file(file, request(), images),
    ):
        with pytest.raises(AssertionError, match="nothing had to be proved"):
            opening(never)
        opening(proof)
        opening(never)
    assert f"{file.path} was proved with provider=cuda, not with this one" in lines


def test_a_fault_is_no_rejection_and_is_tried_again(engines, fake, monkeypatch):
    def fail(asked, network, path):
        raise OSError("g++ was killed")

    with monkeypatch.context() as patch:
        patch.setattr(fake, "build", fail)
        assert engines.open(("onnx",), request(), proof)[0].name == "eager"
    assert engines.open(("onnx",), request(), proof)[0].name == "onnx"


@pytest.mark.parametrize("what", ["library_versions", "own_versions"])
def test_other_libraries_or_other_code_are_tried_anew(engines, fake, monkeypatch, what):
    fake.error = 5.0
    engines.open(("onnx",), request(), proof)
    engines.open(("onnx",), request(), never)
    monkeypatch.setattr(accepted, what, lambda: {"timm": "0.1", "code": "other"})
    with pytest.raises(AssertionError, match="nothing had to be proved"):
        engines.open(("onnx",), request(), never)


def test_a_new_version_of_the_engines_library_is_tried(engines, fake):
    fake.error = 5.0
    engines.open(("onnx",), request(), proof)
    fake.versions = lambda device: {"onnxruntime": "99"}
    with pytest.raises(AssertionError, match="nothing had to be proved"):
        engines.open(("onnx",), request(), never)


def test_the_number_of_a_device_is_not_part_of_what_was_proved(engines, fake):
    engines.open(("onnx",), request(), proof)
    numbered = replace(request(), device=torch.device("cpu:0"))
    assert engines.open(("onnx",), numbered, never)[0].name == "onnx"


def test_an_engine_that_does_not_load_any_more_is_proved_anew(engines, fake, lines):
    def fail(asked, path):
        raise FaultError("no memory")

    engines.open(("onnx",), request(), proof)
    fake.load = fail
    assert engines.open(("onnx",), request(), proof)[0].name == "eager"
    assert "onnx fp32 fails: no memory" in lines


def test_one_engine_that_is_unavailable_is_refused_and_one_of_several_passed(engines, fake):
    fake.unavailable = lambda device: "pip install it"
    with pytest.raises(InputError, match="pip install it"):
        engines.open(("onnx",), request(), proof)
    assert engines.open(("onnx", "eager"), request(), proof)[0].name == "eager"


def exported(tmp_path, fake, asked=None, network=None, images=proof, lines=None):
    return export_engine(
        "onnx",
        asked or request(),
        network or small(),
        tmp_path / "out" / "model.onnx",
        images,
        cache_dir=str(tmp_path / "cache"),
        provider="auto",
        tell=(lines if lines is not None else []).append,
    )


def many():
    return ProofImages(pictures(500), tuple(map(str, range(500))))


def test_an_exported_file_is_proved_once_and_used_as_it_is(tmp_path, fake, engines, lines):
    found = exported(tmp_path, fake, images=many)
    file = EngineFile(found.path, engines._cache.seal)
    assert file.objection() is None
    assert read_report(found.path) == found.verification
    own = ProvedEngines(small(), EngineCache(tmp_path / "cache"), tell=lines.append)
    engine, choice = own.open_file(file, request(optimal=1, most=2), never)
    assert (engine.name, engine.max_batch_size, choice.evidence) == ("onnx", 6, "given")
    assert own.open(("onnx",), request(), never)[0].name == "onnx"  # export remembers it
    assert len(fake.built) == 1


def test_a_file_that_was_not_proved_is_proved_before_its_first_use(tmp_path, fake, engines):
    found = exported(tmp_path, fake, images=None)
    assert found.verification is None
    assert read_report(found.path) is None
    file = EngineFile(found.path, engines._cache.seal)
    engines.open_file(file, request(), proof)
    assert read_report(found.path).accepted
    engines.open_file(file, request(), never)


def test_too_few_images_prove_nothing(tmp_path, fake, lines):
    assert exported(tmp_path, fake, images=proof, lines=lines).verification is None
    assert any("24 images cannot prove an engine: at least 500" in line for line in lines)


def test_a_file_for_other_weights_is_left_alone_and_its_like_is_built(
    tmp_path, fake, engines, lines
):
    other = small()
    with torch.no_grad():
        other.backbone.head.bias[0] += 1.0
    found = exported(tmp_path, fake, network=other, images=None)
    content = found.path.read_bytes()
    engine, _ = engines.open_file(EngineFile(found.path, engines._cache.seal), request(), proof)
    assert engine.name == "onnx"
    assert len(fake.built) == 2
    (line,) = [line for line in lines if "does not fit and is not used" in line]
    assert "weights was" in line
    assert found.path.read_bytes() == content


def test_a_damaged_or_foreign_file_is_refused(tmp_path, fake, engines):
    found = exported(tmp_path, fake, images=None)
    found.path.write_text("edoc")
    with pytest.raises(InputError, match="is refused: its content is not what was built"):
        engines.open_file(EngineFile(found.path, engines._cache.seal), request(), proof)
    assert fake.loaded == []


def test_nothing_of_others_is_overwritten_and_ones_own_export_is(tmp_path, fake):
    place = tmp_path / "out" / "model.onnx"
    place.parent.mkdir()
    place.write_text("a thesis")
    with pytest.raises(InputError, match="exists and is no engine of yours"):
        exported(tmp_path, fake, images=None)
    assert place.read_text() == "a thesis"
    place.unlink()
    exported(tmp_path, fake, images=None)
    exported(tmp_path, fake, asked=request(most=8), images=None)


@pytest.mark.parametrize("name", ["model.onnx.json", "model.onnx.verification.json"])
def test_what_would_lie_beside_an_engine_is_not_overwritten(tmp_path, fake, name):
    beside = tmp_path / "out" / name
    beside.parent.mkdir()
    beside.write_text("results")
    with pytest.raises(InputError, match=f"would overwrite .*{name}"):
        exported(tmp_path, fake, images=None)
    assert beside.read_text() == "results"
    assert fake.built == []


@pytest.mark.parametrize("is_first", [True, False])
def test_who_is_stopped_before_the_engine_has_its_name_leaves_nothing_valid(
    tmp_path, fake, engines, monkeypatch, is_first
):
    path = tmp_path / "out" / "model.onnx"
    if not is_first:
        exported(tmp_path, fake, images=many)
    replace_file, content = Path.replace, b"" if is_first else path.read_bytes()

    def stopped(source, target):
        if target == path:
            raise KeyboardInterrupt
        return replace_file(source, target)

    fake.code = "newer code"
    for _ in range(2):  # and stopped again
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stopped)
            with pytest.raises(KeyboardInterrupt):
                exported(tmp_path, fake, asked=request(most=8), images=None)
    file = EngineFile(path, engines._cache.seal)
    assert file.objection() is not None
    assert is_first or path.read_bytes() == content
    exported(tmp_path, fake, asked=request(most=8), images=None)  # takes the place of the remains
    assert file.objection() is None
    assert file.request(request().device).max_batch_size == 8
    assert read_report(path) is None
    path.write_text("a thesis")
    with pytest.raises(InputError, match="exists and is no engine of yours"):
        exported(tmp_path, fake, images=None)


def test_layers_that_the_network_does_not_have_are_refused_before_anything_is_built(tmp_path, fake):
    asked = request("fp16", fp32_layers=("heads",))
    with pytest.raises(InputError, match=r"no module is named heads.*head"):
        exported(tmp_path, fake, asked, images=never)
    assert fake.built == []


def test_an_export_leaves_hidden_files_alone(tmp_path, fake):
    hidden = tmp_path / "out" / ".model.onnx.new"
    hidden.parent.mkdir()
    hidden.write_text("mine")
    exported(tmp_path, fake, images=None)
    assert hidden.read_text() == "mine"
    assert sorted(path.name for path in hidden.parent.iterdir()) == [
        ".model.onnx.new",
        "model.onnx",
        "model.onnx.json",
    ]


def test_an_engine_that_is_wrong_in_all_its_forms_is_not_written(tmp_path, fake):
    fake.error = 5.0
    with pytest.raises(TargetNotMetError, match="no form of engine=onnx answers as the model"):
        exported(tmp_path, fake, images=many)
    assert not (tmp_path / "out").exists()
