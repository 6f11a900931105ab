"""Budgets of bytes that many tasks share: who wants some waits for its turn, in the order of asking. Pure asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Hashable


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


class Held:
    """Bytes of a SharedBudget that somebody holds."""

    def __init__(self, size: int, budgets: tuple[ByteBudget, ...]) -> None:
        self.size = size
        self._budgets = budgets

    def shrink(self, size: int) -> None:
        """Keep no more than this; 0 lets go of all."""
        size = min(size, self.size)
        for budget in self._budgets:
            budget.give(self.size - size)
        self.size = size


class SharedBudget:
    """A budget of which no owner may hold more than half: the others never wait for one alone. For one event loop."""

    def __init__(self, total: int) -> None:
        self._whole = ByteBudget(total)
        self._share = max(1, total // 2)
        # An owner's share vanishes with the last bytes that are held or awaited.
        self._shares: WeakValueDictionary[Hashable, ByteBudget] = WeakValueDictionary()

    @property
    def free(self) -> int:
        """Bytes that nobody holds."""
        return self._whole.free

    async def take(self, owner: Hashable, size: int) -> Held:
        """Return the bytes when they are there: `size`, or half of all where it is more."""
        share = self._shares.get(owner)
        if share is None:
            share = self._shares[owner] = ByteBudget(self._share)
        taken = await share.take(size)  # first, so that waiting for it keeps nothing from other owners
        try:
            await self._whole.take(taken)
        except BaseException:
            share.give(taken)
            raise
        return Held(taken, (self._whole, share))
