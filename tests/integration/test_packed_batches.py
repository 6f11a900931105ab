"""Batches as producers pack them, on a real Kafka: what it stores of them, and what a consumer of ours reads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.record.memory_records import MemoryRecords

from streamer import topics
from streamer.doctor_broker import topics_exist
from streamer.records import read_any_batch
from streamer.settings import Settings
from streamer.wire import Unread
from tests.brokers import create_topics

if TYPE_CHECKING:
    from tests.brokers import GivenKafka, Kafka

BOMB = bytes(50 * 2**20)
CODECS = ("gzip", "snappy", "lz4", "zstd")


async def send(bootstrap: str, topic: str, value: bytes, packed: str | None = None) -> None:
    """Write one batch of one record."""
    kafka = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type=packed, max_request_size=2**30)
    await kafka.start()
    try:
        await kafka.send_and_wait(topic, value, partition=0)
    finally:
        await kafka.stop()


async def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """Return the values of the first records."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        records = [await asyncio.wait_for(consumer.getone(), 10) for _ in range(count)]
    finally:
        await consumer.stop()
    assert [record.offset for record in records] == list(range(count))
    return [record.value for record in records]


async def test_topic_of_ours_takes_any_codec_and_no_bomb(
    kafka: Kafka | GivenKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its broker unpacks: what is read is not packed, and 50 MiB of zeros in 51 kB are refused where they are sent."""
    settings = Settings.model_validate(
        {
            "broker": {"bootstrap": kafka.bootstrap},
            "topics": {"updates": "unpacked-updates", "labels": "packed-labels", "partitions": 1},
        }
    )
    (updates,) = (spec for spec in topics.specs(settings.topics) if spec.name == "unpacked-updates")
    await topics.create(settings.broker, [updates])
    await create_topics(kafka.bootstrap, "packed-labels")
    for codec in CODECS:
        await send(kafka.bootstrap, updates.name, codec.encode(), codec)
    with pytest.raises(MessageSizeTooLargeError):
        await send(kafka.bootstrap, updates.name, BOMB, "gzip")
    codecs: list[int] = []

    def noting(raw: bytes) -> MemoryRecords:
        codecs.extend(batch.compression_type for batch in iter(MemoryRecords(raw).next_batch, None))
        return MemoryRecords(raw)

    monkeypatch.setattr(fetcher, "MemoryRecords", noting)
    assert await read(kafka.bootstrap, updates.name, len(CODECS)) == [codec.encode() for codec in CODECS]
    assert set(codecs) == {0}
    advice = {found.check: found.advice for found in await topics_exist(settings) if "compression.type" in found.found}
    assert list(advice) == ["topic packed-labels"]


async def test_topic_of_others_is_read_whatever_its_batches_unpack_to(
    kafka: Kafka | GivenKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its broker keeps what was packed: each codec is read, a bomb is stood in for, and what is behind it comes."""
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)
    read_any_batch()
    topic = "packed-updates"
    await create_topics(kafka.bootstrap, topic)
    for codec in CODECS:
        await send(kafka.bootstrap, topic, codec.encode(), codec)
        await send(kafka.bootstrap, topic, BOMB, codec if codec != "snappy" else "zstd")  # snappy packs too little
    await send(kafka.bootstrap, topic, b"good")
    values = await read(kafka.bootstrap, topic, 2 * len(CODECS) + 1)
    assert values[::2] == [*(codec.encode() for codec in CODECS), b"good"]
    assert [value.code if isinstance(value, Unread) else value for value in values[1::2]] == ["batch_too_large"] * 4
