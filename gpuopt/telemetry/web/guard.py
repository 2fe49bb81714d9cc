"""Who may ask the monitor's server, and how: checked before anything else looks at a request."""

import hmac
import socket
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, QueryParams
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpuopt.telemetry.address import is_address, is_loopback

__all__ = ["Guard"]

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_METHODS = ("GET", "HEAD")
_BEARER = "bearer "
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """Lets a request through only from a known host name, with the token, and to read.

    A page of somebody else's that a browser shows can point its own name at this machine; the
    Host header then has that name, and is refused. An address in it cannot have come about so.

    Args:
        app: What answers the requests that may pass.
        host: The address that the server listens at.
        port: Its port, by which cookies of several monitors differ.
        token: What a request must know; None asks for nothing.
        allowed_hosts: Further names under which the server is reached.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        token: str | None = None,
        allowed_hosts: Collection[str] = (),
    ) -> None:
        self._app = app
        self._token = token
        self._cookie = f"gpuopt_monitor_{port}"
        self._takes_addresses = not is_loopback(host)
        own = {host, f"[{host}]", *allowed_hosts, *_LOOPBACK_NAMES}
        if self._takes_addresses:
            own |= {socket.gethostname(), socket.getfqdn()}
        self._hosts = {name.lower() for name in own}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        refused = self._refusal(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await (refused or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._is_own(headers.getlist("host")):
            return PlainTextResponse("unknown host name", 403)
        if scope["method"] not in _METHODS:
            return PlainTextResponse("read only", 405, {"allow": ", ".join(_METHODS)})
        if self._token is None or self._knows(headers):
            return None
        given = QueryParams(scope["query_string"]).get("token", "")
        if scope["path"] == "/" and self._is_token(given):
            return self._take_along(given)
        return PlainTextResponse(
            "a token is needed: open the address that the monitor printed",
            401,
            {"www-authenticate": "Bearer"},
        )

    def _is_own(self, names: list[str]) -> bool:
        if len(names) != 1:
            return False
        name, port = names[0].lower(), ""
        if not name.endswith("]"):
            name, _, port = name.rpartition(":") if ":" in name else (name, "", "")
        if port and not port.isdecimal():
            return False
        return name in self._hosts or (self._takes_addresses and is_address(name))

    def _knows(self, headers: Headers) -> bool:
        word = headers.get("authorization", "")
        if word.lower().startswith(_BEARER) and self._is_token(word[len(_BEARER) :]):
            return True
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return self._cookie in cookies and self._is_token(cookies[self._cookie].value)

    def _is_token(self, word: str) -> bool:
        assert self._token is not None  # asked only where there is one
        return hmac.compare_digest(word.encode(), self._token.encode())

    def _take_along(self, token: str) -> Response:
        """Keep the token in a cookie, so that it does not stay in the address."""
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._cookie, token, httponly=True, samesite="strict")
        return answer
