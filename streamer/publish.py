"""A feed into the product-updates topic: acknowledged in order, resumable, the same twice.

Rows are sent many at a time and counted when the broker has acknowledged them and every row before them; that count
stands in `<feed>.publish-state.json`, so a run that is killed goes on where it was. What was sent after the last
count is sent again, which changes nothing: a scorer drops a version that it has seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from streamer import topics
from streamer.errors import FatalError, RejectedEvent
from streamer.feed_rows import product_update
from streamer.feeds import Feed, Row, file_time, open_feed
from streamer.outbox import producer
from streamer.publish_state import PublishOptions, PublishState, begin, feed_status, save
from streamer.wire import encode

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

    from streamer.settings import BrokerSettings

BATCH_BYTES = 256 * 1024  # about 500 rows a request
MAX_IN_FLIGHT = 5_000  # rows; ten full batches, a few MB
SAVE_EVERY_S = 1.0  # at most this much is sent again after a SIGKILL
FLUSH_TIMEOUT_S = 5.0  # on Ctrl-C: wait this long for what is in flight
YIELD_ROWS = 256  # sending rarely waits by itself; the batches that are full must leave meanwhile
HOPELESS_ROWS = 100  # when the first hundred rows are all wrong, the file or an option is


@dataclass
class Published:
    """What one run did; `rows` and `rejected` count from the feed's first row, `sent` counts this run."""

    rows: int = 0
    rejected: int = 0
    sent: int = 0
    resumed_at: int = 0
    finished: bool = False
    reasons: Counter[str] = field(default_factory=Counter[str])


class Watch(Protocol):
    """Who looks on: a progress bar, or nobody."""

    def advanced(self, feed: Feed, published: Published) -> None:
        """Rows were read, sent or acknowledged."""
        ...

    def rejected(self, line: int, error: RejectedEvent) -> None:
        """A row cannot be published."""
        ...


def check(options: PublishOptions, watch: Watch) -> Published:
    """Read every row and send nothing.

    Raises:
        FatalError: feed_unreadable, feed_unsupported, feed_unusable.
    """
    done = Published()
    base_url, feed_time = options.checked_base_url(), file_time(feed_status(options.feed).st_mtime_ns)
    with open_feed(options.feed, options.columns) as feed:
        for row in feed.rows:
            if options.limit is not None and row.number > options.limit:
                return done
            done.rows = row.number
            try:
                product_update(row, base_url=base_url, feed_time=feed_time)
            except RejectedEvent as error:
                _note(done, row, error, watch, feed)
            watch.advanced(feed, done)
    done.finished = True
    return done


async def publish(options: PublishOptions, broker: BrokerSettings, watch: Watch) -> Published:
    """Publish the feed from where the last run of it ended.

    Raises:
        FatalError: feed_unreadable, feed_unsupported, feed_unusable, publish_unfinished, publish_state_invalid,
            state_unwritable, topic_missing, publish_failed, broker_unreachable, broker_refused, settings_invalid.
    """
    state = begin(options, broker.bootstrap)
    if state.finished:
        return Published(rows=state.rows, rejected=state.rejected, resumed_at=state.rows, finished=True)
    save(options.state_path, state)  # an unwritable folder is told before anything is sent
    await _require_topic(broker, options.topic)
    async with producer(broker, max_batch_size=BATCH_BYTES) as kafka:
        return await Publication(options, state, kafka, watch).run()


def _note(done: Published, row: Row, error: RejectedEvent, watch: Watch, feed: Feed) -> None:
    done.rejected += 1
    done.reasons[error.code] += 1
    watch.rejected(row.line, error)
    if done.rejected == row.number == HOPELESS_ROWS:
        raise FatalError(
            "feed_unusable",
            f"none of the first {HOPELESS_ROWS} rows can be published; the last one: {str(error).rstrip('.')}. "
            f"{feed.advice()}".rstrip(),
        )


async def _require_topic(broker: BrokerSettings, topic: str) -> None:
    async with topics.admin(broker) as client:
        if topic not in await topics.describe(client):
            raise FatalError("topic_missing", f"{broker.bootstrap} has no topic {topic}: run `streamer topics create`")


