"""The stream of samples to one browser, as server-sent events."""

import asyncio

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gpuopt.telemetry.web.hub import Hub

__all__ = ["EventStream"]

_PING_S = 15.0
_STALL_S = 60.0  # a browser that takes nothing for so long is let go; it comes back by itself
_RETRY = b"retry: 2000\n\n"
_PING = b": still here\n\n"
_END = b"event: end\ndata: {}\n\n"


class EventStream:
    """Sends every record of a hub, from the oldest or from where the browser was before.

    Args:
        hub: The records.
        ping_s: Time without a record after which a sign of life is sent.
        stall_s: How long a browser may take nothing.
    """

    def __init__(self, hub: Hub, ping_s: float = _PING_S, stall_s: float = _STALL_S) -> None:
        self._hub = hub
        self._ping_s = ping_s
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, until the browser goes or the monitor ends."""
        if scope["method"] == "HEAD":
            await Response(media_type="text/event-stream")(scope, receive, send)
            return
        place = Headers(scope=scope).get("last-event-id")
        sending = asyncio.create_task(self._send_all(self._hub.position(place), send))
        leaving = asyncio.create_task(_wait_until_gone(receive))
        await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send_all(self, position: int, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        content, is_over = _RETRY, False
        while not is_over:
            message: Message = {"type": "http.response.body", "body": content, "more_body": True}
            async with asyncio.timeout(self._stall_s):
                await send(message)
            first, records = await self._hub.after(position, self._ping_s)
            lost = first - position
            position = first + len(records)
            content = self._content(lost, first, records)
            is_over = not records and self._hub.is_closed
        await send({"type": "http.response.body", "body": _END, "more_body": False})

    def _content(self, lost: int, first: int, records: list[bytes]) -> bytes:
        if not records:
            return _PING
        parts = [b'event: lost\ndata: {"samples": %d}\n\n' % lost] if lost else []
        for number, record in enumerate(records, first + 1):
            place = self._hub.place(number).encode()
            parts.append(b"id: " + place + b"\ndata: " + record + b"\n\n")
        return b"".join(parts)


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
