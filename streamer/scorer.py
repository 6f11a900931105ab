"""Composition root of the scoring worker: settings → engine, fetcher, pipeline → a Faust app with two agents.

    product-updates ─► [score] ─► product-scores ─► [alert] ─► mismatch-alerts
                          └──────► dead-letters ◄──────┘

`score` holds many events in flight; `alert` takes one at a time and keeps one table entry per product. Both
acknowledge by hand, after the broker has what the event led to. An error that no outcome covers stops the worker
without committing: another worker, or its next start, is given the event again.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from engines.store import ReleaseStore
from streamer import alert as alerting
from streamer import application, events, records, rotation, topics, tracing
from streamer.announcements import open_announcements
from streamer.batch import Batcher
from streamer.errors import FatalError, RejectedEvent, StreamerError
from streamer.fetch import Fetcher
from streamer.incoming import Incoming, dead_letter
from streamer.keeping import Keeper, keeper_of
from streamer.outbox import Outbox
from streamer.pipeline import Pipeline
from streamer.reload import Reloader
from streamer.rotation import Rotation
from streamer.telemetry import HealthServer, Liveness, Telemetry, configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    from engines.contract import Engine
    from streamer.application import WorkerApp
    from streamer.reload import Loaded
    from streamer.settings import Settings
    from streamer.tracing import Tracing

log = structlog.get_logger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""How long Python lets the event loop keep the interpreter while the engine's thread wants it. The default of 5 ms is
5 % of a batch of 100 ms, spent by the engine waiting."""

LEAVE_S = 5.0
"""For a worker that has drained, or failed, to close what it holds and leave its group."""

EXIT_HUNG = 3

STALLED_AFTER_S = 120.0
"""Longer than the slowest event may take: every try of a fetch at its timeout, and its pauses."""


def run(settings: Settings, *, engine: Engine | None = None) -> int:
    """Score until SIGTERM or SIGINT; return the process's exit code, or end the process when it cannot leave.

    Args:
        settings: of this worker.
        engine: runs instead of the release's own.

    Raises:
        FatalError: the worker cannot do its work; nothing was committed that has no outcome.
    """
    traced = tracing.start(group=settings.broker.group) if settings.telemetry.tracing else tracing.OFF
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format, traced)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Scorer(settings, engine=engine, tracing=traced, leaving=_end_within).run())


