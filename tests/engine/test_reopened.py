"""Engines that are opened for a file of weights, without the network that they were made from."""

import json
from dataclasses import replace

import pytest

from gpuopt.engine import reopened
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.proved import ProvedEngines
from gpuopt.engine.reopened import ReopenedEngines
from gpuopt.engine.seal import Seal
from gpuopt.engine.verification import Bounds
from tests.engine.conftest import request, small
from tests.engine.test_proved import BOUNDS, fake, never, proof

__all__ = ["fake"]  # a fixture of both files

NAMES, SOURCE = ("onnx",), "5ea1"


@pytest.fixture
def cache(fake, tmp_path):
    """A cache in which an engine was proved for a file of weights."""
    cache = EngineCache(tmp_path / "cache", seal=Seal(tmp_path))
    prove(cache)
    return cache


def prove(cache, source=SOURCE, asked=None, **options):
    engines = ProvedEngines(
        small(), cache, tell=lambda line: None, bounds=BOUNDS, source=source, **options
    )
    return engines.open(NAMES, asked or request(), proof)


def known(cache, **options):
    return ReopenedEngines(cache, **{"bounds": BOUNDS, **options})


def test_an_engine_that_was_proved_is_opened_without_the_network(cache, fake):
    engine, choice = known(cache).open(NAMES, request(), SOURCE)
    assert known(cache).knows(NAMES, request(), SOURCE)
    assert engine.name == "onnx"
    assert fake.loaded[-1] == request()
    before = prove(cache)[1]
    assert choice == before
    assert choice.evidence == "given"
    assert len(fake.built) == 1


def test_the_layers_that_had_to_stay_in_fp32_are_asked_for_again(cache, fake):
    file = proved_file(cache)
    accepted = replace(request(), fp32_layers=("head",))
    known(cache).remember(("onnx", "compiled"), request(), SOURCE, file, accepted)
    _, choice = known(cache).open(("onnx", "compiled"), request(), SOURCE)
    assert fake.loaded[-1].fp32_layers == ("head",)
    assert choice.evidence == "measured"


def proved_file(cache):
    file = ProvedEngines(small(), cache, tell=print, bounds=BOUNDS).file("onnx", request())
    assert file is not None
    return file


def test_an_engine_that_was_proved_before_it_was_noted_is_noted_at_its_next_opening(fake, tmp_path):
    cache = EngineCache(tmp_path / "cache", seal=Seal(tmp_path))
    prove(cache, source=None)
    assert not known(cache).knows(NAMES, request(), SOURCE)
    ProvedEngines(small(), cache, tell=print, bounds=BOUNDS, source=SOURCE).open(
        NAMES, request(), never
    )
    assert known(cache).open(NAMES, request(), SOURCE) is not None


@pytest.mark.parametrize(
    ("names", "asked", "source", "options"),
    [
        (NAMES, request(), "0ther", {}),
        (NAMES, request(most=7), SOURCE, {}),
        (("onnx", "compiled"), request(), SOURCE, {}),
        (NAMES, request(), SOURCE, {"provider": "cuda"}),
    ],
)
def test_what_was_proved_for_something_else_is_not_opened(cache, names, asked, source, options):
    assert known(cache, **options).open(names, asked, source) is None


def test_other_bounds_another_provider_or_a_missing_package_need_the_network(
    cache, fake, monkeypatch
):
    assert known(cache, bounds=Bounds(least_images=24)).open(NAMES, request(), SOURCE) is None
    fake.provider = "cuda"
    assert known(cache).open(NAMES, request(), SOURCE) is None
    fake.provider = "cpu"
    monkeypatch.setattr(fake, "unavailable", lambda device: "onnxruntime is not installed")
    assert known(cache).open(NAMES, request(), SOURCE) is None


def test_other_libraries_need_the_network(cache, monkeypatch):
    monkeypatch.setattr(reopened, "library_versions", lambda: {"onnxruntime": "9.9"})
    assert known(cache).open(NAMES, request(), SOURCE) is None


@pytest.mark.parametrize("harm", ["engine", "sidecar", "report", "gone"])
def test_what_is_not_as_it_was_is_not_opened(cache, harm):
    file = proved_file(cache)
    if harm == "engine":
        file.path.write_text("else")
    elif harm == "gone":
        file.path.unlink()
    else:
        pattern = "*.verification.json" if harm == "report" else "engine.onnx.json"
        (path,) = file.path.parent.glob(pattern)
        path.write_text("{}")
    assert known(cache).open(NAMES, request(), SOURCE) is None


@pytest.mark.parametrize("change", [{"file": "x/engine.onnx"}, {"weights_file": "0ther"}, {}])
def test_a_note_that_this_user_did_not_seal_is_none(cache, tmp_path, change):
    """Else anyone who writes into a cache would say which engine answers for which weights."""
    (path,) = (
        path for path in cache.folder.glob("accepted_*.json") if "weights_file" in path.read_text()
    )
    note = json.loads(path.read_text())
    seal = {} if change else {"seal": Seal(tmp_path / "other").sign(note)}
    path.write_text(json.dumps({**note, **change, **seal}))
    assert not known(cache).knows(NAMES, request(), SOURCE)
    assert known(cache).open(NAMES, request(), SOURCE) is None


@pytest.mark.parametrize("content", ["", "[]", "null", '{"seal": 3}', "{", '"x"'])
def test_a_damaged_note_is_none(cache, content):
    for path in cache.folder.glob("accepted_*.json"):
        path.write_text(content)
    assert known(cache).open(NAMES, request(), SOURCE) is None


def test_a_note_moved_to_another_file_of_weights_is_none(cache):
    (path,) = (
        path for path in cache.folder.glob("accepted_*.json") if "weights_file" in path.read_text()
    )
    other = known(cache)._path(NAMES, request(), "0ther")
    other.write_bytes(path.read_bytes())
    assert not known(cache).knows(NAMES, request(), "0ther")


def test_the_digest_of_the_weights_in_a_file_is_noted(cache, tmp_path, monkeypatch):
    assert known(cache).digest_of(SOURCE) is None
    known(cache).remember_digest(SOURCE, "d1")
    assert known(cache).digest_of(SOURCE) == "d1"
    assert known(cache).digest_of("0ther") is None
    path = cache.folder / f"weights_{SOURCE}.json"
    note = json.loads(path.read_text())
    for change in ({"weights": "d2"}, {"weights_file": "0ther"}):
        path.write_text(json.dumps({**note, **change}))
        assert known(cache).digest_of(SOURCE) is None
    path.write_text(json.dumps(note))
    monkeypatch.setattr(reopened, "own_versions", lambda: {"code": "other"})  # may digest otherwise
    assert known(cache).digest_of(SOURCE) is None
