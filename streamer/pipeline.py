"""One event's whole way through the scorer, top to bottom; the one place where an error becomes an outcome.

    admit → parse → is it still wanted? → fetch → seen before? → decode, tokenise → batch → engine → calibrate
          → if it alerts: what is contradicted? → keep evidence, where that is on → publish
                                                  (and offer it to a challenger, for which nothing waits)

Consumption calls `admit` in the partition's order and waits there when too much is in flight. Each admitted event then
goes its way in a task of its own and ends in exactly one record, a ProductScore or a DeadLetter; it is acknowledged
when the broker has that record. Faust does not enter here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING

import structlog

from engines.errors import EngineError
from streamer.errors import FatalError, RejectedEvent, StreamerError, TransientError
from streamer.events import DeadLetter, ProductScore
from streamer.fetch import NotModified
from streamer.held import hold
from streamer.in_flight import InFlight, room_of
from streamer.incoming import LEAVING, letter_record, reading
from streamer.judgements import Judgement, Judgements
from streamer.passage import Passage
from streamer.succession import Succession, Turn
from streamer.tracing import OFF
from streamer.updates import parse_update
from streamer.wire import encode, origin_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from streamer.batch import Batcher
    from streamer.events import Features, RecordedOutcome
    from streamer.fetch import Fetched, Fetcher
    from streamer.incoming import Incoming
    from streamer.keeping import Keeper
    from streamer.outbox import Publish
    from streamer.pairs import Pair
    from streamer.serving import Said, Serving
    from streamer.settings import PipelineSettings, TopicSettings
    from streamer.shadow import Shadow
    from streamer.telemetry import Telemetry
    from streamer.tracing import Tracing
    from streamer.updates import ProductUpdate

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A pair ready for the engine, or, when this picture was scored with this text before, what was said of it."""

    image_sha256: str
    pair: Pair | None = None
    judgement: Judgement | None = None
    features: Features | None = None  # with `pair`
    picture: IO[bytes] | None = None  # its bytes, held for evidence or for a challenger


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
        shadow: Shadow | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        self._tracing = tracing
        self._keeper = keeper
        self._shadow = shadow
        self._fetcher = fetcher
        self.serving = serving
        """The release that judges what comes from now on; see `swap`."""
        self._batcher = batcher
        self._executor = executor
        self._publish = publish
        self._topics = topics
        self._settings = settings
        self._telemetry = telemetry
        self.hurried = False
        """Others wait for what is in flight, to be given its partitions: nothing is explained."""
        self._succession = Succession(max(settings.score_cache_entries, settings.max_in_flight))
        self._judgements = Judgements(settings.score_cache_entries)
        room = partial(room_of, batcher, max_in_flight=settings.max_in_flight, drain_timeout_s=settings.drain_timeout_s)
        self._in_flight = InFlight(room)
        self.depths = self._in_flight.depths
        self.fatal: asyncio.Future[StreamerError] = asyncio.get_running_loop().create_future()

    # -- the way of an event

    async def admit(self, incoming: Incoming) -> None:
        """Wait for room, then start the event on its way. Call in the order of the partition, one at a time."""
        await self._in_flight.wait_for_room(incoming.size)
        passage, refused = self._parse(incoming)
        task = self._in_flight.begin(self._traced(passage, refused), incoming.size)
        if passage.turn is not None:
            passage.turn.task = task

    def _parse(self, incoming: Incoming) -> tuple[Passage, RejectedEvent | None]:
        started = time.perf_counter()
        passage = Passage(incoming, self._telemetry, origin_of(incoming.headers, incoming.position))
        try:
            with reading(incoming.position):
                update = passage.update = parse_update(incoming.key, incoming.value)
                unordered = update.deleted and update.version is None and update.updated_at is None
                order = None if unordered else update.order
        except RejectedEvent as error:
            return passage, error
        finally:
            self._telemetry.stage("parse", time.perf_counter() - started)
        place = passage.origin or incoming.position
        passage.turn = Turn(order, place, replayed=passage.origin is not None, deletes=update.deleted)
        self._succession.enter(update.id, passage.turn)
        return passage, None

    async def _traced(self, passage: Passage, refused: RejectedEvent | None) -> None:
        came = passage.incoming
        with self._tracing.processing(came.position, came.headers, key=came.key, value=came.value) as passage.span:
            await self._travel(passage, refused)

    async def _travel(self, passage: Passage, refused: RejectedEvent | None) -> None:
        incoming, update, turn = passage.incoming, passage.update, passage.turn
        record: ProductScore | DeadLetter
        settled = False
        try:
            if update is None or turn is None or refused is not None:
                assert refused is not None
                record = passage.dead_letter(refused, release=self.serving.release)
            else:
                record = await self._outcome(passage, update, turn)
                settled = isinstance(record, ProductScore) and record.outcome != "superseded"
                await turn.comes()
            await self._emit(passage, record)
        except LEAVING:
            raise
        except BaseException as error:  # noqa: BLE001 - nothing may leave unseen: the worker stops and commits nothing
            self._stop(error)
            return
        finally:
            if update is not None and turn is not None:
                self._succession.leave(update.id, turn, settled=settled)
        incoming.acknowledge()
        passage.account(record)

    async def _outcome(self, passage: Passage, update: ProductUpdate, turn: Turn) -> ProductScore | DeadLetter:
        """Return the record that the event ends in: the one place where an error becomes an outcome."""
        try:
            if turn.must_wait:
                await turn.comes()
                self._succession.judge(update.id, turn)
            if turn.superseded:
                return passage.score("superseded")
            if turn.deletes:
                return passage.score("deleted")
            turn.work = work = asyncio.create_task(self._score(passage, update, turn))
            return await work
        except (RejectedEvent, TransientError, EngineError) as error:
            return passage.dead_letter(error, release=self.serving.release)
        except asyncio.CancelledError:
            if turn.superseded and turn.work is not None and turn.work.cancelled():
                return passage.score("superseded")
            if turn.work is not None:
                turn.work.cancel()
            raise
        finally:
            turn.work = None  # its error's traceback holds frames, and those this turn

    async def _score(self, passage: Passage, update: ProductUpdate, turn: Turn) -> ProductScore:
        url = update.image_link
        if not url:
            raise RejectedEvent("image_missing", "the update has no `image_link`")
        with self.serving.in_use() as serving:
            passage.serving = serving
            return await self._score_with(serving, passage, update, turn, url)

    async def _score_with(
        self, serving: Serving, passage: Passage, update: ProductUpdate, turn: Turn, url: str
    ) -> ProductScore:
        with reading(passage.incoming.position):
            said = serving.read(update)
        prepared = await self._prepare(serving, passage, update, url, said)
        with contextlib.closing(prepared.picture) if prepared.picture else contextlib.nullcontext():
            return await self._conclude(serving, passage, update, turn, said, prepared)

    async def _prepare(
        self, serving: Serving, passage: Passage, update: ProductUpdate, url: str, said: Said
    ) -> _Prepared:
        """Fetch the picture, or learn that it has not changed, and make the pair ready for the engine."""
        shown = self._judgements.shown(url)
        known = None if shown is None else self._judgements.known(shown.image_sha256, said.sha256, serving.model)
        if shown and known and self._keeper is not None and self._keeper.lacks(shown.image_sha256):
            alerts = serving.probability(known.logit) >= serving.threshold(update)
            known = None if alerts else known  # evidence needs the bytes
        started = time.perf_counter()
        with self._in_flight.inside("fetch"):
            fetched = await self._fetcher.get(url, shown.validator if shown and known else None)
        passage.clock("fetch", time.perf_counter() - started)
        if isinstance(fetched, NotModified):
            assert shown is not None
            return _Prepared(shown.image_sha256, judgement=known)
        try:
            with self._in_flight.inside("preprocess"):
                prepared = await self._make_ready(serving, passage, update.id, fetched, said)
        finally:
            fetched.release()
        self._judgements.shows(url, fetched.validator, prepared.image_sha256)
        return prepared

    async def _make_ready(
        self, serving: Serving, passage: Passage, product_id: str, fetched: Fetched, said: Said
    ) -> _Prepared:
        """Decode and tokenise, unless this picture was scored with this text before."""
        judgement = self._judgements.known(fetched.sha256, said.sha256, serving.model)
        pair = features = None
        started = time.perf_counter()
        if judgement is None:
            pixels = await serving.decode(fetched.body)
            decoded = time.perf_counter()
            passage.clock("decode", decoded - started)
            with reading(passage.incoming.position):
                pair = serving.pair(pixels, said)
                features = serving.features(pair)
            passage.clock("tokenise", time.perf_counter() - decoded)
        picture = await self._hold(product_id, fetched.body)  # last: a picture that is refused is not held
        return _Prepared(fetched.sha256, pair, judgement, features, picture)

    async def _hold(self, product_id: str, body: bytes) -> IO[bytes] | None:
        """Put the picture where it costs little until its score is there, if somebody needs it then."""
        if self._keeper is None and not (self._shadow is not None and self._shadow.wants(product_id)):
            return None
        return await asyncio.get_running_loop().run_in_executor(self._executor, hold, body)

    async def _conclude(  # noqa: PLR0917 - all that is known of the event by now
        self,
        serving: Serving,
        passage: Passage,
        update: ProductUpdate,
        turn: Turn,
        said: Said,
        prepared: _Prepared,
    ) -> ProductScore:
        turn.ready()
        await turn.comes()
        self._succession.judge(update.id, turn)
        if turn.superseded:
            return passage.score("superseded")
        judgement = prepared.judgement or self._judgements.known(prepared.image_sha256, said.sha256, serving.model)
        outcome: RecordedOutcome = "unchanged"
        if judgement is None:
            assert prepared.pair is not None
            passage.features = prepared.features
            outcome, judgement = "scored", await self._judge(serving, passage, update, said, prepared.pair)
            self._judgements.remember(prepared.image_sha256, said.sha256, serving.model, judgement)
        record = passage.score(outcome, prepared.image_sha256, said.sha256, judgement)
        if self._keeper is not None:
            started = time.perf_counter()
            await self._keeper.keep(record, update, said.text, judgement.logit, prepared.picture)
            passage.clock("keep", time.perf_counter() - started)
        if self._shadow is not None and outcome == "scored" and prepared.picture is not None:
            self._shadow.offer(record, update, prepared.picture)
        return record

    async def _judge(
        self, serving: Serving, passage: Passage, update: ProductUpdate, said: Said, pair: Pair
    ) -> Judgement:
        """Return what the engine says and, where that calls for an alert, which claims of the text it is about."""
        scored = await serving.lane.logit(pair)
        passage.clock("queue", scored.waited_s, ended_s_ago=scored.infer_s)
        passage.clock("engine", scored.infer_s)
        threshold, explainer = serving.threshold(update), serving.explainer
        explainer.count_scored()
        if serving.probability(scored.logit) < threshold or self.hurried or not explainer.takes_on():
            return Judgement(scored.logit, ())
        started = time.perf_counter()
        contradicts = await explainer.contradictions(
            said.text, pair, scored.logit, lambda logit: serving.probability(logit) >= threshold
        )
        passage.clock("explain", time.perf_counter() - started)
        return Judgement(scored.logit, contradicts)

    async def _emit(self, passage: Passage, record: ProductScore | DeadLetter) -> None:
        started = time.perf_counter()
        if isinstance(record, DeadLetter):
            await self._publish(self._topics.dead_letters, *letter_record(passage.incoming, record))
        else:
            await self._publish(self._topics.scores, record.product_id.encode(), encode(record))
        passage.clock("publish", time.perf_counter() - started)

    # -- life

    @property
    def in_flight(self) -> int:
        """How many admitted events have no outcome yet."""
        return len(self._in_flight)

    def swap(self, serving: Serving) -> Serving:
        """Let another release judge what comes from now on; return the one that has judged so far.

        Events that are on their way go it to the end with the release that they began with.
        """
        before, self.serving = self.serving, serving
        self._batcher.swap(serving.lane)
        return before

    async def drain(self) -> None:
        """Return when nothing is in flight."""
        self.hurried = True
        await self._in_flight.drain()

    async def abandon(self) -> None:
        """Give up what is in flight: no outcome, no acknowledgement; another worker will be given these events."""
        await self._in_flight.abandon()

    def _stop(self, error: BaseException) -> None:
        log.error("pipeline.failed", error=repr(error), exc_info=error)
        if not self.fatal.done():
            wrapped = FatalError("pipeline_failed", f"{type(error).__name__}: {error}")
            self.fatal.set_result(error if isinstance(error, FatalError) else wrapped)
