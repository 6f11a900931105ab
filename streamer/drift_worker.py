"""Composition root of the drift watcher: settings → consumer, store → comparisons, metrics. CPU only; no group.

    product-scores, dead-letters ─► [drift] ─► metrics; retraining/request.json beside the releases

One is enough: it sees all partitions, and whoever starts anew reads back as far as its windows need.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streamer import topics
from streamer.blobs import Blobs
from streamer.drift import Limits
from streamer.drift_telemetry import DriftTelemetry
from streamer.drift_watch import DriftWatch
from streamer.errors import FatalError, TransientError
from streamer.telemetry import HealthServer, configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.settings import Settings

log = structlog.get_logger(__name__)

POLL_MS = 500
AT_A_TIME = 2000  # records, between two looks at the clock
RETRY_S = 5.0
STALLED_AFTER_S = 300.0
"""Without a turn of the loop: longer than a store's own tries."""


def run(settings: Settings) -> int:
    """Watch until SIGTERM or SIGINT; return the process's exit code.

    Raises:
        FatalError: the watcher cannot do its work.
    """
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    return asyncio.run(DriftWorker(settings).run())


class DriftWorker:
    """One drift watcher, from start to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.telemetry = DriftTelemetry()
        self._stopping = asyncio.Event()
        self._unread: dict[TopicPartition, int]
        """Where partitions ended at the start, of those that it has not read so far yet."""
        self._turned = time.monotonic()

    async def run(self) -> int:
        """Read, compare now and then, until told to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)
        async with AsyncExitStack() as stack:
            watch = self._watch()
            consumer = await self._consumer(stack)
            telemetry = self._settings.telemetry
            if telemetry.port:
                health = HealthServer(self.telemetry, alive=self._alive, ready=self._ready)
                await health.start(telemetry.host, telemetry.port)
                stack.push_async_callback(health.stop)
            await self._follow(consumer, watch)
        return 0

    def stop(self) -> None:
        """Ask the watcher to stop; `run` then returns."""
        self._stopping.set()

    def _watch(self) -> DriftWatch:
        drift, store = self._settings.drift, self._settings.releases.store
        if store is None:
            log.warning(
                "drift.not_kept", advice="STREAMER_RELEASES__STORE is unset: no reference outlives this process"
            )
        return DriftWatch(
            limits=Limits(distance=drift.distance, factor=drift.factor, margin=drift.margin),
            size=drift.window,
            least=drift.least,
            patience=timedelta(seconds=drift.patience_s),
            blobs=None if store is None else Blobs(store, setting="STREAMER_RELEASES__STORE"),
            telemetry=self.telemetry,
            clock=lambda: datetime.now(UTC),
        )

    async def _consumer(self, stack: AsyncExitStack) -> AIOKafkaConsumer:
        settings = self._settings
        names = (settings.topics.scores, settings.topics.dead_letters)
        async with topics.admin(settings.broker) as client:
            existing = await topics.describe(client)
        if missing := [name for name in names if name not in existing]:
            raise FatalError("topics_missing", f"no {', '.join(missing)} on the broker: run `streamer topics create`")
        consumer: Any = AIOKafkaConsumer(
            **topics.client_kwargs(settings.broker),
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # where what it stood at is gone
            max_partition_fetch_bytes=2 * topics.MAX_DEAD_LETTER_BYTES,
        )
        with topics.connecting(settings.broker):
            await asyncio.wait_for(consumer.start(), topics.CONNECT_TIMEOUT_S)
        stack.push_async_callback(consumer.stop)
        partitions = [TopicPartition(name, n) for name in names for n in range(existing[name].partitions)]
        consumer.assign(partitions)
        since_ms = int((time.time() - settings.drift.lookback_s) * 1000)
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            start = found.get(partition)
            consumer.seek(partition, ends[partition] if start is None else start.offset)
        self._unread = ends
        return consumer

    async def _follow(self, consumer: AIOKafkaConsumer, watch: DriftWatch) -> None:
        scores = self._settings.topics.scores
        due = time.monotonic()
        todo: deque[tuple[Callable[[bytes | None], None], bytes | None]] = deque()
        while not self._stopping.is_set():
            self._turned = time.monotonic()
            try:
                if not todo:
                    batches: dict[Any, list[Any]] = await consumer.getmany(timeout_ms=POLL_MS, max_records=AT_A_TIME)
                    for partition, records in batches.items():
                        take = watch.score if partition.topic == scores else watch.letter
                        todo.extend((take, record.value) for record in records)
                await asyncio.to_thread(_take_all, todo)
                await self._note_progress(consumer)
                if time.monotonic() >= due and not self._unread:
                    await asyncio.to_thread(watch.check)
                    due = time.monotonic() + self._settings.drift.check_every_s
            except (KafkaError, TransientError) as error:
                log.warning("drift.not_reached", error=repr(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)

    async def _note_progress(self, consumer: AIOKafkaConsumer) -> None:
        self._unread = {at: end for at, end in self._unread.items() if await consumer.position(at) < end}

    def _alive(self) -> tuple[bool, str]:
        silent_s = time.monotonic() - self._turned
        return silent_s < STALLED_AFTER_S, f"the last turn was {silent_s:.0f} s ago"

    def _ready(self) -> tuple[bool, str]:
        return (False, "reading what has been judged already") if self._unread else (True, "ready")


def _take_all(todo: deque[tuple[Callable[[bytes | None], None], bytes | None]]) -> None:
    """Take in what has come; one at which the store does not answer is the first of the next try."""
    while todo:
        take, value = todo[0]
        take(value)
        todo.popleft()
