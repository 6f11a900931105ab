# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
# The subclasses below narrow what Faust declares too widely, or not at all.
"""Faust's Kafka consumer, made to lose nothing when partitions change hands. Imported by the composition roots only.

Stock Faust 0.15.3 commits past events in flight, skips records it has fetched when a rebalance interrupts their
delivery, and commits nothing when partitions are revoked (docs/adr/0002). This module replaces its bookkeeping:

* each partition has a `PartitionLedger`; what is committed is the first offset not acknowledged, in delivered order;
* each fetch is stamped with the epoch in which it began; every seek and revocation begins a new epoch, and records of
  an older one, or records that could not be delivered, are thrown away and their partition is sought back
  (`streamer.consumer_thread`);
* where a log is found shorter than what was committed, or made anew, its records are taken from the earliest on;
* a partition without a committed offset is sought to its earliest offset explicitly, once the broker has said for
  certain that there is none (`streamer.membership`);
* when partitions are revoked, or the worker stops, what is in flight is finished within a deadline and committed;
* a commit does not rely on Faust's flush, which may return before a table's last change has left: the alert agent
  acknowledges an event when the broker has the change (`streamer.scorer`).

It reaches into private parts of exactly this Faust and aiokafka; both are pinned in pyproject.toml.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import structlog
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka as driver
from mode import Service

from streamer.consumer_thread import ConsumerThread, RebalanceListener
from streamer.errors import FatalError
from streamer.offsets import PartitionLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from faust.types import TP

log = structlog.get_logger(__name__)

_FETCH_WAIT_S = 1.0
_DRAIN_POLL_S = 0.01


def _unheard(*_: bool) -> None:
    """Nobody wants to know."""


class OrderedConsumer(driver.Consumer):
    """Delivers each partition in order, and commits no offset before the broker has what its event led to.

    Set by the composition root before the app starts:
        drain_timeout_s: how long what is in flight may take to finish when partitions are revoked.
        fetch_max_wait_ms: how long the broker may hold a fetch while there is nothing new.
        hurry: is told when others begin and cease to wait for what is in flight.
        give_up: is called when that has not finished in time: all of it is delivered again, here or to another worker.
    """

    RebalanceListener = RebalanceListener
    _thread: ConsumerThread

    drain_timeout_s: float = 25.0
    fetch_max_wait_ms: int = 500
    hurry: Callable[[bool], None] = staticmethod(_unheard)
    give_up: Callable[[], None] = staticmethod(_unheard)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._ledgers: dict[TP, PartitionLedger] = {}
        self._behind: set[TP] = set()
        self._commit_lock = asyncio.Lock()
        self.commits = 0
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- positions

    async def perform_seek(self) -> None:
        """Seek every stream partition to the group's committed offset, or to its earliest when there is none."""
        streams = [tp for tp in self.assignment() if not self._is_changelog_tp(tp)]
        committed = await self._thread.committed(streams)
        fresh = [tp for tp, offset in committed.items() if offset is None]
        earliest = await self.earliest_offsets(*fresh) if fresh else {}
        starts = {tp: offset if offset is not None else earliest[tp] for tp, offset in committed.items()}
        self._start_at(starts)
        await self._thread.seek_wait(starts)
        log.info("partitions.sought", partitions=len(starts), uncommitted=len(fresh))

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Seek changelog partitions, for recovery."""
        self._start_at(partitions)
        await super().seek_wait(partitions)

    async def seek(self, partition: TP, offset: int) -> None:
        """Seek one partition."""
        await self.seek_wait({partition: offset})

    def _start_at(self, positions: Mapping[TP, int]) -> None:
        for tp, offset in positions.items():
            self._ledgers[tp] = PartitionLedger(offset)
            for acknowledged in (self._acked, self._acked_index, self._committed_offset):
                acknowledged.pop(tp, None)

    # -- delivery

    async def _drain_messages(self, fetcher: Any) -> None:
        # A fetcher that was stopped may have left with records in its hands.
        self._behind.update(self._ledgers)
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._catch_up()
                answer: Any = await self._wait_next_records(_FETCH_WAIT_S)
                fetched, active = answer
                if fetched and fetched[1]:
                    await self._deliver_or_rewind(fetched[0], fetched[1], active)
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _catch_up(self) -> None:
        behind, self._behind = self._behind, set()
        positions = {tp: self._ledgers[tp].next_offset for tp in behind if tp in self._ledgers}
        if positions:
            await self._thread.rewind(positions)

    async def _deliver_or_rewind(self, epoch: int, records: Any, active: set[TP] | None) -> None:
        delivery = asyncio.ensure_future(self._deliver(epoch, records, active))
        suspended = asyncio.ensure_future(self.suspend_flow.wait())
        try:
            await asyncio.wait({delivery, suspended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            suspended.cancel()
            if not delivery.done():
                delivery.cancel()
                self._behind.update(records)
        if delivery.done() and not delivery.cancelled():
            delivery.result()

    async def _deliver(self, epoch: int, records: Any, active: set[TP] | None) -> None:
        for tp, record in self.scheduler.iterate(records):
            if tp in self._behind:
                continue
            if epoch != self._thread.epoch or not self._is_open(tp, active):
                self._behind.add(tp)
                continue
            ledger = self._ledger_of(tp)
            if record.offset < ledger.next_offset and self._is_cut_short(tp, ledger):
                log.error("partition.cut_short", partition=str(tp), was_at=ledger.next_offset, goes_on_at=record.offset)
                self._start_at({tp: record.offset})
                ledger = self._ledgers[tp]
            if record.offset >= ledger.next_offset:
                ledger.deliver(record.offset)
                await self.callback(self._to_message(tp, record))

    def _is_cut_short(self, tp: TP, ledger: PartitionLedger) -> bool:
        """Whether the log ends before what was read of it: it has lost its end, or is another one of the same name."""
        end: Any = self.highwater(tp)  # None until the first answer
        return end is not None and end < ledger.next_offset and not self._is_changelog_tp(tp)

    def _is_open(self, tp: TP, active: set[TP] | None) -> bool:
        """Whether the partition may deliver now.

        Streams wait for the end of a rebalance: flow is on before it, for the changelogs, and is turned on once more at
        its end, which empties the agents' buffers of what has been delivered meanwhile.
        """
        if self.app.rebalancing and not self._is_changelog_tp(tp):
            return False
        return self.flow_active and (active is None or tp in active or tp in self._buffered_partitions)

    def _ledger_of(self, tp: TP) -> PartitionLedger:
        ledger = self._ledgers.get(tp)
        if ledger is None:
            raise FatalError("partition_not_sought", f"{tp} delivers records but was never sought; restart the worker")
        return ledger

    # -- acknowledgement

    def progress(self) -> dict[TP, tuple[int, int]]:
        """Return (committed offset, end of the log as last heard of) of each stream partition."""
        streams = {tp: ledger for tp, ledger in self._ledgers.items() if not self._is_changelog_tp(tp)}
        assigned = self.assignment() if streams else set()  # before its start a consumer cannot be asked
        return {
            tp: (ledger.committed, self.highwater(tp) or ledger.next_offset)
            for tp, ledger in streams.items()
            if tp in assigned
        }

    def _collect_acknowledgements(self) -> None:
        # The compiled stream iterator writes these two itself instead of calling `ack`.
        for tp, offsets in self._acked.items():
            if offsets and (ledger := self._ledgers.get(tp)):
                for offset in offsets:
                    ledger.acknowledge(offset)
            offsets.clear()
            self._acked_index[tp].clear()

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what has been acknowledged; a second caller waits and then commits what came meanwhile."""
        async with self._commit_lock:
            return await self.force_commit(topics, start_new_transaction=start_new_transaction)

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002 - Faust's signature
        """Commit what has been acknowledged; an acknowledgement says that the broker has what the event led to."""
        self._collect_acknowledgements()
        offsets = {
            tp: offset
            for tp, ledger in self._ledgers.items()
            if not self._is_changelog_tp(tp) and (offset := ledger.committable()) is not None
        }
        if not offsets:
            return False
        if not await self._commit(offsets):
            return False
        self.commits += 1
        for tp, offset in offsets.items():
            if tp in self._ledgers:
                self._ledgers[tp].committed = max(offset, self._ledgers[tp].committed)
        return True

    # -- handing over

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish what is in flight, commit it, and forget the partitions."""
        self._collect_acknowledgements()
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._ledgers.pop(tp, None)
        self._behind -= revoked
        self._buffered_partitions -= revoked

    def quiesce(self) -> None:
        """Hand no more events to the agents; what they have not taken yet is dropped, for others to be given."""
        self.stop_flow()
        self.app.flow_control.suspend()
        self.pause_partitions(self.assignment())
        self.app.flow_control.clear()

    async def wait_empty(self) -> None:
        """Wait until what the agents have taken is finished, at most `drain_timeout_s`; then commit."""
        deadline = time.monotonic() + self.drain_timeout_s
        self.hurry(True)
        try:
            # Polled: the compiled stream iterator acknowledges without telling anyone.
            while any(not m.acked for m in list(self._unacked_messages)) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(_DRAIN_POLL_S)
        finally:
            self.hurry(False)
        abandoned = sum(not m.acked for m in list(self._unacked_messages))
        self._unacked_messages.clear()
        if abandoned:
            log.warning("events.unfinished", events=abandoned, drain_timeout_s=self.drain_timeout_s)
            self.give_up()
        await self.commit()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust's own detector reads the bookkeeping that is replaced here."""


class _Fetcher(Fetcher):
    """Faust's fetcher, which takes being stopped during a rebalance for a crash, without that."""

    @Service.task  # type: ignore[untyped-decorator] # mode is untyped to mypy
    async def _fetcher(self) -> None:
        consumer: Any = self.app.consumer
        try:
            await consumer._drain_messages(self)  # noqa: SLF001 - as Faust's own does
        finally:
            self.set_shutdown()


class OrderedTransport(driver.Transport):
    """Faust's aiokafka transport with the consumer above."""

    Consumer = OrderedConsumer
    Fetcher = _Fetcher
