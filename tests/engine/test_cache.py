import json
from dataclasses import replace

import pytest
import torch

from gpuopt.engine.cache import EngineCache
from gpuopt.engine.eager import Eager
from gpuopt.engine.files import EngineFile
from gpuopt.engine.seal import Seal
from gpuopt.errors import FaultError, InputError
from tests.engine.conftest import pictures, request, small


class Counting:
    """A backend whose files hold the request's largest batch; counts what it does."""

    name, suffix = "counting", ".bin"

    def __init__(self, runtime="1.0"):
        self.runtime, self.built, self.loaded = runtime, 0, 0

    def unavailable(self, device):
        return None

    def versions(self, device):
        return {"runtime": self.runtime}

    def build(self, asked, network, path):
        assert not path.exists()
        self.built += 1
        path.write_text(str(asked.max_batch_size))

    def load(self, asked, path):
        self.loaded += 1
        assert path.read_text() == str(asked.max_batch_size)
        return Eager().wrap(asked, small())


@pytest.fixture
def lines():
    return []


@pytest.fixture
def cache(tmp_path, lines):
    return EngineCache(tmp_path, tell=lines.append)


def test_a_second_start_builds_nothing(cache, lines, tmp_path):
    first, second = Counting(), Counting()
    cache.open(first, request(), small())
    assert (first.built, first.loaded) == (1, 1)
    assert len(lines) == 1
    assert "engine=counting for small built in 0 s: there is none yet" in lines[0]
    engine = EngineCache(tmp_path, tell=lines.append).open(second, request(), small())
    assert (second.built, second.loaded) == (0, 1)
    assert len(lines) == 1
    assert engine(pictures(2)).shape == (2, 5)


def test_a_changed_weight_is_built_anew_with_one_line(cache, lines):
    backend, network = Counting(), small()
    cache.open(backend, request(), network)
    with torch.no_grad():
        network.backbone.head.bias[0] += 1e-3
    cache.open(backend, request(), network)
    assert backend.built == 2
    assert len(lines) == 2
    assert ": weights was " in lines[1]
    cache.open(backend, request(), small())  # the old one is still there
    assert backend.built == 2


@pytest.mark.parametrize("name", ["device", "capability", "memory_mib"])
def test_another_card_is_built_anew_with_one_line(cache, lines, monkeypatch, name):
    backend = Counting()
    card = {"device": "NVIDIA L4", "capability": "8.9", "memory_mib": "23034", "driver": "570"}
    monkeypatch.setattr("gpuopt.engine.cache_key.device_key", lambda device: card)
    cache.open(backend, request(), small())
    old, card[name] = card[name], "another"
    cache.open(backend, request(), small())
    assert backend.built == 2
    assert f"{name} was {old}, is another" in lines[1]


def test_an_update_takes_the_old_ones_place(cache, lines, tmp_path):
    cache.open(Counting("1.0"), request(), small())
    cache.open(Counting("1.1"), request(), small())
    assert "runtime was 1.0, is 1.1" in lines[1]
    assert len(list(tmp_path.rglob("engine.bin"))) == 1
    unchanged = Counting("1.1")
    cache.open(unchanged, request(), small())
    assert unchanged.built == 0


def damage(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def foreign(path):
    """What another user's folder would hold: whole, with a sidecar, sealed with another key."""
    file = EngineFile(path, Seal(path.parent / "other"))
    path.write_text("6")
    file.vouch(path, file.content()["key"], request())


def sealed_with(word):
    """Write a seal that no program of gpuopt writes."""

    def harm(path):
        sidecar = path.with_name(f"{path.name}.json")
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "seal": word}))

    return harm


def padded(path):
    """Make a sidecar that would fill memory."""
    sidecar = path.with_name(f"{path.name}.json")
    sidecar.write_text(" " * 2**21 + sidecar.read_text())


def edited(path):
    sidecar = path.with_name(f"{path.name}.json")
    content = json.loads(sidecar.read_text())
    content["key"]["weights"] = "0"
    sidecar.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (damage, "its content is not what was built"),
        (lambda path: path.write_bytes(b""), "its content is not what was built"),
        (foreign, "not built by this user"),
        (edited, "not built by this user"),
        (sealed_with("s\u00e9al"), "not built by this user"),
        (sealed_with("\ud800"), "not built by this user"),
        (lambda path: path.with_name("engine.bin.json").write_text("[" * 10**5), "or damaged"),
        (padded, "missing or damaged"),
        (lambda path: path.with_name("engine.bin.json").unlink(), "missing or damaged"),
        (lambda path: path.with_name("engine.bin.json").write_text("[]"), "missing or damaged"),
        (lambda path: path.with_name("engine.bin.json").write_bytes(b"\xff"), "missing or damaged"),
    ],
)
def test_what_the_sidecar_does_not_vouch_for_is_never_loaded(cache, lines, tmp_path, harm, reason):
    backend = Counting()
    path = cache.file(backend, request(), small()).path
    harm(path)
    with pytest.raises(InputError, match=rf"is refused: .*{reason}.*gpuopt export"):
        EngineFile(path, cache.seal).require()
    cache.open(backend, request(), small())
    assert backend.built == 2
    assert "is refused" in lines[1]
    assert reason in lines[1]
    EngineFile(path, cache.seal).require()


def test_a_build_that_fails_leaves_nothing_behind(cache, tmp_path):
    class Failing(Counting):
        def build(self, asked, network, path):
            path.write_text("half")
            raise FaultError("the compiler gave up")

    with pytest.raises(FaultError, match="gave up"):
        cache.open(Failing(), request(), small())
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"] == []


def test_a_missing_package_is_said_before_anything_is_done(cache, tmp_path):
    backend = Counting()
    backend.unavailable = lambda device: "pip install it"
    with pytest.raises(InputError, match="pip install it"):
        cache.open(backend, request(), small())
    assert not (tmp_path / "engines").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(FaultError, match="cannot be written"):
        EngineCache(tmp_path).open(Counting(), request(), small())


def test_a_networks_name_does_not_leave_the_folder(cache, tmp_path):
    network = replace(small(), name="../../outside")
    cache.open(Counting(), request(), network)
    (path,) = tmp_path.rglob("engine.bin")
    assert path.parent.parent == tmp_path / "engines"


def test_the_key_of_the_seal_is_private_and_made_once(tmp_path):
    first, second = Seal(tmp_path), Seal(tmp_path)
    sealed = first.sign({"a": 1})
    assert second.sign({"a": 1}) == sealed
    assert second.matches({"a": 1}, sealed)
    assert not second.matches({"a": 2}, sealed)
    assert not Seal(tmp_path / "none").matches({"a": 1}, sealed)
    key = tmp_path / "engine_key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["engine_key"]


def test_a_seal_without_a_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FaultError, match=r"engine_key cannot be written .* engine=eager"):
        Seal(tmp_path / "file").sign({})
