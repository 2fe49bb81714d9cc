import json

import pytest

from gpuopt.engine.cache import EngineCache
from gpuopt.engine.seal import Seal
from gpuopt.session import known_networks as module
from gpuopt.session.known_networks import KnownNetworks

WORDS = {"network": "n", "weights": "w", "graph": "g", "channels_last": "False"}
FILE = "5ea1" * 16


@pytest.fixture
def networks(tmp_path):
    return KnownNetworks(EngineCache(tmp_path / "cache", seal=Seal(tmp_path)))


@pytest.fixture
def note(networks, tmp_path):
    networks.remember(FILE, WORDS)
    (path,) = (tmp_path / "cache" / "engines").iterdir()
    return path


def test_a_network_is_found_by_the_file_of_its_weights(networks, note):
    assert networks.find(FILE) == WORDS
    assert networks.find("0" * 64) is None
    before = note.stat().st_mtime_ns
    networks.remember(FILE, WORDS)
    assert note.stat().st_mtime_ns == before  # it is written once
    networks.remember(FILE, {**WORDS, "graph": "h"})
    assert networks.find(FILE) == {**WORDS, "graph": "h"}


@pytest.mark.parametrize(
    "change", [{"network": {**WORDS, "weights": "v"}}, {"file": "0" * 64}, {"made_by": {}}]
)
def test_a_note_that_this_user_did_not_seal_is_none(networks, note, tmp_path, change):
    """Else anyone who writes into a cache would say which weights a file holds."""
    content = json.loads(note.read_text())
    note.write_text(json.dumps({**content, **change}))
    assert networks.find(FILE) is None
    del content["seal"]
    note.write_text(json.dumps({**content, "seal": Seal(tmp_path / "other").sign(content)}))
    assert networks.find(FILE) is None


def test_a_note_for_another_file_or_another_form_is_none_whoever_sealed_it(
    networks, note, tmp_path
):
    content = json.loads(note.read_text())
    del content["seal"]
    for change in ({"file": "0" * 64}, {"schema": 2}):
        other = {**content, **change}
        note.write_text(json.dumps({**other, "seal": Seal(tmp_path).sign(other)}))
        assert networks.find(FILE) is None


def test_other_code_that_makes_a_network_of_a_file_is_asked_anew(networks, note, monkeypatch):
    made_by = module._made_by()
    assert {"torch", "timm", "code", "model_code"} <= made_by.keys()
    monkeypatch.setattr(module, "_made_by", lambda: {**made_by, "model_code": "other"})
    assert networks.find(FILE) is None


@pytest.mark.parametrize("content", ["", "[]", "null", '{"seal": 3}', "{", '"x"'])
def test_a_damaged_note_is_none(networks, note, content):
    note.write_text(content)
    assert networks.find(FILE) is None


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "cache").write_text("a file")
    networks = KnownNetworks(EngineCache(tmp_path / "cache", seal=Seal(tmp_path)))
    networks.remember(FILE, WORDS)
    assert networks.find(FILE) is None
