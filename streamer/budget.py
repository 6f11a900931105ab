"""A budget of bytes that many tasks share: who wants some waits for its turn, in the order of asking. Pure asyncio."""

from __future__ import annotations

import asyncio
from collections import deque


class ByteBudget:
    """So many bytes may be held at once; for one event loop.

    Who takes some asks for all that it will ever hold, and for nothing more while it holds it: nobody waits for ever.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.free = total

    async def take(self, size: int) -> int:
        """Return the bytes taken when they are there: `size`, or all there are where it is more."""
        wanted = min(size, self._total)
        if not self._queue and wanted <= self.free:
            self.free -= wanted
            return wanted
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((wanted, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was its turn at the moment of the cancellation
                self.give(wanted)
            raise
        return wanted

    def give(self, size: int) -> None:
        """Give bytes back."""
        self.free += size
        while self._queue and (self._queue[0][1].cancelled() or self._queue[0][0] <= self.free):
            wanted, turn = self._queue.popleft()
            if not turn.cancelled():
                self.free -= wanted
                turn.set_result(None)
