"""The server on a real socket: many browsers, stalled ones, silent ones, a port that is taken."""

import contextlib
import re
import selectors
import socket
import threading
import time

import pytest

from gpuopt.errors import InputError
from gpuopt.telemetry import Subscription
from gpuopt.telemetry.web import WebServer, server
from tests.telemetry.samples import sample
from tests.telemetry.web.asking import request, stream_of

WAIT_S = 30.0
SAMPLES = 60
CLIENTS = 200
# Several hundred samples with these fill every buffer on the way.
LONG = {f"metric/{number}": 0.5 for number in range(1000)}


@pytest.fixture
def serving():
    """Start servers; yields a function that returns one, with the subscription that feeds it."""
    started = []

    def start(**options):
        subscription = Subscription(10_000)
        found = WebServer(subscription, port=0, **options)
        started.append((found, subscription))
        found.start()
        return found, subscription

    yield start
    for found, subscription in started:
        subscription.end()
        found.stop()


def read_to_end(connections):
    """Read all streams until each has ended; return their contents."""
    contents = {connection: bytearray() for connection in connections}
    deadline = time.monotonic() + WAIT_S
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map():
            assert time.monotonic() < deadline
            for key, _ in selector.select(1):
                part = key.fileobj.recv(1 << 16)
                contents[key.fileobj] += part
                if not part or b"event: end" in contents[key.fileobj][-64:]:
                    selector.unregister(key.fileobj)
    return [bytes(content) for content in contents.values()]


def numbers_in(content):
    return [
        int(number) for number in re.findall(rb'^data: .*"number": (\d+),', content, re.MULTILINE)
    ]


def test_200_browsers_miss_nothing_while_others_leave(serving):
    found, subscription = serving()
    browsers = [stream_of(found.port) for _ in range(CLIENTS)]
    leaving = [stream_of(found.port) for _ in range(20)]
    for number in range(SAMPLES):
        subscription.put(sample(number))
        if number == SAMPLES // 2:
            for connection in leaving:
                connection.close()
        time.sleep(0.002)
    subscription.end()
    for content in read_to_end(browsers):
        assert numbers_in(content) == list(range(SAMPLES))
    for connection in browsers:
        connection.close()


def test_stalled_browsers_hold_nobody_up_and_miss_nothing_either(serving):
    found, subscription = serving()
    stalled = [stream_of(found.port, receive_bytes=1024) for _ in range(3)]
    browsers = [stream_of(found.port) for _ in range(3)]
    for number in range(400):  # 10 MB
        subscription.put(sample(number, training=LONG))
    subscription.end()
    for content in read_to_end(browsers):
        assert numbers_in(content) == list(range(400))
    for connection in stalled:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    for content in read_to_end(stalled):
        assert numbers_in(content) == list(range(400))
    for connection in [*browsers, *stalled]:
        connection.close()


def test_a_late_browser_gets_the_last_minutes_and_one_that_returns_the_rest(serving):
    found, subscription = serving(history=10)
    for number in range(25):
        subscription.put(sample(number))
    subscription.end()
    while not found._hub.is_closed:
        time.sleep(0.005)
    with stream_of(found.port) as late:
        (content,) = read_to_end([late])
    assert numbers_in(content) == list(range(15, 25))
    place = [line for line in content.splitlines() if line.startswith(b"id: ")][6].decode()
    with stream_of(found.port, headers=f"Last-Event-ID: {place[4:]}\r\n") as back:
        (content,) = read_to_end([back])
    assert numbers_in(content) == list(range(22, 25))


def test_it_ends_though_a_browser_is_stalled():
    subscription = Subscription(10_000)
    found = WebServer(subscription, port=0)
    found.start()
    with stream_of(found.port) as watching, stream_of(found.port, receive_bytes=1024):
        for number in range(200):
            subscription.put(sample(number, training=LONG))
        subscription.end()
        (content,) = read_to_end([watching])
        assert numbers_in(content) == list(range(200))
        found.stop()
        assert not [t for t in threading.enumerate() if t.name == "gpuopt-web"]


def test_a_connection_without_a_request_is_let_go(serving, monkeypatch):
    monkeypatch.setattr(server, "_REQUEST_S", 0.2)
    found, subscription = serving()
    with socket.create_connection(("127.0.0.1", found.port), timeout=WAIT_S) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\nHo")
        assert silent.recv(1) == b""
    with stream_of(found.port) as watching:
        assert watching.recv(12) == b"HTTP/1.1 200"
        time.sleep(0.4)
        subscription.put(sample(5))
        subscription.end()
        assert numbers_in(*read_to_end([watching])) == [5]  # a stream is no silence


@pytest.mark.parametrize(
    "content",
    [b"\x16\x03\x01\x00\xff" * 20, b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a" * 10**5],
    ids=["tls", "short", "long"],
)
def test_what_is_no_request_does_no_harm(serving, content):
    found, _ = serving()
    answer = b""
    with socket.create_connection(("127.0.0.1", found.port), timeout=WAIT_S) as connection:
        connection.sendall(content)
        with contextlib.suppress(ConnectionResetError):
            answer = connection.recv(20)
    assert not answer or answer.startswith(b"HTTP/1.1 4")
    assert request(found.port).startswith(b"HTTP/1.1 200")


def test_the_newest_sample_is_what_prometheus_gets(serving):
    found, subscription = serving(has_page=False, has_metrics=True)
    for number in (1, 2):
        subscription.put(sample(number))
    deadline = time.monotonic() + WAIT_S
    while b"timestamp_seconds 1.700000002e+09" not in request(found.port, "/metrics"):
        assert time.monotonic() < deadline
    assert request(found.port).startswith(b"HTTP/1.1 404")


def test_a_port_in_use_is_one_line():
    subscription = Subscription(1)
    first = WebServer(subscription, port=0)
    with pytest.raises(InputError, match=f"port={first.port} of 127.0.0.1 is in use: stop what"):
        WebServer(subscription, port=first.port)
    first.stop()


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_one_line(host):
    with pytest.raises(InputError, match=rf"host={host} is no address of this machine \(.+\): giv"):
        WebServer(Subscription(1), host, 0)


def test_it_listens_where_it_is_told():
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        found = WebServer(Subscription(1), "::1", 0)
    except InputError:
        pytest.skip("this machine has no address ::1")
    found.start()
    with socket.create_connection(("::1", found.port), timeout=WAIT_S) as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n")
        content = b""
        while part := connection.recv(1 << 16):
            content += part
    assert content.startswith(b"HTTP/1.1 200")
    assert content.endswith(b"\r\n\r\n")
    found.stop()
