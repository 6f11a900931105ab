"""Composition root of the scoring worker: settings → engine, fetcher, pipeline → a Faust app with two agents.

    product-updates ─► [score] ─► product-scores ─► [alert] ─► mismatch-alerts
                          └──────► dead-letters ◄──────┘

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
from typing import TYPE_CHECKING, Any, cast

import faust
import structlog
import uvloop
from faust.tables.manager import TableManager

from engines.errors import EngineError
from engines.runtime import loader
from streamer import alert as alerting
from streamer import events, records, topics
from streamer.batch import Batcher
from streamer.decoding import DecoderPool
from streamer.errors import FatalError, RejectedEvent, StreamerError
from streamer.fetch import Fetcher
from streamer.incoming import Incoming, dead_letter
from streamer.outbox import Outbox
from streamer.pipeline import Pipeline
from streamer.telemetry import HealthServer, Telemetry, configure_logging
from streamer.transport import OrderedTransport

if TYPE_CHECKING:
    from engines.contract import Engine, ImageSpec
    from streamer.settings import BrokerSettings, Settings
    from streamer.transport import OrderedConsumer

log = structlog.get_logger(__name__)

REBALANCE_MARGIN_S = 30.0
"""A rebalance waits for every member's drain; this much more, for members that are slow to answer."""

SWITCH_INTERVAL_S = 0.0005
"""How long Python lets the event loop keep the interpreter while the engine's thread wants it. The default of 5 ms is
5 % of a batch of 100 ms, spent by the engine waiting."""

STALLED_AFTER_S = 120.0
"""Longer than the slowest event may take: every try of a fetch at its timeout, and its pauses."""


class _Tables(TableManager):  # type: ignore[misc] # Faust is untyped to mypy
    """Faust's table manager without the second it waits for tables to be declared: ours are, before the app starts."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class _Table(faust.Table):  # type: ignore[misc] # Faust is untyped to mypy
    """Faust's table that tells which record of its changelog holds the change just made."""

    last_change: asyncio.Future[Any]

    def send_changelog(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Faust's signature
        self.last_change = super().send_changelog(*args, **kwargs)
        return self.last_change


class ScorerApp(faust.App):  # type: ignore[misc] # Faust is untyped to mypy
    """A Faust app whose consumer loses nothing (see `streamer.transport`)."""

    def _new_transport(self) -> OrderedTransport:
        return OrderedTransport(self.conf.broker_consumer, self)

    @property
    def ordered(self) -> OrderedConsumer:
        """The app's consumer, as the type it is."""
        return cast("OrderedConsumer", self.consumer)

    @property
    def recovered(self) -> bool:
        """Whether partitions are assigned and their state is here."""
        recovery: Any = self.tables.recovery  # pyright: ignore[reportAttributeAccessIssue]
        return not self.rebalancing and bool(recovery.completed.is_set())

    async def wait_crashed(self) -> BaseException | None:
        """Return when a part of Faust has failed, with what it failed of."""
        await self._crashed.wait()
        reason: BaseException | None = self._crash_reason
        return reason


def run(settings: Settings) -> int:
    """Score until SIGTERM or SIGINT; return the process's exit code.

    Raises:
        FatalError: the worker cannot do its work; nothing was committed that has no outcome.
    """
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Scorer(settings).run())


