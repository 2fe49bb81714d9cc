"""The monitor's server: a socket of its own, a thread of its own, an end that waits for nobody."""

import asyncio
import errno
import json
import socket
import threading
from collections.abc import Callable, Collection
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpuopt.errors import FaultError, InputError
from gpuopt.telemetry.record import to_record
from gpuopt.telemetry.sample import Sample
from gpuopt.telemetry.subscription import Subscription
from gpuopt.telemetry.web.app import make_app
from gpuopt.telemetry.web.hub import Hub

__all__ = ["WebServer"]

_MOST_CONNECTIONS = 1024
_REQUEST_S = 10.0
_START_S = 30.0
_STOP_S = 5.0


class WebServer:
    """Serves the samples of a subscription until it is stopped.

    Args:
        subscription: The samples.
        host: Address to listen at.
        port: Port to listen at; 0 takes a free one.
        history: Number of newest samples that a browser is given when it comes.
        has_page: As `make_app` has it.
        has_metrics: As `make_app` has it.
        token: As `Guard` has it.
        allowed_hosts: As `Guard` has it.

    Attributes:
        port: The port that it listens at.

    Raises:
        InputError: When it cannot listen there.
    """

    def __init__(
        self,
        subscription: Subscription,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        history: int = 600,
        has_page: bool = True,
        has_metrics: bool = False,
        token: str | None = None,
        allowed_hosts: Collection[str] = (),
    ) -> None:
        self._subscription = subscription
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._latest: Sample | None = None
        self._hub = Hub(history)
        app = make_app(
            self._hub,
            lambda: self._latest,
            has_page=has_page,
            has_metrics=has_metrics,
            host=host,
            port=self.port,
            token=token,
            allowed_hosts=allowed_hosts,
        )
        self._server = uvicorn.Server(_config(app))
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuopt-web", daemon=True)

    def start(self) -> None:
        """Begin to answer.

        Raises:
            FaultError: When the server does not come up.
        """
        self._thread.start()
        if not self._is_up.wait(_START_S):
            raise FaultError("the web server does not start: run the monitor again")

    def stop(self) -> None:
        """End all streams and the thread."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        feeder = threading.Thread(
            target=self._feed, args=(asyncio.get_running_loop(),), name="gpuopt-feed", daemon=True
        )
        feeder.start()
        self._is_up.set()
        await self._server.serve(sockets=[self._socket])
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # of a browser that takes nothing
        await asyncio.sleep(0)

    def _feed(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand every sample to the browsers, encoded once for all of them."""
        for sample in self._subscription:
            self._latest = sample
            record = json.dumps(to_record(sample), ensure_ascii=False, allow_nan=False)
            if not _call(loop, self._hub.publish, record.encode()):
                return
        _call(loop, self._hub.close)


class _Protocol(H11Protocol):
    """Lets a connection go on which there is no whole request after some time."""

    # asyncio promises any transport, and uvicorn takes those of streams alone: it is passed on.
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(_REQUEST_S, self._require_request)

    def _require_request(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # a browser that has gone is no fault
        access_log=False,  # its lines would hold the token
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        limit_concurrency=_MOST_CONNECTIONS,
    )


def _call(loop: asyncio.AbstractEventLoop, act: Callable[..., object], *words: object) -> bool:
    """Call in the server's thread; tell whether its loop was still there."""
    try:
        loop.call_soon_threadsafe(act, *words)
    except RuntimeError:
        return False
    return True


def _listen(host: str, port: int) -> socket.socket:
    """Take the address before anything is started."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            remedy = f"port={port} of {host} is in use: stop what uses it, or give another port"
        elif error.errno == errno.EACCES:
            remedy = f"port={port} is not for you: give one above 1023"
        else:
            reason = error.strerror or error
            remedy = f"host={host} is no address of this machine ({reason}): give another"
        raise InputError(remedy) from error
