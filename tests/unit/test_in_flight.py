"""How much may be on its way at once."""

from __future__ import annotations

import asyncio

from streamer.in_flight import MAX_BYTES, InFlight


async def test_large_events_wait_for_each_other_and_one_alone_may_be_of_any_size() -> None:
    """Of the largest updates that a broker takes, fewer are in flight than their number allows."""
    flight, done = InFlight(lambda: 512), asyncio.Event()

    async def way() -> None:
        await done.wait()

    size = MAX_BYTES // 4
    for _ in range(4):
        await asyncio.wait_for(flight.wait_for_room(size), 1)
        flight.begin(way(), size)
    fifth = asyncio.create_task(flight.wait_for_room(size))
    await asyncio.sleep(0.01)
    assert not fifth.done()
    done.set()
    await asyncio.wait_for(fifth, 1)
    await flight.drain()
    await asyncio.wait_for(flight.wait_for_room(2 * MAX_BYTES), 1)
    assert len(flight) == 0


async def test_number_of_events_is_what_there_is_room_for() -> None:
    """Small ones are counted."""
    flight, done = InFlight(lambda: 2), asyncio.Event()

    async def way() -> None:
        await done.wait()

    for _ in range(2):
        await asyncio.wait_for(flight.wait_for_room(1), 1)
        flight.begin(way(), 1)
    third = asyncio.create_task(flight.wait_for_room(1))
    await asyncio.sleep(0.01)
    assert not third.done()
    done.set()
    await asyncio.wait_for(third, 1)
    await flight.drain()
