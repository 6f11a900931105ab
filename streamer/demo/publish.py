"""Planned updates → product-updates, at a rate, or as fast as the worker takes them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaProducer

from streamer.demo.evaluation import PublishedEvent
from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamer.demo.traffic import PlannedEvent

MAX_OUTSTANDING = 128
"""Published events without an outcome, when no rate is given: several batches, so the engine never waits for the demo;
more would only measure how long a queue is."""

STALL_S = 60.0
"""Without any outcome for this long, above a fetch with all its retries, the worker is given up."""


async def publish(
    planned: Sequence[PlannedEvent],
    *,
    topic: str,
    client: Mapping[str, Any],
    idempotent: bool,
    rate: float | None,
    room: asyncio.Semaphore,
    on_published: Callable[[], None],
) -> list[PublishedEvent]:
    """Publish every event and return each with its place, in publishing order.

    `idempotent` where the broker knows producer ids: a retry must not store an event twice, and make it two events.
    `room` has one permit for each event that may be outstanding; whoever reads outcomes gives permits back. With a
    rate (events per second) it is not asked: a catalogue does not wait for its readers.

    Raises:
        KafkaError: the broker refused an event.
        FatalError: worker_stalled.
    """
    producer = AIOKafkaProducer(**client, acks="all", enable_idempotence=idempotent)
    await producer.start()
    try:
        async with asyncio.TaskGroup() as group:
            tasks: list[asyncio.Task[PublishedEvent]] = []
            start_s = time.monotonic()
            for index, event in enumerate(planned):
                if rate is None:
                    await _room(room)
                else:
                    await asyncio.sleep(max(0.0, start_s + index / rate - time.monotonic()))
                at_ms = time.time_ns() // 1_000_000
                sent = await producer.send(topic, key=event.key, value=event.value, timestamp_ms=at_ms)
                tasks.append(group.create_task(_acknowledged(event, sent, at_ms, on_published)))
        return [task.result() for task in tasks]
    finally:
        await producer.stop()


async def _room(room: asyncio.Semaphore) -> None:
    try:
        await asyncio.wait_for(room.acquire(), STALL_S)
    except TimeoutError as error:
        raise FatalError(
            "worker_stalled", f"no outcome for {STALL_S:.0f} s while {MAX_OUTSTANDING} events wait: see worker.log"
        ) from error


async def _acknowledged(
    event: PlannedEvent, sent: asyncio.Future[Any], at_ms: int, on_published: Callable[[], None]
) -> PublishedEvent:
    record = await sent
    on_published()
    return PublishedEvent(truth=event.truth, position=(record.topic, record.partition, record.offset), at_ms=at_ms)
