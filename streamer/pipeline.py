"""One event's whole way through the scorer, top to bottom; the one place where an error becomes an outcome.

    admit → parse → is it still wanted? → fetch → seen before? → decode, tokenise → batch → engine → calibrate
          → if it alerts: what is contradicted? → keep evidence, where that is on → publish

Consumption calls `admit` in the partition's order and waits there when too much is in flight. Each admitted event then
goes its way in a task of its own and ends in exactly one record, a ProductScore or a DeadLetter; it is acknowledged
when the broker has that record. Faust does not enter here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Protocol

import msgspec
import structlog
from cachetools import FIFOCache

from engines.errors import EngineError
from streamer import events
from streamer.errors import FatalError, RejectedEvent, StreamerError, TransientError
from streamer.events import Contradiction, DeadLetter, ProductScore, ProductUpdate, RecordedOutcome, SourcePosition
from streamer.fetch import NotModified
from streamer.incoming import Incoming, dead_letter
from streamer.succession import Succession, Turn
from streamer.tracing import OFF, Span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator
    from concurrent.futures import Executor

    from streamer.batch import Batcher
    from streamer.fetch import Fetcher, Validator
    from streamer.keeping import Keeper
    from streamer.pairs import Pair
    from streamer.serving import Said, Serving
    from streamer.settings import PipelineSettings, TopicSettings
    from streamer.telemetry import Telemetry
    from streamer.tracing import Tracing

log = structlog.get_logger(__name__)

DRAINED_WITHIN = 0.4
"""Of the drain's deadline: in flight is no more than the engine answers in it, so that a worker that leaves, or hands
partitions over in a rebalance, keeps nobody waiting. The rest is for slow pictures and for other load."""


class Publish(Protocol):
    """Returns once the broker has the record on enough replicas; retries for as long as it takes."""

    def __call__(self, topic: str, key: bytes | None, value: bytes) -> Awaitable[None]: ...


@dataclass(slots=True)
class _Passage:
    """One event on its way: what is known of it so far; `update` and `turn` are None where it says too little.

    `serving` is the release that judges it, once one does: whatever is swapped meanwhile, the event stays with it.
    """

    incoming: Incoming
    update: ProductUpdate | None = None
    turn: Turn | None = None
    origin: SourcePosition | None = None
    serving: Serving | None = None
    started: float = field(default_factory=time.perf_counter)
    stages_ms: dict[str, float] = field(default_factory=dict)
    span: Span = field(default_factory=Span)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a URL last showed."""

    validator: Validator
    image_sha256: str


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What the engine says of a picture and a text; another calibration makes another probability of it."""

    logit: float
    contradicts: tuple[Contradiction, ...]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A pair ready for the engine, or, when this picture was scored with this text before, what was said of it."""

    image_sha256: str
    pair: Pair | None = None
    judgement: _Judgement | None = None
    picture: IO[bytes] | None = None  # its bytes, held for evidence
    decode_s: float = 0.0
    tokenise_s: float = 0.0


