"""Ask an application without a network, and a server with a plain socket."""

import asyncio
import socket

__all__ = ["ask", "request", "stream_of"]


def ask(app, path="/", *, method="GET", host="127.0.0.1:8080", headers=(), query=b""):
    """Return status, headers and content of an answer that ends by itself."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    own = [] if host is None else [(b"host", host.encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query,
        "headers": [*own, *((name.lower().encode(), value.encode()) for name, value in headers)],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8080),
    }
    asyncio.run(app(scope, receive, send))
    start, *bodies = sent
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], found, b"".join(body.get("body", b"") for body in bodies)


def stream_of(port, path="/samples", headers="", *, receive_bytes=None):
    """Open a connection and send one request."""
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n".encode())
    return connection


def request(port, path="/", headers=""):
    """Return the whole answer to one request."""
    with stream_of(port, path, f"Connection: close\r\n{headers}") as connection:
        content = b""
        while part := connection.recv(1 << 16):
            content += part
    return content
