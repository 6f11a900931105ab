"""Composition root of the scoring worker: settings → engine, fetcher, pipeline → a Faust app with two agents.

    product-updates ─► [score] ─► product-scores ─► [alert] ─► mismatch-alerts
                          └──────► dead-letters ◄──────┘ ▲
                                                         └─ alert-redecisions

`score` holds many events in flight; `alert` takes one at a time and keeps one table entry per product. Both
acknowledge by hand, after the broker has what the event led to. An error that no outcome covers stops the worker
without committing: another worker, or its next start, is given the event again.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from engines.store import ReleaseStore
from streamer import application, rotation, topics, tracing
from streamer.alert_agent import AlertAgent
from streamer.announcements import open_announcements
from streamer.answers import MAX_WAIT_S
from streamer.batch import Batcher
from streamer.errors import FatalError
from streamer.fetch import Fetcher
from streamer.incoming import incoming_of
from streamer.keeping import Keeper, keeper_of
from streamer.leaving import LEAVE_S, end_within
from streamer.outbox import Outbox
from streamer.pipeline import Pipeline
from streamer.redecision import Redecider
from streamer.reload import Reloader
from streamer.rotation import Rotation
from streamer.secrecy import keep_to_itself
from streamer.shadow import Shadow
from streamer.telemetry import HealthServer, Liveness, Telemetry, configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    from engines.contract import Engine
    from streamer.application import WorkerApp
    from streamer.policy import Policy
    from streamer.reload import Loaded
    from streamer.settings import Settings
    from streamer.topics import TopicState
    from streamer.tracing import Tracing

log = structlog.get_logger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""How long Python lets the event loop keep the interpreter while the engine's thread wants it. The default of 5 ms is
5 % of a batch of 100 ms, spent by the engine waiting."""

_THREADS = 2  # for what would hold up the event loop: finding claims to explain, holding pictures
SHADOW_LEAVES_WITHIN_S = 1.0
"""For a challenger when its worker leaves; one that hangs ends with the process."""


def stalled_after_s(settings: Settings) -> float:
    """Return how long a partition may stand still: longer than the slowest event may take, however hostile the others.

    Each of its tries waits until all in flight have had a place, one after the other to their timeouts; then it waits
    until all in flight were decoded, each to its limit of CPU time. An engine that hangs has a deadline of its own.
    """
    fetch, pipeline = settings.fetch, settings.pipeline
    turns = ceil(pipeline.max_in_flight / fetch.concurrency)
    fetched_s = fetch.attempts * (turns * fetch.timeout_s + MAX_WAIT_S)
    return fetched_s + pipeline.max_in_flight * pipeline.decode_cpu_s / pipeline.decoders


