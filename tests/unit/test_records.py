"""Records that the Kafka client cannot read by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchBuilderPy

from streamer import topics
from streamer.outbox import producer
from streamer.records import _Records, read_any_header_name
from streamer.settings import BrokerSettings, TopicSettings

if TYPE_CHECKING:
    from streamer.demo.broker import EmbeddedBroker


class NotUnicode(str):
    """A header's name whose bytes are not UTF-8."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:  # type: ignore[override]
        return b"\xff\xfename"


def batch(compression: int) -> bytes:
    """Return a batch of four records, of which the second and the last have such a header."""
    builder = _DefaultRecordBatchBuilderPy(2, compression, 0, -1, -1, 0, 100_000)
    for offset in range(4):
        headers = [(NotUnicode("n"), b"x"), ("good", None)] if offset % 2 else [("good", b"\xff")]
        builder.append(offset, 0, b"k%d" % offset, b"v\xff", headers)
    return bytes(builder.build())


@pytest.mark.parametrize("compression", [0, 1])  # none, gzip
def test_batch_with_header_names_of_any_bytes_is_read_whole(compression: int) -> None:
    """Every record comes once, in order, with its bytes; a name that is no text is escaped."""
    raw = batch(compression)
    with pytest.raises(UnicodeDecodeError):
        list(DefaultRecordBatch(raw))
    records = _Records(raw)
    assert records.has_next()
    one: Any = records.next_batch()
    assert one.validate_crc()
    assert not one.is_control_batch
    read = list(one)
    assert [(record.offset, record.key, record.value) for record in read] == [
        (offset, b"k%d" % offset, b"v\xff") for offset in range(4)
    ]
    assert list(read[0].headers) == [("good", b"\xff")]
    assert list(read[1].headers) == [("\\xff\\xfename", b"x"), ("good", None)]
    assert one.next_offset == 4


async def test_consumer_that_reads_any_header_name_reads_all_else_as_before(
    tansu: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a broker: records, their headers and their order."""
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)
    read_any_header_name()
    broker = BrokerSettings(bootstrap=tansu.bootstrap)
    await topics.create(broker, topics.specs(TopicSettings(partitions=1)))
    async with producer(broker) as kafka:
        for number in range(50):
            await kafka.send("product-updates", b"%d" % number, headers=[("n", b"\xff")])
    consumer = AIOKafkaConsumer(**topics.client_kwargs(broker), auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition("product-updates", 0)])
    records = [await asyncio.wait_for(consumer.getone(), 10) for _ in range(50)]
    await consumer.stop()
    assert [record.value for record in records] == [b"%d" % number for number in range(50)]
    assert records[0].headers == (("n", b"\xff"),)
