"""Offers → product-updates, with no more outstanding than the worker should hold, and their outcomes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Self

from aiokafka import AIOKafkaProducer

from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamer.loop.display import Progress
    from streamer.loop.ledger import Judged, Ledger, Position
    from streamer.loop.season import Offer

OUTSTANDING: Final = 128
STALL_S: Final = 120.0
"""Without any outcome for this long, training beside it included, the worker is given up."""

_POLL_S: Final = 0.02


class Publisher:
    """Publishes offers, each with a newer version than before; a context manager.

    Args:
        topic: of updates.
        client: how to reach the broker.
        image_url: where a picture is.
        ledger: what has been judged.
        progress: is told what was published.
    """

    def __init__(
        self,
        topic: str,
        client: Mapping[str, Any],
        image_url: Callable[[str], str],
        ledger: Ledger,
        progress: Progress,
    ) -> None:
        self._topic, self._image_url = topic, image_url
        self._ledger, self._progress = ledger, progress
        self._producer = AIOKafkaProducer(**client, acks="all", linger_ms=5)
        self._version = 0
        self.places: list[Position] = []

    async def __aenter__(self) -> Self:
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def judged(self, offers: Sequence[Offer]) -> dict[str, Judged]:
        """Publish offers, and return what became of each when all have an outcome.

        Raises:
            FatalError: worker_stalled.
        """
        places = await self.publish(offers)
        await self.settled()
        return {offer.id: self._ledger.outcomes[place] for offer, place in places}

    async def publish(self, offers: Sequence[Offer], *, outstanding: int = OUTSTANDING) -> list[tuple[Offer, Position]]:
        """Publish offers as fast as they are judged, and return where each stands.

        Args:
            offers: to be published.
            outstanding: how many updates may be without an outcome.

        Raises:
            FatalError: worker_stalled.
        """
        self._version += 1
        sent: list[tuple[Offer, asyncio.Future[Any]]] = []
        for offer in offers:
            await self._until(lambda: self._progress.published - len(self._ledger.outcomes) < outstanding)
            value = offer.record(self._version, self._image_url)
            sent.append((offer, await self._producer.send(self._topic, value, key=offer.id.encode())))
            self._progress.published += 1
        records = [(offer, await acknowledged) for offer, acknowledged in sent]
        placed = [(offer, (record.topic, record.partition, record.offset)) for offer, record in records]
        self.places += [place for _, place in placed]
        return placed

    async def settled(self) -> None:
        """Return when every update that was published has an outcome.

        Raises:
            FatalError: worker_stalled.
        """
        await self._until(lambda: all(place in self._ledger.outcomes for place in self.places))

    async def alerted(self) -> None:
        """Return when every product whose score alerts has its alert, too.

        Raises:
            FatalError: worker_stalled.
        """
        await self._until(lambda: not self._ledger.unanswered)

    async def _until(self, so: Callable[[], bool]) -> None:
        seen, since = self._ledger.read, time.monotonic()
        while not so():
            await asyncio.sleep(_POLL_S)  # what is waited for is another process
            if self._ledger.read != seen:
                seen, since = self._ledger.read, time.monotonic()
            elif time.monotonic() - since > STALL_S:
                raise FatalError("worker_stalled", f"no outcome and no alert for {STALL_S:.0f} s: see scorer.log")