class Scorer:
    """One scoring worker, from start to drained stop.

    Args:
        settings: of this worker.
        engine: runs instead of the release's own; benchmarks simulate an accelerator with it.
    """

    def __init__(self, settings: Settings, *, engine: Engine | None = None) -> None:
        self._settings = settings
        self._given_engine = engine
        self.telemetry = Telemetry()
        self._app: ScorerApp
        self._outbox: Outbox
        self._alerts: Outbox
        self._pipeline: Pipeline
        self._batcher: Batcher
        self._state: Any  # the alert agent's Faust table
        self._fatal: asyncio.Future[StreamerError]
        self._stopping = asyncio.Event()
        self._committed: dict[Any, int] = {}
        self._moved_at = time.monotonic()

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
        partitions = await self._partitions()
        engine = self._given_engine or _load_engine(settings)
        stack.callback(engine.close)
        self.telemetry.engine(engine)
        max_batch = min(settings.engine.max_batch or engine.manifest.max_batch, engine.manifest.max_batch)
        self._batcher = Batcher(engine, max_batch=max_batch, report=self.telemetry.batch)
        stack.push_async_callback(self._batcher.close)
        executor = stack.enter_context(ThreadPoolExecutor(settings.pipeline.preprocess_threads, "preprocess"))
        decoders = stack.enter_context(_decoders(settings, engine.manifest.image))
        fetcher = await stack.enter_async_context(Fetcher(settings.fetch))
        self._outbox = await stack.enter_async_context(Outbox(settings.broker))
        # Alerts go one at a time, each waited for: gathering others meanwhile would only delay it.
        self._alerts = await stack.enter_async_context(Outbox(settings.broker, linger_ms=0))
        self._pipeline = Pipeline(
            fetcher=fetcher,
            tokenizer=loader.load_tokenizer(settings.engine.release),
            manifest=engine.manifest,
            batcher=self._batcher,
            executor=executor,
            decode=decoders.decode,
            publish=self._outbox.send,
            topics=settings.topics,
            settings=settings.pipeline,
            telemetry=self.telemetry,
        )
        records.read_any_header_name()
        self._app = _faust_app(settings)
        self._app.ordered.hurry = self._hurry
        stack.push_async_callback(self._app.stop)
        self._add_agents(partitions)
        await self._serve_health(stack)

    async def _partitions(self) -> int:
        """Return how many partitions product-scores has; the state is partitioned alike."""
        names = self._settings.topics
        async with topics.admin(self._settings.broker) as client:
            existing = await topics.describe(client)
        missing = [spec.name for spec in topics.specs(names) if spec.name not in existing]
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
        self._state = app.Table("alert-state", partitions=partitions, key_type=str)
        app.agent(app.topic(names.updates, **raw), name="score")(self._score)
        app.agent(app.topic(names.scores, **raw), name="alert")(self._alert)

    async def _serve_health(self, stack: AsyncExitStack) -> None:
        telemetry = self._settings.telemetry
        self.telemetry.watch_depth("in_flight", lambda: self._pipeline.in_flight)
        for stage in self._pipeline.depths:
            self.telemetry.watch_depth(stage, partial(self._pipeline.depths.__getitem__, stage))
        self.telemetry.watch_depth("engine", lambda: self._batcher.waiting)
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
                change = await self._decide(event)
            except Exception as error:
                self._fail(error)
                raise
            if change is None:
                event.ack()
            else:
                change.add_done_callback(partial(self._acknowledge, event))

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
            await self._alerts.send(self._settings.topics.alerts, score.product_id.encode(), events.encode(alert))
            self.telemetry.alert(alert.type.rpartition(".")[2])
            log.info(
                alert.type, product_id=score.product_id, alert_id=alert.data.alert_id, probability=score.probability
            )
        if next_state is not None and next_state != state:
            self._state[score.product_id] = alerting.to_table(next_state)
            change: asyncio.Future[Any] = self._state.last_change
            return change
        return None

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
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        reasons = [failure.result() for failure in failures if failure.done()]
        if crashed.done():
            reasons.append(FatalError("consumer_crashed", f"Faust stopped: {crashed.result()!r}"))
        for waiter in (told, crashed):
            waiter.cancel()
        if reasons:
            await self._pipeline.abandon()
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
        """Say whether committed offsets move while there is something to commit."""
        progress = self._app.ordered.progress()
        lag = sum(max(0, end - committed) for committed, end in progress.values())
        committed = {tp: offset for tp, (offset, _) in progress.items()}
        now = time.monotonic()
        if committed != self._committed or not lag:
            self._committed, self._moved_at = committed, now
        stalled_s = now - self._moved_at
        return stalled_s < STALLED_AFTER_S, f"lag {lag}, committed offsets moved {stalled_s:.0f} s ago"

    def _ready(self) -> tuple[bool, str]:
        return (True, "ready") if self._app.recovered else (False, "waiting for partitions")


def _load_engine(settings: Settings) -> Engine:
    try:
        return loader.load(
            settings.engine.release, threads=settings.engine.threads, max_batch=settings.engine.max_batch
        )
    except EngineError as error:
        raise FatalError(error.code, f"the engine does not load: {error}") from error


def _decoders(settings: Settings, spec: ImageSpec) -> DecoderPool:
    pipeline = settings.pipeline
    return DecoderPool(
        spec,
        size=pipeline.preprocess_threads,
        max_bytes=settings.fetch.max_image_bytes,
        max_pixels=pipeline.max_pixels,
        memory_bytes=pipeline.decode_memory_mib * 2**20,
        cpu_s=pipeline.decode_cpu_s,
    )


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


def _faust_app(settings: Settings) -> ScorerApp:
    broker, state = settings.broker, settings.state
    app = ScorerApp(
        broker.group,
        broker=[f"kafka://{address}" for address in broker.bootstrap.split(",")],
        broker_credentials=_credentials(broker),
        broker_session_timeout=broker.session_timeout_s,
        broker_heartbeat_interval=broker.heartbeat_interval_s,
        broker_commit_interval=broker.commit_interval_s,
        broker_rebalance_timeout=settings.pipeline.drain_timeout_s + REBALANCE_MARGIN_S,
        consumer_auto_offset_reset="earliest",
        producer_linger=0.005,
        store="memory://" if state.store == "memory" else "rocksdb://?driver=rocksdict",
        datadir=str(state.directory),
        topic_replication_factor=settings.topics.replication,
        topic_disable_leader=True,
        stream_wait_empty=True,
        web_enabled=False,
        Table=_Table,
        TableManager=_Tables,
    )
    app.ordered.drain_timeout_s = settings.pipeline.drain_timeout_s
    app.ordered.fetch_max_wait_ms = broker.fetch_max_wait_ms
    return app


def _credentials(broker: BrokerSettings) -> Any:  # noqa: ANN401 - Faust's credentials
    options = topics.client_kwargs(broker)
    context = options.get("ssl_context")
    if broker.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=broker.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None