class Publication:
    """One run: rows in the order of the feed, each with its delivery, `None` for a rejected row."""

    def __init__(self, options: PublishOptions, state: PublishState, kafka: AIOKafkaProducer, watch: Watch) -> None:
        self.options = options
        self.state = state
        self.kafka = kafka
        self.watch = watch
        self.feed_time = file_time(state.feed_mtime_ns)
        self.done = Published(rows=state.rows, rejected=state.rejected, resumed_at=state.rows)
        self.pending: deque[tuple[int, asyncio.Future[object] | None]] = deque()
        self.saved_at = time.monotonic()

    async def run(self) -> Published:
        try:
            with open_feed(self.options.feed, self.options.columns) as feed:
                read_all = await self._send_all(feed)
                await self._settle(0)
                self.watch.advanced(feed, self.done)
        except BaseException:
            await self._leave()
            raise
        self.done.finished = read_all
        self._save(finished=read_all)
        return self.done

    async def _send_all(self, feed: Feed) -> bool:
        """Return whether the feed's end was reached, not the limit."""
        first, started = self.state.rows, time.monotonic()
        for row in feed.rows:
            if row.number <= first:
                continue
            if self.options.limit is not None and row.number > self.options.limit:
                return False
            await self._pace(row.number - first - 1, started)
            self.pending.append((row.number, await self._send(row, feed)))
            await self._settle(MAX_IN_FLIGHT)
            self.watch.advanced(feed, self.done)
        return True

    async def _pace(self, sent: int, started: float) -> None:
        wait_s = 0.0 if self.options.rate is None else started + sent / self.options.rate - time.monotonic()
        if wait_s > 0 or sent % YIELD_ROWS == 0:
            await asyncio.sleep(max(wait_s, 0.0))

    async def _send(self, row: Row, feed: Feed) -> asyncio.Future[object] | None:
        try:
            update = product_update(row, base_url=self.options.base_url, feed_time=self.feed_time)
            delivery: asyncio.Future[object] = await self.kafka.send(
                self.options.topic, key=update.id.encode(), value=encode(update)
            )
        except RejectedEvent as error:
            _note(self.done, row, error, self.watch, feed)
            return None
        except MessageSizeTooLargeError as error:
            _note(self.done, row, RejectedEvent("row_too_large", str(error)), self.watch, feed)
            return None
        except KafkaError as error:
            raise self._failed(error) from error
        self.done.sent += 1
        return delivery

    async def _settle(self, room: int) -> None:
        """Count what is acknowledged; wait while more than `room` rows are in flight.

        Raises:
            FatalError: publish_failed, when the broker did not take a row.
        """
        while self.pending:
            delivery = self.pending[0][1]
            if delivery is not None and not delivery.done():
                if len(self.pending) <= room:
                    break
                await asyncio.wait({delivery})  # unlike `await delivery`, a Ctrl-C here does not cancel it
            error = None if delivery is None else delivery.exception()
            if error is not None:
                raise self._failed(error) from error
            self._count()
        if time.monotonic() - self.saved_at > SAVE_EVERY_S:
            self._save()

    def _count(self) -> None:
        number, delivery = self.pending.popleft()
        self.done.rows = number
        rejected = self.state.rejected + (delivery is None)
        self.state = msgspec.structs.replace(self.state, rows=number, rejected=rejected)

    def _failed(self, error: BaseException) -> FatalError:
        row = self.state.rows + 1
        return FatalError("publish_failed", f"{error}: the same command goes on at row {row}")

    def _save(self, *, finished: bool = False) -> None:
        save(self.options.state_path, msgspec.structs.replace(self.state, finished=finished))
        self.saved_at = time.monotonic()

    async def _leave(self) -> None:
        """Keep the count of what got through before an error or a Ctrl-C."""
        with contextlib.suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(self.kafka.flush(), FLUSH_TIMEOUT_S)
        with contextlib.suppress(FatalError, asyncio.CancelledError):
            await self._settle(len(self.pending))
        for _, delivery in self.pending:
            if delivery is not None and delivery.done() and not delivery.cancelled():
                delivery.exception()  # retrieved, so that asyncio does not report it a second time
        self._save()
