"""Which of a product's updates wins, and in which order they have their outcomes. Pure asyncio.

Updates of one product have their outcomes one after the other, in the order in which they came, and those lead where
one at a time would have led. What is older than the newest one that is settled is superseded. A newer update that is
still in the works may be rejected, and must not cost the older one its outcome before it is known not to be: it ends
the older one, which then is spared its inference, when its own picture and text are ready.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachetools import FIFOCache

from streamer.fingerprint import fingerprint

if TYPE_CHECKING:
    from streamer.wire import SourcePosition


@dataclass(slots=True, eq=False)
class Turn:
    """One update among those of its product.

    Attributes:
        order: None for a tombstone without a version.
        place: where it stands among the others; a replay stands where it first stood.
        replayed: it comes again, and may come behind what came after it.
        deletes: it is never rejected, so it is ready at once; and it is recorded whatever follows.
        superseded: its outcome; `superseded_by` is the order of the newer one, None where that has none.
        task: ends with its outcome. `work` is what is spared when it is superseded meanwhile.
    """

    order: int | None
    place: SourcePosition
    replayed: bool = False
    deletes: bool = False
    superseded: bool = False
    superseded_by: int | None = None
    task: asyncio.Task[None] | None = None
    work: asyncio.Task[Any] | None = None
    before: tuple[Turn, ...] = ()

    @property
    def must_wait(self) -> bool:
        """Whether nothing in flight is for it to end: then nothing is to be done before its turn."""
        return not any(self._ends(other) for other in self.before)

    async def comes(self) -> None:
        """Wait until those before it have their outcomes."""
        tasks = {other.task for other in self.before if other.task is not None}
        if tasks:
            await asyncio.wait(tasks)
        self.before = ()

    def ready(self) -> None:
        """End the older updates that are in flight: this one will not be rejected for what it brings."""
        for other in self.before:
            if self._ends(other):
                other.superseded, other.superseded_by = True, self.order
                if other.work is not None:
                    other.work.cancel()

    def older_than(self, order: int | None, place: SourcePosition) -> bool:
        """Whether an update is older: versions tell; where one has none, or the same comes again, their places do."""
        same = self.order == order and self.replayed
        if self.order is not None and order is not None and not same:
            return self.order < order
        return self.place.partition == place.partition and self.place.offset < place.offset

    def _ends(self, other: Turn) -> bool:
        in_flight = other.task is None or not other.task.done()
        return in_flight and not (other.deletes or other.superseded) and other.older_than(self.order, self.place)


class Succession:
    """The updates of all products; what is settled is a cache: forgetting it costs work, not truth.

    Args:
        size: products of which the newest settled update is remembered.
    """

    def __init__(self, size: int) -> None:
        self._flight: dict[str, list[Turn]] = {}
        self._settled: FIFOCache[bytes, tuple[int | None, SourcePosition]] = FIFOCache(size)

    def enter(self, product: str, turn: Turn) -> None:
        """Take the next update of the product; call in the order of its partition."""
        flight = self._flight.setdefault(product, [])
        turn.before = tuple(flight)
        flight.append(turn)
        self.judge(product, turn)
        if turn.deletes and not turn.superseded:
            turn.ready()

    def judge(self, product: str, turn: Turn) -> None:
        """Let the update be superseded if a newer one is settled by now."""
        newest = self._settled.get(fingerprint(product))
        if newest is not None and not turn.superseded and turn.older_than(*newest):
            turn.superseded, turn.superseded_by = True, newest[0]

    def leave(self, product: str, turn: Turn, *, settled: bool) -> None:
        """Let go of an update that has its outcome; a settled one supersedes older ones from now on."""
        flight = self._flight[product]
        flight.remove(turn)
        if not flight:
            del self._flight[product]
        turn.before = ()
        if settled:
            newest = self._settled.get(fingerprint(product))
            if newest is None or not turn.older_than(*newest):
                self._settled[fingerprint(product)] = turn.order, turn.place
