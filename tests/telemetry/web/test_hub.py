"""Every reader gets every record at its own pace."""

import asyncio

from gpuopt.telemetry.web.hub import Hub


def records(count, start=0):
    return [str(number).encode() for number in range(start, start + count)]


async def read_all(hub):
    position, found = 0, []
    while True:
        first, batch = await hub.after(position, 20)
        if not batch:
            return found
        assert first == position
        assert len(batch) <= 32
        position += len(batch)
        found += batch


def test_many_readers_miss_nothing_while_one_stalls():
    async def scene():
        hub = Hub(500)
        hub.publish(b"0")
        readers = [asyncio.create_task(read_all(hub)) for _ in range(200)]
        stalled, _ = await hub.after(0, 20)
        for record in records(299, start=1):
            hub.publish(record)
            await asyncio.sleep(0)
        hub.close()
        found = await asyncio.gather(*readers)
        late = await read_all(hub)  # from where it stalled
        return found, late, stalled

    found, late, stalled = asyncio.run(scene())
    assert all(reader == records(300) for reader in [*found, late])
    assert stalled == 0


def test_a_reader_that_was_away_too_long_is_told_from_where_it_goes_on():
    async def scene():
        hub = Hub(10)
        for record in records(25):
            hub.publish(record)
        return await hub.after(3, 0)

    assert asyncio.run(scene()) == (15, records(10, start=15))


def test_waiting_ends_with_a_record_a_time_or_the_end():
    async def scene():
        hub = Hub(10)
        assert await hub.after(0, 0.01) == (0, [])
        waiting = asyncio.create_task(hub.after(0, 20))
        await asyncio.sleep(0)
        hub.publish(b"a")
        assert await waiting == (0, [b"a"])
        waiting = asyncio.create_task(hub.after(1, 20))
        await asyncio.sleep(0)
        hub.close()
        assert await waiting == (1, [])

    asyncio.run(scene())


def test_a_place_outlives_a_connection_and_not_the_monitor():
    hub, other = Hub(10), Hub(10)
    for record in records(8):
        hub.publish(record)
    assert hub.position(hub.place(5)) == 5
    assert hub.position(hub.place(9)) == 8
    for place in (None, "", "x", other.place(5), hub.place(5) + "x", f"{hub.place(1)}{'9' * 5000}"):
        assert hub.position(place) == 0
