"""Records that the Kafka client cannot read by itself."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from typing import TYPE_CHECKING, Any

import cramjam
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.codec import lz4_encode, snappy_encode, zstd_encode
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchBuilderPy
from aiokafka.record.util import calc_crc32c

from streamer import topics
from streamer.errors import RejectedEvent
from streamer.outbox import producer
from streamer.records import MAX_UNPACKED_BYTES, _Records, read_any_batch
from streamer.settings import BrokerSettings, TopicSettings
from streamer.updates import parse_update
from streamer.wire import Unread

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


CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
CODEC = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
PACKED = pytest.mark.parametrize("codec", list(CODECS.values())[1:], ids=list(CODECS)[1:])


def read(raw: bytes) -> tuple[Any, list[Any]]:
    """Return the only batch of these bytes, and its records."""
    records = _Records(raw)
    assert records.has_next()
    one: Any = records.next_batch()
    assert one.validate_crc()
    assert not one.is_control_batch
    return one, list(one)


def bomb(codec: int, size: int, records: int = 1) -> bytes:
    """Return a batch whose values are so many zeros, packed."""
    builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, 0, 2**31 - 1)
    for offset in range(records):
        builder.append(offset, 1234, b"k", bytes(size), [])
    return bytes(builder.build())


def with_records(raw: bytes, packed: bytes) -> bytes:
    """Return the batch with these bytes for its records, and their checksum."""
    header = bytearray(raw[:61])
    header[8:12] = (49 + len(packed)).to_bytes(4)
    header[17:21] = calc_crc32c(bytes(header[21:]) + packed).to_bytes(4)
    return bytes(header) + packed


@CODEC
def test_batch_with_header_names_of_any_bytes_is_read_whole(codec: int) -> None:
    """Every record comes once, in order, with its bytes; a name that is no text is escaped."""
    raw = batch(codec)
    with pytest.raises(UnicodeDecodeError):
        list(DefaultRecordBatch(raw))
    one, records = read(raw)
    assert [(record.offset, record.key, record.value) for record in records] == [
        (offset, b"k%d" % offset, b"v\xff") for offset in range(4)
    ]
    assert list(records[0].headers) == [("good", b"\xff")]
    assert list(records[1].headers) == [("\\xff\\xfename", b"x"), ("good", None)]
    assert one.next_offset == 4


@PACKED
def test_batch_that_is_packed_well_is_read(codec: int) -> None:
    """Fifteen MiB of spaces are no attack yet; snappy's other form, without blocks, is read, too."""
    _, records = read(bomb(codec, 5 * 2**20, 3))
    assert [len(record.value) for record in records] == [5 * 2**20] * 3


def test_batch_of_snappy_without_blocks_is_read() -> None:
    """What librdkafka sends."""
    plain, raw = bomb(0, 100), bytearray(bomb(2, 100))
    _, records = read(with_records(raw, bytes(cramjam.snappy.compress_raw(plain[61:]))))
    assert [record.value for record in records] == [bytes(100)]


@PACKED
def test_batch_that_unpacks_to_too_much_is_stood_in_for(codec: int) -> None:
    """Little memory is taken; each of its records is there, says why it has no value, and is rejected for it."""
    raw = bomb(codec, 60 * 2**20, 2)
    tracemalloc.start()
    one, records = read(raw)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 3 * MAX_UNPACKED_BYTES
    assert [(record.offset, record.key, record.timestamp) for record in records] == [(0, None, 1234), (1, None, 1234)]
    assert one.next_offset == 2
    with pytest.raises(RejectedEvent, match="16 MiB") as caught:
        parse_update(None, records[0].value)
    assert caught.value.code == "batch_too_large"


@CODEC
@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"\x82SNAPPY\0" + b"\xff" * 40, bytes(40)])
def test_batch_that_was_sent_damaged_is_stood_in_for(codec: int, damage: bytes) -> None:
    """Its checksum is right: it will never be another."""
    _, records = read(with_records(batch(codec), damage))
    assert [(record.offset, record.value.code) for record in records] == [(n, "batch_unreadable") for n in range(4)]


@CODEC
def test_batch_that_ends_too_early_gives_what_stands_before(codec: int) -> None:
    """The records that can be read, and those that stand in for the others, are all of them, in order."""
    plain, encode = bomb(0, 50, 4), [bytes, gzip.compress, snappy_encode, lz4_encode, zstd_encode][codec]
    _, records = read(with_records(bomb(codec, 50, 4), bytes(encode(plain[61:-60]))))
    assert [record.offset for record in records] == [0, 1, 2, 3]
    assert [isinstance(record.value, Unread) for record in records] == [False, False, True, True]


def test_batch_of_an_unknown_codec_is_stood_in_for() -> None:
    """Kafka has none yet."""
    raw = bytearray(batch(0))
    raw[22] |= 5
    _, records = read(with_records(raw, bytes(raw[61:])))
    assert [record.value.code for record in records] == ["batch_unreadable"] * 4


async def test_consumer_that_reads_any_batch_reads_all_else_as_before(
    tansu: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a broker: records, their headers and their order."""
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)
    read_any_batch()
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
