"""The events that have been admitted and have no outcome yet: how many there may be, and how they come to an end."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from streamer.batch import Batcher

DRAINED_WITHIN = 0.4
"""Of the drain's deadline: in flight is no more than the engine answers in it, so that a worker that leaves, or hands
partitions over in a rebalance, keeps nobody waiting. The rest is for slow pictures and for other load."""

MAX_BYTES: Final = 64 * 2**20
"""Of the records of all events in flight; their text takes up to four times as much, letters outside of Latin."""


class InFlight:
    """Tasks of events, one each; belongs to one event loop.

    Args:
        room: how many there may be now.
    """

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._bytes = 0
        self._left = asyncio.Event()  # an event has left: there may be room
        self.depths = {"fetch": 0, "preprocess": 0}
        """Events in these two stages, or waiting for their turn in them."""

    def __len__(self) -> int:
        return len(self._tasks)

    async def wait_for_room(self, size: int) -> None:
        """Return when another event, of so many bytes, may begin; one alone always may."""
        while len(self._tasks) >= self._room() or (self._tasks and self._bytes + size > MAX_BYTES):
            self._left.clear()
            await self._left.wait()

    def begin(self, way: Coroutine[Any, Any, None], size: int) -> asyncio.Task[None]:
        """Start an event of so many bytes on its way."""
        task = asyncio.create_task(way)
        self._tasks[task] = size
        self._bytes += size
        task.add_done_callback(self._leave)
        return task

    @contextmanager
    def inside(self, stage: str) -> Generator[None]:
        """Count an event among those in the stage."""
        self.depths[stage] += 1
        try:
            yield
        finally:
            self.depths[stage] -= 1

    async def drain(self) -> None:
        """Return when nothing is in flight."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def abandon(self) -> None:
        """Give up what is in flight: no outcome, no acknowledgement; another worker will be given these events."""
        abandoned = list(self._tasks)
        for task in abandoned:
            task.cancel()
        await asyncio.gather(*abandoned, return_exceptions=True)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._bytes -= self._tasks.pop(task)
        self._left.set()


def room_of(batcher: Batcher, *, max_in_flight: int, drain_timeout_s: float) -> int:
    """Return how many events may be in flight: what the engine answers in part of the time that a drain has.

    A full batch before its pace is known, and one event for each batch that it runs, however slow it is.
    """
    if not batcher.pairs_per_s:
        return min(max_in_flight, batcher.capacity)
    answered = int(batcher.pairs_per_s * DRAINED_WITHIN * drain_timeout_s)
    return min(max_in_flight, max(answered, batcher.concurrency))
