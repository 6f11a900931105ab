"""A topic as it stands now, read by people's commands: without a group, from a moment on, up to its present end."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streamer import topics
from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from streamer.settings import BrokerSettings

POLL_MS: Final = 500


class Record(NamedTuple):
    """One record and where it stands."""

    partition: int
    offset: int
    value: bytes | None


class Watch(Protocol):
    """Who looks on: a progress bar, or nobody."""

    def advanced(self, done: int, total: int) -> None:
        """So many records of the total have been read."""
        ...


class TopicLog:
    """The records of one topic; made by `open_topic_log`, for one task."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions

    async def read(self, since: datetime | None, watch: Watch) -> AsyncGenerator[Record]:
        """Yield what stands in the topic now, partition by partition in their order.

        Args:
            since: what was written before may be left out.
            watch: sees how far it is.
        """
        ends = await self._consumer.end_offsets(self._partitions)
        starts = await self._starts(since, ends)
        total = sum(ends[tp] - starts[tp] for tp in self._partitions)
        self._consumer.resume(*self._partitions)
        for tp, start in starts.items():
            self._consumer.seek(tp, start)
        while True:
            # Not by what was read: offsets have gaps, records may be deleted meanwhile, or come in faster than this.
            read = {tp: min(await self._consumer.position(tp), ends[tp]) for tp in self._partitions}
            watch.advanced(sum(read[tp] - starts[tp] for tp in self._partitions), total)
            finished = [tp for tp in self._partitions if read[tp] >= ends[tp]]
            if len(finished) == len(self._partitions):
                return
            self._consumer.pause(*finished)
            for tp, records in (await self._consumer.getmany(timeout_ms=POLL_MS)).items():
                for record in records:
                    if record.offset >= ends[tp]:
                        break
                    yield Record(tp.partition, record.offset, record.value)

    async def _starts(self, since: datetime | None, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        first: dict[TopicPartition, int] = await self._consumer.beginning_offsets(self._partitions)
        if since is None:
            return first
        moment = int(since.timestamp() * 1000)
        found = await self._consumer.offsets_for_times(dict.fromkeys(self._partitions, moment))
        return {tp: ends[tp] if found.get(tp) is None else max(first[tp], found[tp].offset) for tp in self._partitions}

    async def at(self, partition: int, offset: int) -> Record | None:
        """Return the record that stands there."""
        tp = next((tp for tp in self._partitions if tp.partition == partition), None)
        if tp is None or offset < (await self._consumer.beginning_offsets([tp]))[tp]:
            return None
        self._consumer.seek(tp, offset)
        batch = await self._consumer.getmany(tp, timeout_ms=4 * POLL_MS)
        found = (record for record in batch.get(tp, []) if record.offset == offset)
        return next((Record(partition, offset, record.value) for record in found), None)


@asynccontextmanager
async def open_topic_log(broker: BrokerSettings, topic: str, *, max_record_bytes: int) -> AsyncGenerator[TopicLog]:
    """Yield the topic of the broker.

    Raises:
        FatalError: topics_missing, broker_unreachable, broker_unauthorized, broker_refused.
    """
    async with topics.admin(broker) as client:
        state = (await topics.describe(client)).get(topic)
    if state is None:
        raise FatalError("topics_missing", f"no {topic} on the broker: run `streamer topics create`")
    consumer = AIOKafkaConsumer(
        **topics.client_kwargs(broker), enable_auto_commit=False, max_partition_fetch_bytes=max_record_bytes
    )
    with topics.connecting(broker):
        await asyncio.wait_for(consumer.start(), topics.CONNECT_TIMEOUT_S)
    try:
        partitions = [TopicPartition(topic, number) for number in range(state.partitions)]
        consumer.assign(partitions)
        yield TopicLog(consumer, partitions)
    except KafkaError as error:
        raise FatalError("broker_refused", f"{broker.bootstrap} answered {error}") from error
    finally:
        await consumer.stop()
