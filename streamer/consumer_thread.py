# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
# The subclasses below narrow what Faust declares too widely, or not at all.
"""The thread that owns the aiokafka consumer, as `streamer.transport` needs it. Imported by that alone.

* Each fetch is stamped with the epoch in which it began; every seek and revocation begins a new one.
* A worker that leaves while others cause a rebalance does not wait for its own part of it, and leaves its group itself.
* A commit that the broker refuses, or cannot take now, is no error: it is tried again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver

from streamer.membership import make_strict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Iterable, Mapping

    from faust.types import TP

log = structlog.get_logger(__name__)

_STOP_POLL_S: Final = 0.1


class RebalanceListener(driver.ConsumerRebalanceListener):
    """Begins a new epoch as soon as partitions are revoked, before anything is waited for."""

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> Awaitable[None]:
        """Call when partitions are being revoked."""
        thread: Any = self._thread
        thread.begin_epoch()
        awaitable: Awaitable[None] = super().on_partitions_revoked(revoked)
        return awaitable


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that owns the aiokafka consumer; everything here but `epoch` runs in its event loop."""

    epoch: int = 0

    def begin_epoch(self) -> None:
        """Let what has been fetched until now be thrown away."""
        self.epoch += 1

    async def on_start(self) -> None:
        """Start the consumer, which trusts no empty answer and commits as a member only."""
        await super().on_start()
        if not self.transport.app.client_only:
            make_strict(self._ensure_consumer())

    def close(self) -> None:
        """Do nothing: this thread leaves the group and closes its consumer as it ends.

        Faust calls this where a rebalance meets a worker that is leaving. Its own closes parts of the consumer in the
        loop of another thread, and calls the whole closed: then nobody tells the group, which waits for the session to
        end, or the two wait for each other.
        """

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let the app finish what is in flight."""
        await self._unless_stopping(super().on_partitions_revoked(revoked))

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Let the app begin."""
        await self._unless_stopping(super().on_partitions_assigned(assigned, generation_id))

    async def _unless_stopping(self, told: Coroutine[Any, Any, None]) -> None:
        """Wait for the app's part of a rebalance, but not for one that has finished, committed, and is leaving itself.

        It would wait for this thread, and this thread for it. Or its part is cancelled as it stops: if that came
        through here, aiokafka would end without having left the group, which then waits for the session to end. Polled:
        the consumer lives in another loop.
        """
        consumer: Any = self.consumer
        telling = asyncio.ensure_future(told)
        while not (telling.done() or consumer.should_stop):
            await asyncio.wait({telling}, timeout=_STOP_POLL_S)
        if telling.done() and not telling.cancelled():
            telling.result()
        else:
            telling.cancel()
            log.info("rebalance.left_alone", stopping=consumer.should_stop)

    def _create_worker_consumer(self, transport: Any) -> Any:
        # Faust writes 1.5 s into the code; some brokers hold every fetch for the whole of it.
        consumer: Any = super()._create_worker_consumer(transport)
        ordered: Any = self.consumer
        consumer._fetch_max_wait_ms = ordered.fetch_max_wait_ms  # noqa: SLF001
        return consumer

    async def _fetch_records(self, consumer: Any, active_partitions: Any, **kwargs: Any) -> Any:
        """Return (epoch, records); a fetch that a seek overtook puts its records back and returns none.

        Nothing can run between the return of the fetch and the seek back: both happen in this thread's event loop,
        without an await between them. That holds for fetches that nobody waits for any more, too.
        """
        epoch = self.epoch
        records = await super()._fetch_records(consumer, active_partitions, **kwargs)
        if epoch != self.epoch:
            for tp, batch in records.items():
                if batch and tp in consumer.assignment():
                    consumer.seek(tp, batch[0].offset)
            return epoch, {}
        return epoch, {ensure_TP(tp): batch for tp, batch in records.items()}

    async def _seek_wait(self, consumer: Any, partitions: Mapping[TP, int]) -> None:
        self.begin_epoch()
        await super()._seek_wait(consumer, partitions)

    async def rewind(self, positions: Mapping[TP, int]) -> None:
        """Seek those of the partitions that are still assigned, beginning a new epoch."""
        await self.call_thread(self._rewind, positions)

    async def _rewind(self, positions: Mapping[TP, int]) -> None:
        consumer = self._ensure_consumer()
        self.begin_epoch()
        assigned = consumer.assignment()
        for tp, offset in positions.items():
            if tp in assigned:
                consumer.seek(tp, offset)

    async def committed(self, partitions: Iterable[TP]) -> dict[TP, int | None]:
        """Return the group's committed offset of each partition, None where it has none."""
        return await self.call_thread(self._committed, list(partitions))  # type: ignore[no-any-return]

    async def _committed(self, partitions: list[TP]) -> dict[TP, int | None]:
        consumer = self._ensure_consumer()
        offsets = await asyncio.gather(*(consumer.committed(tp) for tp in partitions))
        return dict(zip(partitions, offsets, strict=True))

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit; False when the broker cannot take it now: the same offsets are tried again at the next interval."""
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        wanted = {driver.ensure_aiokafka_TP(tp): offset for tp, offset in offsets.items() if tp in assigned}
        if not wanted:
            return False
        try:
            await consumer.commit(wanted)
        except (CommitFailedError, IllegalStateError) as error:
            log.info("offsets.refused", reason=str(error))
            return False
        except KafkaError as error:
            log.warning("offsets.not_committed", reason=repr(error))
            return False
        return True
