"""What the monitor's server answers: the page and its parts, the samples, the metrics."""

from collections.abc import Awaitable, Callable, Collection
from importlib import resources

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gpuopt.telemetry.sample import Sample
from gpuopt.telemetry.web.events import EventStream
from gpuopt.telemetry.web.guard import Guard
from gpuopt.telemetry.web.hub import Hub

__all__ = ["PAGE_PARTS", "make_app"]

_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
_BOARD = "grafana.json"
# By address: the only files that are served.
PAGE_PARTS = {
    "/": "index.html",
    "/monitor.css": "monitor.css",
    "/monitor.js": "monitor.js",
    "/chart.js": "chart.js",
    "/icon.svg": "icon.svg",
}


def make_app(
    hub: Hub,
    latest: Callable[[], Sample | None],
    *,
    has_page: bool,
    has_metrics: bool,
    host: str,
    port: int,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
) -> ASGIApp:
    """Put the application together.

    Args:
        hub: The samples as records.
        latest: Returns the newest sample, for the metrics.
        has_page: Serves the page for people.
        has_metrics: Serves `/metrics` for Prometheus, and `/grafana.json`, a board for them.
        host: As `Guard` has it.
        port: As `Guard` has it.
        token: As `Guard` has it.
        allowed_hosts: As `Guard` has it.
    """
    routes = []
    if has_page:
        routes += [_file_route(path, name) for path, name in PAGE_PARTS.items()]
        routes.append(Route("/samples", EventStream(hub)))
    if has_metrics:
        routes += [Route("/metrics", _metrics(latest)), _file_route("/grafana.json", _BOARD)]
    return Guard(
        Starlette(routes=routes), host=host, port=port, token=token, allowed_hosts=allowed_hosts
    )


def _file_route(path: str, name: str) -> Route:
    content = (resources.files("gpuopt.telemetry.web") / "page" / name).read_bytes()
    kind = _TYPES.get(name.rpartition(".")[2], "application/json")

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return Route(path, answer)


def _metrics(latest: Callable[[], Sample | None]) -> Callable[[Request], Awaitable[Response]]:
    # Only now: a page alone does not need the package.
    from gpuopt.telemetry.prometheus import exposition

    async def answer(request: Request) -> Response:
        content, kind = exposition(latest, request.headers.get("accept", ""))
        return Response(content, headers={"content-type": kind})

    return answer
