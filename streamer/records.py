"""Kafka's record batches as anybody may have sent them: packed, huge once unpacked, damaged, header names of any bytes.

aiokafka 0.14.0 unpacks a batch without a limit, and raises in the middle of a fetch where it cannot read one: such a
batch would exhaust, or stop, every worker that is given its partition. `read_any_batch` has the fetcher unpack at most
`MAX_UNPACKED_BYTES`, read header names that are not UTF-8 with escapes, and give an `Unread` value for each record that
cannot be read: its offset is known from the batch's header, so it ends in a dead letter as any other does.

A batch whose checksum is wrong was not sent so, but damaged on the way: that is aiokafka's to report, as before.
Batches of Kafka's older formats are read as aiokafka reads them: no broker since 3.0 stores new ones. Why so:
docs/adr/0027.
"""

from __future__ import annotations

import gzip
import io
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import cramjam
import structlog
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import (
    DefaultRecordBatch,
    _DefaultRecordBatchPy,  # pyright: ignore[reportPrivateUsage]
    _DefaultRecordPy,  # pyright: ignore[reportPrivateUsage]
)
from aiokafka.record.memory_records import _MemoryRecordsPy  # pyright: ignore[reportPrivateUsage]
from aiokafka.record.util import decode_varint_py

from streamer.errors import RejectedEvent
from streamer.wire import Unread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = structlog.get_logger(__name__)

MAX_UNPACKED_BYTES: Final = 16 * 2**20
"""Of a batch. Brokers take 1 MiB of it packed, and a consumer may hold one for each partition."""

_MAX_WORDS = 500  # of an error
# Source: Kafka's record batch format: magic byte, attributes, the first record; version 2 is the first with headers.
_MAGIC_AT, _ATTRIBUTES_AT, _RECORDS_AT, _VERSION = 16, 21, 61, 2
_CODEC = 0b111  # of the attributes
_XERIAL = b"\x82SNAPPY\0"  # Java's snappy: 16 bytes of header, then blocks, each behind its length in 4 bytes
_XERIAL_HEADER, _LENGTH = 16, 4


def read_any_batch() -> None:
    """Have every consumer of this process read what it can of any batch, and go on."""
    fetcher.MemoryRecords = _Records


class _Records(_MemoryRecordsPy):  # type: ignore[misc] # aiokafka is skipped by mypy
    """The batches of a fetch."""

    def next_batch(self) -> Any:  # noqa: ANN401 # pyright: ignore[reportIncompatibleMethodOverride]
        raw = self._next_slice
        batch = super().next_batch()
        return batch if raw is None or raw[_MAGIC_AT] < _VERSION else _Batch(batch, raw)


class _Batch:
    """A batch of which each record is read, or stood in for."""

    def __init__(self, batch: Any, raw: memoryview) -> None:  # noqa: ANN401 - aiokafka's
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - aiokafka's
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # noqa: ANN401 - aiokafka's; of control batches only, which brokers write
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        offset, end = self._batch.base_offset, self._batch.next_offset
        try:
            for record in _ascending(_read(unpack(self._raw)), offset, end):
                offset = record.offset + 1
                yield record
        except Exception as error:  # noqa: BLE001 - these are anybody's bytes
            refused = error if isinstance(error, RejectedEvent) else _unreadable(error)
            log.warning("batch.unread", reason=refused.code, records=end - offset, error=repr(error)[:_MAX_WORDS])
            value, time_ms, kind = Unread(refused), self._batch.max_timestamp, self._batch.timestamp_type
            for missing in range(offset, end):
                yield _DefaultRecordPy(missing, time_ms, kind, None, value, [])


def _ascending(records: Iterator[Any], begin: int, end: int) -> Iterator[Any]:
    """Yield the records as long as their offsets grow and are the batch's."""
    for record in records:
        if not begin <= record.offset < end:
            raise ValueError(f"offset {record.offset} is not from {begin} to {end}")
        begin = record.offset + 1
        yield record


