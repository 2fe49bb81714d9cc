"""One browser's stream: everything, from where it was, until it goes or the monitor ends."""

import asyncio

from gpuopt.telemetry.web.events import EventStream
from gpuopt.telemetry.web.hub import Hub


def follow(hub, *, place=None, leave=False, hold=False, during=None, **options):
    """Return the chunks that a browser gets."""

    async def scene():
        sent, left = [], asyncio.Event()

        async def receive():
            if not leave:
                await asyncio.Event().wait()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            left.set()
            if hold and message["type"] == "http.response.body":
                await asyncio.Event().wait()

        headers = [] if place is None else [(b"last-event-id", place.encode())]
        scope = {"type": "http", "method": "GET", "headers": headers}
        task = asyncio.create_task(EventStream(hub, **options)(scope, receive, send))
        if during is not None:
            await during(sent)
        async with asyncio.timeout(20):
            await task
        return sent[0], [message["body"] for message in sent[1:]]

    return asyncio.run(scene())


def hub_of(count, capacity=100, *, closed=True):
    hub = Hub(capacity)
    for number in range(count):
        hub.publish(b'{"n": %d}' % number)
    if closed:
        hub.close()
    return hub


def test_all_that_is_kept_and_then_the_end():
    hub = hub_of(2)
    start, chunks = follow(hub)
    assert (start["status"], start["headers"][0][1]) == (200, b"text/event-stream; charset=utf-8")
    first = f'id: {hub.place(1)}\ndata: {{"n": 0}}\n\n'.encode()
    second = f'id: {hub.place(2)}\ndata: {{"n": 1}}\n\n'.encode()
    assert chunks[:2] == [b"retry: 2000\n\n", first + second]
    assert chunks[-1] == b"event: end\ndata: {}\n\n"


def test_a_browser_that_comes_back_goes_on():
    hub = hub_of(5)
    _, chunks = follow(hub, place=hub.place(4))
    assert b"".join(chunks).count(b'data: {"n"') == 1
    assert b'{"n": 4}' in b"".join(chunks)


def test_what_is_no_longer_kept_is_counted():
    hub = hub_of(50, capacity=10)
    _, chunks = follow(hub, place=hub.place(30))
    assert chunks[1].startswith(b'event: lost\ndata: {"samples": 10}\n\nid: ')
    assert b'{"n": 40}' in chunks[1]


def test_signs_of_life_while_there_is_nothing_new():
    hub = hub_of(0, closed=False)

    async def during(sent):
        while len(sent) < 5:
            await asyncio.sleep(0.005)
        hub.close()

    _, chunks = follow(hub, ping_s=0.01, during=during)
    assert chunks[1:4] == [b": still here\n\n"] * 3


def test_a_browser_that_goes_ends_its_stream():
    start, _ = follow(hub_of(1, closed=False), leave=True)
    assert start["status"] == 200


def test_a_browser_that_takes_nothing_is_let_go():
    _, chunks = follow(hub_of(1, closed=False), hold=True, stall_s=0.05)
    assert chunks == [b"retry: 2000\n\n"]
