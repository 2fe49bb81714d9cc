import logging
import socket

import pytest
from huggingface_hub import constants

from gpuopt.errors import InputError
from gpuopt.model.backbone import create_backbone
from gpuopt.model.hub import hub_or_cache

PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


@pytest.fixture
def asked(monkeypatch):
    """Resolve no name, behind no proxy, and note what was asked for."""
    names = []

    def resolve(name, port, *args, **kwargs):
        names.append((name, port))
        raise socket.gaierror(-2, "Name or service not known")

    for variable in PROXIES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example/mirror")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return names


def test_a_name_that_does_not_resolve_leaves_the_cache(asked):
    def load():
        assert constants.HF_HUB_OFFLINE
        raise ValueError("not there")

    with pytest.raises(ValueError, match="not there"), hub_or_cache():
        load()
    assert not constants.HF_HUB_OFFLINE
    assert asked == [("hub.example", 443)]


def test_a_name_that_resolves_is_asked(asked, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [])
    with hub_or_cache():
        assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("variable", PROXIES)
def test_a_proxy_knows_names_that_are_unknown_here(asked, monkeypatch, variable):
    monkeypatch.setenv(variable, "http://proxy.example:3128")
    with hub_or_cache():
        assert not constants.HF_HUB_OFFLINE
    assert not asked


def test_whoever_is_offline_by_will_stays_so(asked, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub_or_cache():
        assert constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_OFFLINE
    assert not asked


def test_weights_that_are_not_there_are_missed_without_a_retry(
    asked, monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    caplog.set_level(logging.INFO)
    with pytest.raises(InputError, match=r"weights of resnet18 cannot be loaded.*connect once"):
        create_backbone("resnet18", 3, pretrained=True)
    assert "Retry" not in caplog.text
    assert len(asked) == 1  # by gpuopt, not by a client