class Pipeline:
    """Takes product updates to their outcomes; all methods belong to one event loop."""

    def __init__(
        self,
        *,
        fetcher: Fetcher,
        serving: Serving,
        batcher: Batcher,
        executor: Executor,
        publish: Publish,
        topics: TopicSettings,
        settings: PipelineSettings,
        telemetry: Telemetry,
        keeper: Keeper | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        self._tracing = tracing
        self._keeper = keeper
        self._fetcher = fetcher
        self.serving = serving
        """The release that judges what comes from now on; see `swap`."""
        self._batcher = batcher
        self._executor = executor
        self._publish = publish
        self._topics = topics
        self._settings = settings
        self._telemetry = telemetry
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = asyncio.Event()  # an event has left: there may be room
        self.hurried = False
        """Others wait for what is in flight, to be given its partitions: nothing is explained."""
        self.depths = {"fetch": 0, "preprocess": 0}  # events in these two stages, or waiting for their turn
        # First in, first out: a look-up changes nothing, so preprocessing threads may look while the loop writes.
        self._succession = Succession(max(settings.score_cache_entries, settings.max_in_flight))
        self._judgements: FIFOCache[tuple[str, str, str], _Judgement] = FIFOCache(max(settings.score_cache_entries, 1))
        self._seen: FIFOCache[str, _Seen] = FIFOCache(max(settings.score_cache_entries, 1))
        self.fatal: asyncio.Future[StreamerError] = asyncio.get_running_loop().create_future()

    @property
    def in_flight(self) -> int:
        """How many admitted events have no outcome yet."""
        return len(self._tasks)

    def swap(self, serving: Serving) -> Serving:
        """Let another release judge what comes from now on; return the one that has judged so far.

        Events that are on their way go it to the end with the release that they began with.
        """
        before, self.serving = self.serving, serving
        self._batcher.swap(serving.lane)
        return before

    # -- the way of an event

    async def admit(self, incoming: Incoming) -> None:
        """Wait for room, then start the event on its way. Call in the order of the partition, one at a time."""
        while self.in_flight >= self._room():
            self._left.clear()
            await self._left.wait()
        passage, refused = self._parse(incoming)
        task = asyncio.create_task(self._traced(passage, refused))
        if passage.turn is not None:
            passage.turn.task = task
        self._tasks.add(task)
        task.add_done_callback(self._leave)

    async def drain(self) -> None:
        """Return when nothing is in flight."""
        self.hurried = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def abandon(self) -> None:
        """Give up what is in flight: no outcome, no acknowledgement; another worker will be given these events."""
        abandoned = list(self._tasks)
        for task in abandoned:
            task.cancel()
        await asyncio.gather(*abandoned, return_exceptions=True)

    def _room(self) -> int:
        """Return how many events may be in flight: what the engine answers in part of the time that a drain has.

        A full batch before its pace is known, and one event for each batch that it runs, however slow it is.
        """
        if not self._batcher.pairs_per_s:
            return min(self._settings.max_in_flight, self._batcher.capacity)
        answered = int(self._batcher.pairs_per_s * DRAINED_WITHIN * self._settings.drain_timeout_s)
        return min(self._settings.max_in_flight, max(answered, self._batcher.concurrency))

    def _parse(self, incoming: Incoming) -> tuple[_Passage, RejectedEvent | None]:
        started = time.perf_counter()
        passage = _Passage(incoming, origin=events.origin_of(incoming.headers))
        try:
            update = passage.update = events.parse_update(incoming.key, incoming.value)
            order = None if update.deleted and update.version is None and update.updated_at is None else update.order
        except RejectedEvent as error:
            return passage, error
        finally:
            self._telemetry.stage("parse", time.perf_counter() - started)
        place = passage.origin or incoming.position
        passage.turn = Turn(order, place, replayed=passage.origin is not None, deletes=update.deleted)
        self._succession.enter(update.id, passage.turn)
        return passage, None

    async def _traced(self, passage: _Passage, refused: RejectedEvent | None) -> None:
        came = passage.incoming
        with self._tracing.processing(came.position, came.headers, key=came.key, value=came.value) as passage.span:
            await self._travel(passage, refused)

    async def _travel(self, passage: _Passage, refused: RejectedEvent | None) -> None:
        incoming, update, turn = passage.incoming, passage.update, passage.turn
        record: ProductScore | DeadLetter
        settled = False
        try:
            if update is None or turn is None or refused is not None:
                assert refused is not None
                record = self._dead_letter(passage, refused)
            else:
                record = await self._outcome(passage, update, turn)
                settled = isinstance(record, ProductScore) and record.outcome != "superseded"
                await turn.comes()
            await self._emit(passage, record)
        except Exception as error:  # noqa: BLE001 - nothing may leave unseen: the worker stops and commits nothing
            self._stop(error)
            return
        finally:
            if update is not None and turn is not None:
                self._succession.leave(update.id, turn, settled=settled)
        incoming.acknowledge()
        self._account(passage, record)

    async def _outcome(self, passage: _Passage, update: ProductUpdate, turn: Turn) -> ProductScore | DeadLetter:
        """Return the record that the event ends in: the one place where an error becomes an outcome."""
        try:
            if turn.must_wait:
                await turn.comes()
                self._succession.judge(update.id, turn)
            if turn.superseded:
                return self._record(passage, update, turn, "superseded")
            if turn.deletes:
                return self._record(passage, update, turn, "deleted")
            turn.work = work = asyncio.create_task(self._score(passage, update, turn))
            return await work
        except (RejectedEvent, TransientError, EngineError) as error:
            return self._dead_letter(passage, error)
        except asyncio.CancelledError:
            if turn.superseded and turn.work is not None and turn.work.cancelled():
                return self._record(passage, update, turn, "superseded")
            if turn.work is not None:
                turn.work.cancel()
            raise
        finally:
            turn.work = None  # its error's traceback holds frames, and those this turn

    async def _score(self, passage: _Passage, update: ProductUpdate, turn: Turn) -> ProductScore:
        url = update.image_link
        if not url:
            raise RejectedEvent("image_missing", "the update has no `image_link`")
        with self.serving.in_use() as serving:
            passage.serving = serving
            return await self._score_with(serving, passage, update, turn, url)

    async def _score_with(
        self, serving: Serving, passage: _Passage, update: ProductUpdate, turn: Turn, url: str
    ) -> ProductScore:
        said = serving.read(update)
        prepared = await self._prepare(serving, passage, update, url, said)
        with contextlib.closing(prepared.picture) if prepared.picture else contextlib.nullcontext():
            return await self._conclude(serving, passage, update, turn, said, prepared)

    async def _conclude(  # noqa: PLR0917 - all that is known of the event by now
        self,
        serving: Serving,
        passage: _Passage,
        update: ProductUpdate,
        turn: Turn,
        said: Said,
        prepared: _Prepared,
    ) -> ProductScore:
        turn.ready()
        await turn.comes()
        self._succession.judge(update.id, turn)
        if turn.superseded:
            return self._record(passage, update, turn, "superseded")
        judgement = prepared.judgement or self._known(serving, prepared.image_sha256, said.sha256)
        outcome: RecordedOutcome = "unchanged"
        if judgement is None:
            assert prepared.pair is not None
            outcome, judgement = "scored", await self._judge(serving, passage, update, said, prepared.pair)
            if self._settings.score_cache_entries:
                self._judgements[prepared.image_sha256, said.sha256, serving.model] = judgement
        record = self._record(passage, update, turn, outcome, prepared.image_sha256, said.sha256, judgement)
        if self._keeper is not None:
            started = time.perf_counter()
            await self._keeper.keep(record, update, said.text, judgement.logit, prepared.picture)
            self._clock(passage, "keep", time.perf_counter() - started)
        return record

    async def _judge(
        self, serving: Serving, passage: _Passage, update: ProductUpdate, said: Said, pair: Pair
    ) -> _Judgement:
        """Return what the engine says and, where that calls for an alert, which claims of the text it is about."""
        scored = await serving.lane.logit(pair)
        self._clock(passage, "queue", scored.waited_s, ended_s_ago=scored.infer_s)
        self._clock(passage, "engine", scored.infer_s)
        threshold, explainer = serving.threshold(update), serving.explainer
        explainer.count_scored()
        if serving.probability(scored.logit) < threshold or self.hurried or not explainer.takes_on():
            return _Judgement(scored.logit, ())
        started = time.perf_counter()
        contradicts = await explainer.contradictions(
            said.text, pair, scored.logit, lambda logit: serving.probability(logit) >= threshold
        )
        self._clock(passage, "explain", time.perf_counter() - started)
        return _Judgement(scored.logit, contradicts)

    async def _prepare(
        self, serving: Serving, passage: _Passage, update: ProductUpdate, url: str, said: Said
    ) -> _Prepared:
        """Fetch the picture, or learn that it has not changed, and make the pair ready for the engine."""
        seen = self._seen.get(url)
        known = None if seen is None else self._known(serving, seen.image_sha256, said.sha256)
        if (
            seen is not None
            and known is not None
            and self._keeper is not None
            and self._keeper.lacks(seen.image_sha256)
        ):
            alerts = serving.probability(known.logit) >= serving.threshold(update)
            known = None if alerts else known  # evidence needs the bytes
        started = time.perf_counter()
        with self._inside("fetch"):
            fetched = await self._fetcher.get(url, None if seen is None or known is None else seen.validator)
        self._clock(passage, "fetch", time.perf_counter() - started)
        if isinstance(fetched, NotModified):
            assert seen is not None
            return _Prepared(seen.image_sha256, judgement=known)
        try:
            with self._inside("preprocess"):
                prepared = await asyncio.get_running_loop().run_in_executor(
                    self._executor, self._make_ready, serving, fetched.body, said
                )
        finally:
            fetched.release()
        self._clock(passage, "decode", prepared.decode_s, ended_s_ago=prepared.tokenise_s)
        self._clock(passage, "tokenise", prepared.tokenise_s)
        if fetched.validator is not None and self._settings.score_cache_entries:
            self._seen[url] = _Seen(fetched.validator, prepared.image_sha256)
        return prepared

    def _make_ready(self, serving: Serving, body: bytes, said: Said) -> _Prepared:
        """Digest, decode and tokenise; runs in a preprocessing thread."""
        started = time.perf_counter()
        image_sha256 = hashlib.sha256(body).hexdigest()
        known = self._known(serving, image_sha256, said.sha256)
        if known is not None:
            decode_s = time.perf_counter() - started
            return _Prepared(image_sha256, judgement=known, picture=self._hold(body), decode_s=decode_s)
        pixels = serving.decode(body)
        decoded = time.perf_counter()
        pair = serving.pair(pixels, said)
        tokenise_s = time.perf_counter() - decoded
        picture = self._hold(body)  # last: a picture that is refused is not held
        return _Prepared(image_sha256, pair, picture=picture, decode_s=decoded - started, tokenise_s=tokenise_s)

    def _hold(self, body: bytes) -> IO[bytes] | None:
        return None if self._keeper is None else self._keeper.hold(body)

    def _known(self, serving: Serving, image_sha256: str, text_sha256: str) -> _Judgement | None:
        try:
            return self._judgements[image_sha256, text_sha256, serving.model]
        except KeyError:
            return None

    # -- records

    def _record(  # noqa: PLR0917 - whose it is, then what it says
        self,
        passage: _Passage,
        update: ProductUpdate,
        turn: Turn,
        outcome: RecordedOutcome,
        image_sha256: str | None = None,
        text_sha256: str | None = None,
        judgement: _Judgement | None = None,
    ) -> ProductScore:
        serving = passage.serving if judgement is not None else None
        probability = serving.probability(judgement.logit) if judgement and serving else None
        threshold = serving.threshold(update) if serving else None
        alerts = probability is not None and threshold is not None and probability >= threshold
        return ProductScore(
            product_id=update.id,
            order=turn.order,
            outcome=outcome,
            source=passage.incoming.position,
            published_at=passage.incoming.published_at,
            scored_at=datetime.now(UTC),
            title=(update.title or "")[: events.MAX_TITLE_CHARS] or None,
            category=update.category[: events.MAX_TITLE_CHARS] or None,
            image_url=update.image_link,
            image_sha256=image_sha256,
            text_sha256=text_sha256,
            probability=probability,
            threshold=threshold,
            release=serving.release if serving else None,
            superseded_by=turn.superseded_by,
            contradicts=(judgement and alerts and judgement.contradicts) or msgspec.UNSET,
            origin=passage.origin or msgspec.UNSET,
        )

    def _dead_letter(self, passage: _Passage, error: StreamerError | EngineError) -> DeadLetter:
        release = (passage.serving or self.serving).release
        return dead_letter(passage.incoming, error, update=passage.update, release=release)

    async def _emit(self, passage: _Passage, record: ProductScore | DeadLetter) -> None:
        started = time.perf_counter()
        if isinstance(record, DeadLetter):
            await self._publish(self._topics.dead_letters, passage.incoming.key, events.encode(record))
        else:
            await self._publish(self._topics.scores, record.product_id.encode(), events.encode(record))
        self._clock(passage, "publish", time.perf_counter() - started)

    # -- accounting

    def _account(self, passage: _Passage, record: ProductScore | DeadLetter) -> None:
        """Count the outcome and write the event's canonical log line."""
        self._telemetry.latency(record.published_at)
        facts: dict[str, object] = {
            "product_id": record.product_id,
            "topic": record.source.topic,
            "partition": record.source.partition,
            "offset": record.source.offset,
            "release": record.release,
            "total_ms": round((time.perf_counter() - passage.started) * 1e3, 2),
            **passage.stages_ms,
        }
        if isinstance(record, DeadLetter):
            self._telemetry.outcome("rejected", record.reason)
            passage.span.end_as("rejected", error=record.reason, release=record.release)
            log.warning("event.rejected", reason=record.reason, message=record.message, outcome="rejected", **facts)
            return
        self._telemetry.outcome(record.outcome)
        passage.span.end_as(record.outcome, release=record.release, probability=record.probability)
        if record.probability is not None:
            self._telemetry.probability(record.probability)
        log.debug("event.recorded", outcome=record.outcome, probability=record.probability, **facts)

    @contextmanager
    def _inside(self, stage: str) -> Generator[None]:
        """Count the event among those in the stage."""
        self.depths[stage] += 1
        try:
            yield
        finally:
            self.depths[stage] -= 1

    def _clock(self, passage: _Passage, stage: str, seconds: float, *, ended_s_ago: float = 0.0) -> None:
        passage.stages_ms[f"{stage}_ms"] = round(seconds * 1e3, 2)
        self._telemetry.stage(stage, seconds)
        passage.span.stage(stage, seconds, ended_s_ago=ended_s_ago)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._left.set()

    def _stop(self, error: BaseException) -> None:
        log.error("pipeline.failed", error=repr(error), exc_info=error)
        if not self.fatal.done():
            wrapped = FatalError("pipeline_failed", f"{type(error).__name__}: {error}")
            self.fatal.set_result(error if isinstance(error, FatalError) else wrapped)
