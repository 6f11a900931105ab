"""Kafka's records as aiokafka 0.14.0 reads them, and those that it cannot read: header names of any bytes.

A broker takes any bytes as a header's name, aiokafka decodes names as UTF-8 and raises in the middle of a fetch: one
such record would stop its partition for every worker that is given it. `read_any_header_name` has its fetcher read such
a batch once more, with escapes for the bytes that are no text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy  # pyright: ignore[reportPrivateUsage]
from aiokafka.record.memory_records import _MemoryRecordsPy  # pyright: ignore[reportPrivateUsage]

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC_AT, _WITH_HEADERS = 16, 2  # Source: Kafka's record batch format, magic byte; headers came with version 2


def read_any_header_name() -> None:
    """Have every consumer of this process read header names that are not UTF-8, their bytes as escapes."""
    fetcher.MemoryRecords = _Records


class _EscapedBytes(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class _EscapingBuffer(bytearray):
    """Gives slices that can be decoded whatever they hold."""

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - as bytearray's
        part = super().__getitem__(key)
        return _EscapedBytes(part) if isinstance(part, bytearray) else part


class _Records(_MemoryRecordsPy):  # type: ignore[misc] # aiokafka is skipped by mypy
    """The batches of a fetch."""

    def next_batch(self) -> Any:  # noqa: ANN401 # pyright: ignore[reportIncompatibleMethodOverride]
        raw = self._next_slice
        batch = super().next_batch()
        return batch if raw is None or raw[_MAGIC_AT] < _WITH_HEADERS else _Batch(batch, raw)


class _Batch:
    """A batch that is read again, with escapes, from the first record on that cannot be read without."""

    def __init__(self, batch: Any, raw: memoryview) -> None:  # noqa: ANN401 - aiokafka's
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - aiokafka's
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # noqa: ANN401 - aiokafka's
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        last = -1
        try:
            for record in self._batch:
                last = record.offset
                yield record
        except UnicodeDecodeError:
            again: Any = _DefaultRecordBatchPy(bytes(self._raw))
            again._maybe_uncompress()  # noqa: SLF001 - of the pinned version
            again._buffer = _EscapingBuffer(again._buffer)  # noqa: SLF001 - of the pinned version
            for record in again:
                if record.offset > last:
                    yield record
