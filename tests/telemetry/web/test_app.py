"""What the server answers, and that the board for Grafana asks for what there is."""

import json
import re
from importlib import resources

import pytest

from gpuopt.telemetry.prometheus import exposition
from gpuopt.telemetry.web.app import PAGE_PARTS, make_app
from gpuopt.telemetry.web.hub import Hub
from tests.telemetry.samples import sample
from tests.telemetry.web.asking import ask

PAGE = resources.files("gpuopt.telemetry.web") / "page"


def app(**options):
    known = {"has_page": True, "has_metrics": True, "host": "127.0.0.1", "port": 8080}
    return make_app(Hub(10), sample, **{**known, **options})


@pytest.mark.parametrize("path", PAGE_PARTS)
def test_the_parts_of_the_page(path):
    status, headers, content = ask(app(), path)
    assert status == 200
    assert content == (PAGE / PAGE_PARTS[path]).read_bytes()
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert headers["content-type"].startswith(kinds.get(path.rpartition(".")[2], "text/html"))


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/..%2f..%2fetc/passwd", "/../server.py", "//etc/passwd", "/page/", "/index.html"],
)
def test_nothing_else_is_served(path):
    assert ask(app(), path)[0] == 404


def test_only_what_was_asked_for_is_served():
    for path in ("/metrics", "/grafana.json"):
        assert ask(app(), path)[0] == 200
        assert ask(app(has_metrics=False), path)[0] == 404
    for path in ("/", "/samples", "/monitor.js"):
        assert ask(app(has_page=False), path)[0] == 404


def test_metrics_come_in_the_format_that_is_asked_for():
    _, headers, content = ask(app(), "/metrics")
    assert headers["content-type"].startswith("text/plain")
    assert b"gpu_power_watts{" in content
    accept = [("accept", "application/openmetrics-text; version=1.0.0")]
    _, headers, content = ask(app(), "/metrics", headers=accept)
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert content.endswith(b"# EOF\n")


def test_the_page_needs_nothing_from_outside():
    for path in PAGE_PARTS.values():
        text = (PAGE / path).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    index = (PAGE / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", index)  # as CSP has it


def test_the_board_asks_for_metrics_that_there_are():
    board = json.loads((PAGE / "grafana.json").read_text("utf-8"))
    content, _ = exposition(sample, "")
    names = {line.partition("{")[0].partition(" ")[0] for line in content.decode().splitlines()}
    labels = set(re.findall(r'[{,](\w+)="', content.decode())) | {"instance"}
    asked = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    asked += [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    found = {name for text in asked for name in re.findall(r"\b(?:gpu|host|gpuopt)_\w+", text)}
    assert len(found) >= 20
    assert found <= names
    for target in (t for panel in board["panels"] for t in panel["targets"]):
        assert set(re.findall(r"(\w+)=~", target["expr"])) <= labels
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
