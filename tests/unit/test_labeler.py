"""`streamer.labeler`: labels whose partitions have gone to another worker are that one's to record."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from streamer.incoming import Incoming
from streamer.labeler import LabelWorker
from streamer.settings import Settings
from streamer.wire import SourcePosition

if TYPE_CHECKING:
    from collections.abc import Sequence


class Recorder:
    """Takes batches to their end once it is let."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let = asyncio.Event()
        self.recorded: list[int] = []

    async def record(self, batch: Sequence[Incoming]) -> None:
        self.begun.set()
        await self.let.wait()
        self.recorded += [one.position.offset for one in batch]


class Broken:
    """Cannot record."""

    async def record(self, _: Sequence[Incoming]) -> None:
        raise RuntimeError("a bug")


def incoming(offset: int) -> Incoming:
    """Return a record that nobody acknowledges."""
    return Incoming(
        key=b"p",
        value=b"{}",
        headers=[],
        position=SourcePosition(topic="confirmed-labels", partition=0, offset=offset),
        published_at=datetime(2026, 3, 1, tzinfo=UTC),
        acknowledge=lambda: None,
    )


async def test_labels_that_are_given_up_are_not_recorded_and_those_after_them_are() -> None:
    """Neither the batch that waits for its store nor the next one; the worker goes on with what it is given then."""
    worker: Any = LabelWorker(Settings())
    recorder = Recorder()
    recording = asyncio.create_task(worker._record(recorder))
    worker._waiting.put_nowait(incoming(0))
    async with asyncio.timeout(10):
        await recorder.begun.wait()
        worker._waiting.put_nowait(incoming(1))
        worker._give_up()
        await worker._idle.wait()
        recorder.let.set()
        worker._idle.clear()
        worker._waiting.put_nowait(incoming(0))
        await worker._idle.wait()
    assert recorder.recorded == [0]
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)
    assert recording.cancelled()


async def test_recorder_that_fails_ends_the_recording() -> None:
    """A worker that records nothing any more must leave, not stand still."""
    worker: Any = LabelWorker(Settings())
    worker._waiting.put_nowait(incoming(0))
    with pytest.raises(RuntimeError, match="a bug"):
        async with asyncio.timeout(10):
            await worker._record(Broken())