class Scorer:
    """One scoring worker, from start to drained stop.

    Args:
        settings: of this worker.
        engine: runs instead of the release's own; benchmarks simulate an accelerator with it.
        tracing: is told what becomes of each record.
        leaving: is told, when the worker begins to leave, within how many seconds it must have left.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        engine: Engine | None = None,
        tracing: Tracing = tracing.OFF,
        leaving: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._leaving = leaving
        self._tracing = tracing
        self._given_engine = engine
        self.telemetry = Telemetry()
        self._app: WorkerApp
        self._outbox: Outbox
        self._alerts: Outbox
        self._pipeline: Pipeline
        self._batcher: Batcher
        self._rotation: Rotation
        self._reloader: Reloader | None = None
        self._following: asyncio.Task[None] | None = None
        self._keeper: Keeper | None = None
        self._state: Any  # the alert agent's Faust table
        self._fatal: asyncio.Future[StreamerError]
        self._stopping = asyncio.Event()
        self._liveness = Liveness(STALLED_AFTER_S)

    async def run(self) -> int:
        """Start, serve until told to stop, drain, stop."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._fatal = asyncio.get_running_loop().create_future()
        async with AsyncExitStack() as stack:
            await self._build(stack)
            self._on_signals()
            await self._app.start()
            await self._serve()
            await self._drain()
        return 0

    # -- parts

    async def _build(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        stack.callback(self._tracing.close)
        partitions = await self._partitions()
        executor = stack.enter_context(ThreadPoolExecutor(settings.pipeline.preprocess_threads, "preprocess"))
        self._rotation = Rotation(settings, executor, self.telemetry)
        stack.push_async_callback(self._rotation.close)
        loaded = await self._first_release(stack)
        self._batcher = Batcher(
            loaded.engine,
            max_batch=rotation.max_batch(settings, loaded.engine),
            report=self.telemetry.batch,
            deadline_s=settings.engine.deadline_s,
        )
        stack.push_async_callback(self._batcher.close)
        serving = self._rotation.begin(loaded, self._batcher)
        fetcher = await stack.enter_async_context(Fetcher(settings.fetch, failed=self.telemetry.fetch_failed))
        self._outbox = await stack.enter_async_context(Outbox(settings.broker, tracing=self._tracing))
        # Alerts go one at a time, each waited for: gathering others meanwhile would only delay it.
        self._alerts = await stack.enter_async_context(Outbox(settings.broker, linger_ms=0, tracing=self._tracing))
        self._keeper = keeper_of(
            settings.evidence,
            publish=self._outbox.send,
            reviews=settings.topics.reviews,
            executor=stack.enter_context(ThreadPoolExecutor(settings.evidence.threads, "evidence")),
            telemetry=self.telemetry,
        )
        self._pipeline = Pipeline(
            fetcher=fetcher,
            serving=serving,
            batcher=self._batcher,
            executor=executor,
            publish=self._outbox.send,
            topics=settings.topics,
            settings=settings.pipeline,
            telemetry=self.telemetry,
            keeper=self._keeper,
            tracing=self._tracing,
        )
        if self._reloader is not None:
            self._following = asyncio.create_task(self._reloader.follow())
            stack.callback(self._following.cancel)
        records.read_any_header_name()
        self._app = application.create(settings)
        self._app.ordered.hurry = self._hurry
        stack.push_async_callback(self._app.stop)
        self._add_agents(partitions)
        await self._serve_health(stack)

    async def _first_release(self, stack: AsyncExitStack) -> Loaded:
        """Return what runs first: what is announced where releases are followed, else what the settings name."""
        settings = self._settings
        if settings.releases.store is not None:
            announced = await stack.enter_async_context(open_announcements(settings.broker, settings.topics.releases))
            self._reloader = Reloader(
                announced=announced,
                store=await asyncio.to_thread(ReleaseStore, settings.releases.store),
                load=partial(rotation.load, settings),
                adopt=self._adopt,
                report=self.telemetry,
                scratch=settings.state.directory,
                retry_s=settings.releases.retry_s,
            )
            stack.callback(self._reloader.close)
            loaded = await self._reloader.first(rotation.configured_release(settings, self._given_engine))
            if loaded is not None:
                return loaded
        return rotation.load_configured(settings, self._given_engine)

    async def _adopt(self, loaded: Loaded) -> None:
        await self._rotation.adopt(loaded, self._pipeline, self._batcher)

    async def _partitions(self) -> int:
        """Return how many partitions product-scores has; the state is partitioned alike."""
        names = self._settings.topics
        async with topics.admin(self._settings.broker) as client:
            existing = await topics.describe(client)
        needed = [spec.name for spec in topics.stream_specs(names)]
        needed += [names.reviews] * bool(self._settings.evidence.store and self._settings.evidence.audit_share)
        missing = [name for name in needed if name not in existing]
        if missing:
            raise FatalError("topics_missing", f"no {', '.join(missing)} on the broker: run `streamer topics create`")
        return existing[names.scores].partitions

    def _add_agents(self, partitions: int) -> None:
        app, names = self._app, self._settings.topics
        raw: dict[str, Any] = {
            "key_type": bytes,
            "value_type": bytes,
            "key_serializer": "raw",
            "value_serializer": "raw",
        }
        self._state = app.Table(
            "alert-state", partitions=partitions, key_type=str, extra_topic_configs=topics.STAMPED_BY_THE_BROKER
        )
        app.agent(app.topic(names.updates, **raw), name="score")(self._score)
        app.agent(app.topic(names.scores, **raw), name="alert")(self._alert)

    async def _serve_health(self, stack: AsyncExitStack) -> None:
        telemetry = self._settings.telemetry
        self.telemetry.watch_depth("in_flight", lambda: self._pipeline.in_flight)
        for stage in self._pipeline.depths:
            self.telemetry.watch_depth(stage, partial(self._pipeline.depths.__getitem__, stage))
        self.telemetry.watch_depth("engine", lambda: self._batcher.waiting)
        for topic in (self._settings.topics.updates, self._settings.topics.scores):
            self.telemetry.watch_lag(topic, partial(self._lag, topic))
        if telemetry.port:
            health = HealthServer(self.telemetry, alive=self._alive, ready=self._ready)
            await health.start(telemetry.host, telemetry.port)
            stack.push_async_callback(health.stop)

    # -- the two agents

    async def _score(self, stream: Any) -> None:  # noqa: ANN401 - Faust's stream
        async for event in stream.noack().events():
            await self._pipeline.admit(_incoming(event))

    async def _alert(self, stream: Any) -> None:  # noqa: ANN401 - Faust's stream
        async for event in stream.noack().events():
            try:
                change = await self._traced(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, the worker stops
                self._fail(error)
                return  # raised, it would crash Faust, which then leaves its consumer running
            if change is None:
                event.ack()
            else:
                change.add_done_callback(partial(self._acknowledge, event))

    async def _traced(self, event: Any) -> asyncio.Future[Any] | None:  # noqa: ANN401 - Faust's event
        if self._tracing is tracing.OFF:
            return await self._decide(event)
        came = _incoming(event)
        with self._tracing.processing(came.position, came.headers, key=came.key, value=came.value):
            return await self._decide(event)

    def _acknowledge(self, event: Any, change: asyncio.Future[Any]) -> None:  # noqa: ANN401 - Faust's event
        """Acknowledge an event whose change of state the broker has; a change that it refused stops the worker."""
        if change.cancelled():
            return
        error = change.exception()
        if error is None:
            event.ack()
        else:
            self._fail(FatalError("state_not_written", f"the changelog did not take a change: {error!r}"))

    async def _decide(self, event: Any) -> asyncio.Future[Any] | None:  # noqa: ANN401 - Faust's event
        """Publish what the score changes, then write the state: a crash in between repeats the alert, same id.

        Returns the delivery of the state's change, None when nothing has changed.
        """
        try:
            score = events.parse_score(event.value)
        except RejectedEvent as error:
            await self._reject(_incoming(event), error)
            return None
        state = alerting.from_table(self._state.get(score.product_id))
        source = f"/{self._settings.broker.group}"
        next_state, alert = alerting.decide(state, score, source=source)
        if alert is not None:
            if self._keeper is not None and alert.data.reason == "mismatch":
                await self._keeper.point(alert)
            topic, key, value = self._settings.topics.alerts, score.product_id.encode(), events.encode(alert)
            await self._alerts.send(topic, key, value, [events.CLOUD_EVENT])
            self.telemetry.alert(alert.type.rpartition(".")[2])
            log.info(
                alert.type, product_id=score.product_id, alert_id=alert.data.alert_id, probability=score.probability
            )
        if next_state is not None and (next_state != state or alerting.stems_from(next_state, score)):
            return self._remember(score.product_id, next_state)
        return None

    def _remember(self, product_id: str, state: alerting.AlertState) -> asyncio.Future[Any]:
        """Write the state; return the delivery of its record in the changelog.

        Raises:
            FatalError: state_not_written. The next start rebuilds the state from its changelog.
        """
        try:
            self._state[product_id] = alerting.to_table(state)
        except Exception as error:  # the stores' errors have no common base
            directory = self._settings.state.directory
            raise FatalError(
                "state_not_written", f"is the disk of {directory} full? The store says: {error}"
            ) from error
        change: asyncio.Future[Any] = self._state.last_change
        return change

    async def _reject(self, incoming: Incoming, error: RejectedEvent) -> None:
        """Send a record of product-scores that no scorer wrote to the dead letters."""
        log.warning("event.rejected", reason=error.code, message=str(error), source=incoming.position)
        await self._outbox.send(
            self._settings.topics.dead_letters, incoming.key, events.encode(dead_letter(incoming, error))
        )

    # -- life

    def _hurry(self, hurried: bool) -> None:
        self._pipeline.hurried = hurried or self._stopping.is_set()

    def stop(self) -> None:
        """Ask the worker to drain and stop; `run` then returns."""
        self._leaving(self._settings.pipeline.drain_timeout_s + LEAVE_S)
        self._stopping.set()

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    async def _serve(self) -> None:
        """Return when told to stop.

        Raises:
            StreamerError: a part has failed.
        """
        told = asyncio.ensure_future(self._stopping.wait())
        crashed = asyncio.ensure_future(self._app.wait_crashed())
        failures = (self._fatal, self._pipeline.fatal, self._batcher.fatal)
        waiters: set[asyncio.Future[Any]] = {told, crashed, *failures}
        if self._following is not None:
            waiters.add(self._following)
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        reasons = [failure.result() for failure in failures if failure.done()]
        if crashed.done():
            reasons.append(FatalError("consumer_crashed", f"Faust stopped: {crashed.result()!r}"))
        if self._following is not None and self._following.done():
            reasons.append(FatalError("releases_not_followed", f"the reloader ended: {self._following.exception()!r}"))
        for waiter in (told, crashed):
            waiter.cancel()
        if reasons:
            self._leaving(LEAVE_S)
            await self._pipeline.abandon()
            self._app.ordered.drain_timeout_s = 0.0  # nobody is left who would finish what is in flight
            raise reasons[0]

    async def _drain(self) -> None:
        """Stop consuming, finish what is in flight within the deadline; Faust's own stop then commits."""
        consumer = self._app.ordered
        log.info("worker.draining", in_flight=self._pipeline.in_flight)
        started = time.monotonic()
        consumer.quiesce()
        try:
            await asyncio.wait_for(self._pipeline.drain(), self._settings.pipeline.drain_timeout_s)
        except TimeoutError:
            log.warning("worker.drain_timed_out", abandoned=self._pipeline.in_flight)
            await self._pipeline.abandon()
        await consumer.commit()
        consumer.drain_timeout_s = 0.0  # Faust's own stop has nothing left to wait for
        log.info("worker.drained", seconds=round(time.monotonic() - started, 3))

    def _fail(self, error: Exception) -> None:
        log.error("worker.failed", error=repr(error), exc_info=error)
        if not self._fatal.done():
            wrapped = FatalError("alert_agent_failed", f"{type(error).__name__}: {error}")
            self._fatal.set_result(error if isinstance(error, FatalError) else wrapped)

    def _alive(self) -> tuple[bool, str]:
        return self._liveness.judge(self._app.ordered.progress(), time.monotonic())

    def _lag(self, topic: str) -> int:
        progress = self._app.ordered.progress()
        return sum(max(0, end - committed) for tp, (committed, end) in progress.items() if tp.topic == topic)

    def _ready(self) -> tuple[bool, str]:
        return (True, "ready") if self._app.recovered else (False, "waiting for partitions")


def _end_within(seconds: float) -> None:
    """End the process, come what may, that many seconds from now.

    While a worker that is leaving hangs, its group waits for it: in an engine that does not answer, in a Faust that
    waits for what has crashed, on a broker that is away. What it has not committed by then is another's to do.
    """

    def end() -> None:
        log.error("worker.hung", seconds=seconds)
        faulthandler.dump_traceback()
        os._exit(EXIT_HUNG)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _incoming(event: Any) -> Incoming:  # noqa: ANN401 - Faust's event
    message = event.message
    return Incoming(
        key=message.key,
        value=message.value,
        headers=list(message.headers or ()),
        position=events.SourcePosition(topic=message.topic, partition=message.partition, offset=message.offset),
        published_at=events.claimed_time(message.timestamp),
        acknowledge=event.ack,
    )