def run(settings: Settings, *, engine: Engine | None = None) -> int:
    """Score until SIGTERM or SIGINT; return the process's exit code, or end the process when it cannot leave.

    Args:
        settings: of this worker.
        engine: runs instead of the release's own.

    Raises:
        FatalError: the worker cannot do its work; nothing was committed that has no outcome.
    """
    keep_to_itself()
    traced = tracing.start(group=settings.broker.group) if settings.telemetry.tracing else tracing.OFF
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format, traced)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Scorer(settings, engine=engine, tracing=traced, leaving=end_within).run())


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
        self._shadow: Shadow | None = None
        self._alert_agent: AlertAgent
        self._redecider: Redecider
        self._stopping = asyncio.Event()
        self._liveness = Liveness(stalled_after_s(settings))

    async def run(self) -> int:
        """Start, serve until told to stop, drain, stop."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
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
        scores = await self._scores()
        self._outbox = await stack.enter_async_context(Outbox(settings.broker, tracing=self._tracing))
        # Alerts go one at a time, each waited for: gathering others meanwhile would only delay it.
        self._alerts = await stack.enter_async_context(Outbox(settings.broker, linger_ms=0, tracing=self._tracing))
        executor = stack.enter_context(ThreadPoolExecutor(_THREADS, "beside"))
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
        serving = await self._rotation.begin(loaded, self._batcher)
        fetcher = await stack.enter_async_context(Fetcher(settings.fetch, failed=self.telemetry.fetch_failed))
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
            shadow=self._shadow,
            tracing=self._tracing,
        )
        self._app = application.create(settings)
        self._app.ordered.hurry = self._hurry
        stack.push_async_callback(self._app.stop)
        self._add_agents(scores)
        self._start_tasks(stack)
        await self._serve_health(stack)

    async def _first_release(self, stack: AsyncExitStack) -> Loaded:
        """Return what runs first: what is announced where releases are followed, else what the settings name."""
        settings = self._settings
        if settings.releases.store is not None:
            announced = await stack.enter_async_context(open_announcements(settings.broker, settings.topics.releases))
            self._shadow = Shadow(
                publish=self._outbox.send,
                topic=settings.topics.shadow_scores,
                ready=partial(rotation.challenger, settings),
                telemetry=self.telemetry,
            )
            stack.push_async_callback(self._shadow.end, within_s=SHADOW_LEAVES_WITHIN_S)
            self._reloader = Reloader(
                announced=announced,
                store=await asyncio.to_thread(ReleaseStore, settings.releases.store),
                load=partial(rotation.load, settings),
                adopt=self._adopt,
                report=self.telemetry,
                scratch=settings.state.directory,
                retry_s=settings.releases.retry_s,
                shadow=self._shadow,
                load_challenger=partial(rotation.load_challenger, settings),
                admit=partial(rotation.admit, settings),
            )
            stack.callback(self._reloader.close)
            loaded = await self._reloader.first(rotation.configured_release(settings, self._given_engine))
            if loaded is not None:
                return loaded
        return rotation.load_configured(settings, self._given_engine)

    async def _adopt(self, loaded: Loaded) -> None:
        await self._rotation.adopt(loaded, self._pipeline, self._batcher)
        self._redecider.look()

    async def _scores(self) -> TopicState:
        """Return how product-scores is kept; the state is partitioned alike, and its changelog has as many copies."""
        names = self._settings.topics
        async with topics.admin(self._settings.broker) as client:
            existing = await topics.describe(client)
        needed = [spec.name for spec in topics.stream_specs(names)]
        needed += [names.shadow_scores] * (self._settings.releases.store is not None)
        needed += [names.reviews] * bool(self._settings.evidence.store and self._settings.evidence.audit_share)
        missing = [name for name in needed if name not in existing]
        if missing:
            raise FatalError("topics_missing", f"no {', '.join(missing)} on the broker: run `streamer topics create`")
        scores = existing[names.scores]
        count, redecisions = scores.partitions, existing[names.redecisions].partitions
        if count != redecisions:
            raise FatalError(
                "topics_differ",
                f"{names.scores} has {count} partitions, {names.redecisions} has {redecisions}: one worker must own a "
                f"product in both; delete {names.redecisions} and run `streamer topics create --partitions {count}`",
            )
        return scores

    def _add_agents(self, scores: TopicState) -> None:
        app, names = self._app, self._settings.topics
        raw: dict[str, Any] = {
            "key_type": bytes,
            "value_type": bytes,
            "key_serializer": "raw",
            "value_serializer": "raw",
        }
        table = application.state_table(app, scores)
        self._redecider = Redecider(
            table=table,
            policy=self._policy,
            publish=self._outbox.send,
            topic=names.redecisions,
            on_disk=self._settings.state.store == "rocksdb",
        )
        self._alert_agent = AlertAgent(
            table=table,
            policy=self._policy,
            settings=self._settings,
            publish_alert=self._alerts.send,
            publish=self._outbox.send,
            keeper=self._keeper,
            telemetry=self.telemetry,
            tracing=self._tracing,
        )
        app.agent(app.topic(names.updates, **raw), name="score")(self._score)
        app.agent(app.topic(names.scores, names.redecisions, **raw), name="alert")(self._alert_agent.run)

    def _policy(self) -> Policy:
        return self._pipeline.serving.policy

    def _start_tasks(self, stack: AsyncExitStack) -> None:
        self._app.assigned = self._redecider.look
        redeciding = asyncio.create_task(self._redecider.run())
        stack.callback(redeciding.cancel)
        if self._reloader is not None:
            self._following = asyncio.create_task(self._reloader.follow())
            stack.callback(self._following.cancel)

    async def _serve_health(self, stack: AsyncExitStack) -> None:
        telemetry = self._settings.telemetry
        self.telemetry.watch_depth("in_flight", lambda: self._pipeline.in_flight)
        for stage in self._pipeline.depths:
            self.telemetry.watch_depth(stage, partial(self._pipeline.depths.__getitem__, stage))
        self.telemetry.watch_depth("engine", lambda: self._batcher.waiting)
        names = self._settings.topics
        for topic in (names.updates, names.scores, names.redecisions):
            self.telemetry.watch_lag(topic, partial(self._lag, topic))
        if telemetry.port:
            health = HealthServer(self.telemetry, alive=self._alive, ready=self._ready)
            await health.start(telemetry.host, telemetry.port)
            stack.push_async_callback(health.stop)

    async def _score(self, stream: Any) -> None:  # noqa: ANN401 - Faust's stream
        async for event in stream.noack().events():
            await self._pipeline.admit(incoming_of(event))

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
        failures = (self._alert_agent.fatal, self._pipeline.fatal, self._batcher.fatal)
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

    def _alive(self) -> tuple[bool, str]:
        return self._liveness.judge(self._app.ordered.progress(), time.monotonic())

    def _lag(self, topic: str) -> int:
        progress = self._app.ordered.progress()
        return sum(max(0, end - committed) for tp, (committed, end) in progress.items() if tp.topic == topic)

    def _ready(self) -> tuple[bool, str]:
        return (True, "ready") if self._app.recovered else (False, "waiting for partitions")
