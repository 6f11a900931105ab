"""The topic engine-releases as it stands and as it grows: which release runs, and which ran before.

Read without a group, from the beginning: every worker must know the last announcement, and there are few. A broker that
is away is waited for; what stands in the topic and is no announcement is counted and passed over.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streamer import topics
from streamer.errors import FatalError, RejectedEvent
from streamer.events import EngineRelease, parse_release
from streamer.outbox import producer
from streamer.shadow_events import SHADOW_KEY, ShadowRelease, parse_shadow_release
from streamer.wire import encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from streamer.settings import BrokerSettings

log = structlog.get_logger(__name__)

POLL_MS = 500
RETRY_S = 1.0


class Announcements:
    """What has been announced; made by `open_announcements`, for one task."""

    def __init__(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
        self._consumer = consumer
        self._partition = partition
        self._known: dict[str, EngineRelease] = {}  # in the order of their last announcement
        self.shadow: ShadowRelease | None = None
        """The challenger that is to be tried."""
        self.unreadable = 0
        """Records of the topic that are no announcement."""

    @property
    def newest(self) -> EngineRelease | None:
        """The announcement that counts."""
        return next(reversed(self._known.values()), None)

    def of(self, release: str | None) -> EngineRelease | None:
        """Return the last announcement of a release."""
        return self._known.get(release) if release is not None else None

    async def catch_up(self) -> None:
        """Read what stands in the topic now.

        Raises:
            FatalError: broker_unreachable, when it does not answer in time.
        """
        try:
            async with asyncio.timeout(topics.CONNECT_TIMEOUT_S):
                end = (await self._consumer.end_offsets([self._partition]))[self._partition]
                while await self._consumer.position(self._partition) < end:
                    await self._read()
        except TimeoutError as error:
            raise FatalError(
                "broker_unreachable", f"{self._partition.topic} cannot be read: is its leader there?"
            ) from error

    async def more(self, timeout_s: float | None = None) -> None:
        """Return when something has been announced, or after about that time."""
        loop = asyncio.get_running_loop()
        until = None if timeout_s is None else loop.time() + timeout_s
        while not await self._read():
            if until is not None and loop.time() >= until:
                return

    async def _read(self) -> int:
        """Take in the records that have come; return how many there were."""
        try:
            batches: dict[TopicPartition, list[Any]] = await self._consumer.getmany(timeout_ms=POLL_MS)
        except KafkaError as error:
            log.warning("announcements.not_read", error=repr(error), retry_s=RETRY_S)
            await asyncio.sleep(RETRY_S)
            return 0
        records = [record for batch in batches.values() for record in batch]
        for record in records:
            self._take(record.key, record.value)
        return len(records)

    def _take(self, key: bytes | None, value: bytes | None) -> None:
        if value is None and key == SHADOW_KEY:
            self.shadow = None
            return
        if value is None:
            self._known.pop((key or b"").decode(errors="replace"), None)
            return
        try:
            if key == SHADOW_KEY:
                self.shadow = parse_shadow_release(value)
                return
            announced = parse_release(value)
        except RejectedEvent as error:
            self.unreadable += 1
            log.warning("announcement.unreadable", reason=error.code, message=str(error))
            return
        self._known.pop(announced.release, None)
        self._known[announced.release] = announced


@asynccontextmanager
async def open_announcements(broker: BrokerSettings, topic: str) -> AsyncGenerator[Announcements]:
    """Yield what has been announced on the broker so far.

    Raises:
        FatalError: topics_missing, broker_unreachable, broker_unauthorized, broker_refused.
    """
    async with topics.admin(broker) as client:
        if topic not in await topics.describe(client):
            raise FatalError("topics_missing", f"no {topic} on the broker: run `streamer topics create`")
    consumer = AIOKafkaConsumer(**topics.client_kwargs(broker), enable_auto_commit=False)
    with topics.connecting(broker):
        await asyncio.wait_for(consumer.start(), topics.CONNECT_TIMEOUT_S)
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        announcements = Announcements(consumer, partition)
        await announcements.catch_up()
        yield announcements
    finally:
        await consumer.stop()


async def announce(broker: BrokerSettings, topic: str, release: EngineRelease) -> None:
    """Return when the broker has the announcement.

    Raises:
        FatalError: announcement_refused, or as `open_announcements`.
    """
    await _send(broker, topic, release.release.encode(), encode(release))


async def announce_shadow(broker: BrokerSettings, topic: str, shadow: ShadowRelease | None) -> None:
    """Return when the broker has the announcement of a trial, or with None of its end.

    Raises:
        FatalError: as `announce`.
    """
    await _send(broker, topic, SHADOW_KEY, None if shadow is None else encode(shadow))


async def _send(broker: BrokerSettings, topic: str, key: bytes, value: bytes | None) -> None:
    async with producer(broker) as kafka:
        try:
            await kafka.send_and_wait(topic, value, key=key, partition=0)
        except KafkaError as error:
            raise FatalError("announcement_refused", f"{broker.bootstrap} refused it: {error!r}") from error
