"""Settings of the monitor that contradict each other, and where it says that it answers."""

import importlib.util
import socket

import pytest

from gpuopt.config import compose_settings
from gpuopt.errors import InputError
from gpuopt.monitor_settings import address, needed_token, refuse_contradictions, require_packages
from gpuopt.schema import to_monitor_config

TOKEN = "a-token_of-16-letters"


def composed(*words):
    return to_monitor_config(compose_settings("monitor", list(words)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["view=gui"], "view=gui is not one of terminal, web"),
        (["interval=0.01"], "interval=0.01 is out of range"),
        (["duration=0"], "duration=0.0 is out of range"),
        (["port=70000"], "port=70000 is out of range: 0 to 65535"),
        (["replay=a", "replay_speed=0"], "replay_speed=0.0 is out of range"),
        (["gpu_ids=[0,0]"], r"gpu_ids=\[0, 0\]: give CUDA's numbers of different devices"),
        (["gpu_ids=[]"], r"gpu_ids=\[\]"),
        (["gpu_ids=[-1]"], r"gpu_ids=\[-1\]"),
        (["token=short"], "token= must be at least 16 letters"),
        (["token='a b c d e f g h i j'"], "token= must be at least 16 letters"),
        (["host=' '"], "host= is empty"),
        (["log="], "log= is empty: give a place"),
        (["replay="], "replay= is empty"),
        (["potr=1"], r"potr"),
    ],
)
def test_what_cannot_work_is_refused(words, message):
    with pytest.raises(Exception, match=message):
        composed(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["replay=a", "log=b"], "replay= shows what was recorded, and log= is of now"),
        (["replay=a", "run=latest"], "and run= is of now"),
        (["replay=a", "interval=2"], "and interval= is of now"),
        (["replay_speed=2"], "replay_speed= is for replay=FILE"),
        (["port=80"], "port= is for view=web or prometheus=true: add one of them"),
        (["host=0.0.0.0"], "host= is for view=web"),
        ([f"token={TOKEN}"], "token= is for"),
        (["allowed_hosts=[a]"], "allowed_hosts= is for"),
    ],
)
def test_what_would_be_ignored_is_refused(words, message):
    typed = [word.partition("=")[0] for word in words]
    with pytest.raises(InputError, match=message):
        refuse_contradictions(composed(*words), typed)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["replay=a", "replay_speed=2", "gpu_ids=[0]", "view=web", "port=0"],
        ["prometheus=true", "host=0.0.0.0", f"token={TOKEN}", "allowed_hosts=[a]"],
        ["log=a", "interval=5", "duration=3600", "run=latest"],
    ],
)
def test_what_goes_together_passes(words):
    refuse_contradictions(composed(*words), [word.partition("=")[0] for word in words])


@pytest.mark.parametrize(
    ("words", "missing", "message"),
    [
        (["view=web"], "starlette", "view=web needs the package starlette"),
        (["prometheus=true"], "uvicorn", "prometheus=true needs the package uvicorn"),
        (["prometheus=true"], "prometheus_client", "needs the package prometheus_client"),
    ],
)
def test_a_missing_extra_is_named(words, missing, message, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == missing else find(n))
    with pytest.raises(InputError, match=rf"{message}: pip install 'gpuopt\[monitor\]'"):
        require_packages(composed(*words))
    require_packages(composed())


def test_a_token_is_made_where_others_can_reach_the_monitor():
    assert needed_token(composed("view=web")) is None
    assert needed_token(composed("view=web", f"token={TOKEN}")) == TOKEN
    made = {needed_token(composed("view=web", "host=0.0.0.0")) for _ in range(3)}
    assert len(made) == 3
    assert all(len(token) >= 32 for token in made)


@pytest.mark.parametrize(
    ("words", "token", "expected"),
    [
        (["view=web"], None, "http://127.0.0.1:80/"),
        (["view=web", "host=::1"], None, "http://[::1]:80/"),
        (["view=web", "host=0.0.0.0"], "made", f"http://{socket.gethostname()}:80/?token=made"),
        (["view=web", f"token={TOKEN}"], TOKEN, "http://127.0.0.1:80/?token=YOUR_TOKEN"),
        (["prometheus=true"], None, "http://127.0.0.1:80/metrics"),
        (
            ["prometheus=true"],
            "made",
            "http://127.0.0.1:80/metrics, with the header Authorization: Bearer made",
        ),
    ],
)
def test_where_it_answers(words, token, expected):
    assert address(composed(*words), 80, token) == expected
