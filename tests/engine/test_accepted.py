"""Engines that were accepted, opened by the words of a network's key, without the network."""

import json
from dataclasses import replace

import pytest
import torch

from gpuopt.engine import accepted
from gpuopt.engine.accepted import Accepted, AcceptedEngines
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.cache_key import network_key, weights_digest
from gpuopt.engine.proved import ProvedEngines
from gpuopt.engine.seal import Seal
from gpuopt.engine.verification import Bounds
from tests.engine.conftest import request, small
from tests.engine.test_proved import BOUNDS, fake, proof

__all__ = ["fake"]  # a fixture of both files

NAMES = ("onnx",)
WORDS = network_key(small())


@pytest.fixture
def cache(fake, tmp_path):
    """A cache in which an engine of `small()` was proved."""
    cache = EngineCache(tmp_path / "cache", seal=Seal(tmp_path))
    proved(cache).open(NAMES, request(), proof)
    return cache


def proved(cache):
    return ProvedEngines(small(), cache, tell=lambda line: None, bounds=BOUNDS)


def known(cache, **options):
    return AcceptedEngines(cache, **{"provider": "auto", "bounds": BOUNDS, **options})


def test_it_is_opened_as_it_would_be_with_the_network(cache, fake):
    engine, choice = known(cache).open(NAMES, request(), WORDS)
    assert known(cache).is_there(NAMES, request(), WORDS)
    assert engine.name == "onnx"
    assert fake.loaded[-1] == request()
    assert choice == proved(cache).open(NAMES, request(), proof)[1]
    assert len(fake.built) == 1


CHANGES = (
    (NAMES, request(most=7), WORDS, {}),
    (NAMES, request("bf16"), WORDS, {}),
    (NAMES, request(optimal=3), WORDS, {}),
    (NAMES, request(fp32_layers=("head",)), WORDS, {}),
    (NAMES, replace(request(), image_size=64), WORDS, {}),
    (NAMES, replace(request(), num_classes=6), WORDS, {}),
    (("onnx", "compiled"), request(), WORDS, {}),
    (NAMES, request(), {**WORDS, "weights": "0ther"}, {}),
    (NAMES, request(), {**WORDS, "graph": "0ther"}, {}),
    (NAMES, request(), {**WORDS, "network": "0ther"}, {}),
    (NAMES, request(), {**WORDS, "channels_last": "True"}, {}),
    (NAMES, request(), WORDS, {"provider": "cuda"}),
    (NAMES, request(), WORDS, {"bounds": Bounds(least_images=24)}),
)


@pytest.mark.parametrize(("names", "asked", "words", "options"), CHANGES)
def test_what_was_proved_for_something_else_is_not_opened(cache, names, asked, words, options):
    assert known(cache, **options).open(names, asked, words) is None


def test_another_arithmetic_device_library_provider_or_package_is_not_opened(
    cache, fake, monkeypatch
):
    def opened():
        return known(cache).open(NAMES, request(), WORDS)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if before == "highest" else "highest")
    try:
        assert opened() is None
    finally:
        torch.set_float32_matmul_precision(before)
    fake.provider = "cuda"
    assert opened() is None
    fake.provider = "cpu"
    with monkeypatch.context() as patch:
        patch.setattr(fake, "unavailable", lambda device: "onnxruntime is not installed")
        assert opened() is None
    with monkeypatch.context() as patch:
        patch.setattr(accepted, "library_versions", lambda: {"onnxruntime": "9.9"})
        assert opened() is None
    with monkeypatch.context() as patch:
        patch.setattr("gpuopt.engine.cache_key.device_key", lambda device: {"device": "other"})
        assert opened() is None
    assert opened() is not None


def file_of(cache):
    file = proved(cache).file("onnx", request())
    assert file is not None
    return file


@pytest.mark.parametrize("harm", ["engine", "sidecar", "report", "rejected", "gone"])
def test_what_is_not_as_it_was_is_not_opened(cache, harm):
    file = file_of(cache)
    (report,) = file.path.parent.glob("*.verification.json")
    if harm == "engine":
        file.path.write_text("else")
    elif harm == "gone":
        file.path.unlink()
    elif harm == "rejected":
        report.write_text(json.dumps({**json.loads(report.read_text()), "accepted": False}))
    else:
        (report if harm == "report" else file.sidecar).write_text("{}")
    assert known(cache).open(NAMES, request(), WORDS) is None
    assert known(cache).is_there(NAMES, request(), WORDS) is (harm not in ("gone", "sidecar"))


def test_the_last_word_counts(cache, fake):
    """An engine that was rejected since is not opened, whoever finds out."""
    eager = Accepted("eager", request())
    known(cache).keep(NAMES, request(), weights_digest(small()), eager)
    assert known(cache).find(NAMES, request(), WORDS["weights"]) == eager
    assert known(cache).open(NAMES, request(), WORDS) is None
    assert not known(cache).is_there(NAMES, request(), WORDS)
    assert proved(cache).open(NAMES, request(), proof)[0].name == "eager"


@pytest.mark.parametrize("content", ["", "[]", "null", '{"engine": 3}', "{", '"x"'])
def test_a_damaged_note_is_none(cache, content):
    for path in cache.folder.glob("accepted_*.json"):
        path.write_text(content)
    assert known(cache).open(NAMES, request(), WORDS) is None