def _unreadable(error: Exception) -> RejectedEvent:
    return RejectedEvent("batch_unreadable", f"the batch it stands in cannot be read: {error!r}"[:_MAX_WORDS])


def _read(plain: bytes | memoryview) -> Iterator[Any]:
    """Yield the records of a batch that is not packed, with escapes from the first header on that needs them."""
    last = -1
    try:
        for record in DefaultRecordBatch(plain):
            last = record.offset
            yield record
    except UnicodeDecodeError:
        again: Any = _DefaultRecordBatchPy(plain)
        again._buffer = _EscapingBuffer(again._buffer)  # noqa: SLF001 - of the pinned version
        again._read_msg = partial(again._read_msg, decode_varint_py)  # noqa: SLF001 - the other reads past the end
        for record in again:
            if record.offset > last:
                yield record


class _EscapedBytes(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class _EscapingBuffer(bytearray):
    """Gives slices that can be decoded whatever they hold."""

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - as bytearray's
        part = super().__getitem__(key)
        return _EscapedBytes(part) if isinstance(part, bytearray) else part


# -- packing


def unpack(raw: memoryview) -> bytes | memoryview:
    """Return the batch as if it had never been packed, but for its checksum.

    Raises:
        RejectedEvent: batch_too_large.
        Exception: of a codec, whose bytes these are not.
    """
    attributes = struct.unpack_from(">h", raw, _ATTRIBUTES_AT)[0]
    codec = attributes & _CODEC
    if not codec:
        return raw
    header = bytearray(raw[:_RECORDS_AT])
    struct.pack_into(">h", header, _ATTRIBUTES_AT, attributes & ~_CODEC)
    records = _CODECS[codec](bytes(raw[_RECORDS_AT:]))
    return bytes(header) + records


def _gunzip(packed: bytes) -> bytes:
    unpacked = gzip.GzipFile(fileobj=io.BytesIO(packed)).read(MAX_UNPACKED_BYTES + 1)
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise _too_large()
    return unpacked


def _unsnappy(packed: bytes) -> bytes:
    parts: list[bytes] = []
    room = MAX_UNPACKED_BYTES
    for block in _snappy_blocks(packed):
        room -= cramjam.snappy.decompress_raw_len(block)  # as it says; the codec checks it
        if room < 0:
            raise _too_large()
        parts.append(bytes(cramjam.snappy.decompress_raw(block)))
    return b"".join(parts)


def _snappy_blocks(packed: bytes) -> Iterator[bytes]:
    if not packed.startswith(_XERIAL):
        yield packed
        return
    at = _XERIAL_HEADER
    while at < len(packed):
        begin = at + _LENGTH
        at = begin + int.from_bytes(packed[at:begin])
        yield packed[begin:at]


def _unframe(codec: Any) -> Callable[[bytes], bytes]:  # noqa: ANN401 - a module of cramjam
    def unpacked(packed: bytes) -> bytes:
        for size in (min(16 * len(packed), MAX_UNPACKED_BYTES), MAX_UNPACKED_BYTES):  # most need no more than the first
            room = bytearray(size)
            try:
                return bytes(memoryview(room)[: codec.decompress_into(packed, room)])
            except cramjam.DecompressionError as error:
                if "whole buffer" not in str(error):  # cramjam has one error for all
                    raise
        raise _too_large()

    return unpacked


def _too_large() -> RejectedEvent:
    most = MAX_UNPACKED_BYTES >> 20
    return RejectedEvent("batch_too_large", f"the batch it stands in unpacks to more than {most} MiB: not unpacked")


# Source: Kafka's record batch format, compression types.
_CODECS: Final[dict[int, Callable[[bytes], bytes]]] = {
    1: _gunzip,
    2: _unsnappy,
    3: _unframe(cramjam.lz4),
    4: _unframe(cramjam.zstd),
}
