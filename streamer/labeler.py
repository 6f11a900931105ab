"""Composition root of the label worker: settings → evidence, data set → a Faust app with one agent. CPU only.

    confirmed-labels ─► [label] ─► the data set
           ▲               └─────► dead-letters
    Label Studio's webhook
    erased products ──► [sweep] ─► the evidence store

While one batch of labels is written the next one gathers. A record is acknowledged when it has its outcome, so a worker
may be killed at any time: what comes again changes nothing.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from streamer import application, topics
from streamer.dataset import LabelDataset
from streamer.erasures import Erasures
from streamer.errors import FatalError, StreamerError
from streamer.evidence import EvidenceStore
from streamer.incoming import Incoming, incoming_of
from streamer.label_studio import Webhook
from streamer.outbox import Outbox
from streamer.recording import Recorder
from streamer.sweeping import sweep_for_ever
from streamer.telemetry import HealthServer, LabelTelemetry, Liveness, configure_logging

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.application import WorkerApp
    from streamer.settings import Settings

log = structlog.get_logger(__name__)

STALLED_AFTER_S = 600.0
"""Above the longest outage of a store that should pass by itself."""


def run(settings: Settings) -> int:
    """Record labels until SIGTERM or SIGINT; return the process's exit code.

    Raises:
        FatalError: the worker cannot do its work; nothing was committed that has no outcome.
    """
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(LabelWorker(settings).run())


class LabelWorker:
    """One label worker, from start to drained stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.telemetry = LabelTelemetry()
        self._app: WorkerApp
        self._evidence: EvidenceStore
        self._erasures: Erasures
        self._waiting: asyncio.Queue[Incoming] = asyncio.Queue(settings.labels.max_batch)
        self._recording: asyncio.Future[None] | None = None
        self._idle = asyncio.Event()
        self._stopping = asyncio.Event()
        self._liveness = Liveness(STALLED_AFTER_S)

    async def run(self) -> int:
        """Start, serve until told to stop, drain, stop."""
        async with AsyncExitStack() as stack:
            recorder = await self._build(stack)
            working = {
                asyncio.create_task(self._record(recorder)): "recording_failed",
                asyncio.create_task(sweep_for_ever(self._evidence, self._erasures)): "sweeping_failed",
            }
            for task in working:
                stack.callback(task.cancel)
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self.stop)
            await self._app.start()
            await self._serve(working)
            await self._drain()
        return 0

    def stop(self) -> None:
        """Ask the worker to drain and stop; `run` then returns."""
        self._stopping.set()

    async def _build(self, stack: AsyncExitStack) -> Recorder:
        settings = self._settings
        names = settings.topics
        if settings.evidence.store is None:
            raise FatalError(
                "settings_invalid", "STREAMER_EVIDENCE__STORE is unset: labels are joined with what scorers keep there"
            )
        await self._check_topics()
        outbox = await stack.enter_async_context(Outbox(settings.broker))
        self._evidence = EvidenceStore(settings.evidence.store)
        self._erasures = Erasures(settings.labels.dataset)
        recorder = Recorder(
            evidence=self._evidence,
            dataset=LabelDataset(settings.labels.dataset),
            erasures=self._erasures,
            publish=outbox.send,
            dead_letters=names.dead_letters,
            telemetry=self.telemetry,
            clock=_now,
        )
        await self._serve_webhook(stack, outbox)
        self._app = application.create(settings, group=settings.labels.group)
        self._app.ordered.give_up = self._give_up
        stack.push_async_callback(self._app.stop)
        topic = self._app.topic(
            names.labels, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        self._app.agent(topic, name="label")(self._label)
        self.telemetry.watch_lag(names.labels, self._lag)
        if settings.telemetry.port:
            health = HealthServer(self.telemetry, alive=self._alive, ready=self._ready)
            await health.start(settings.telemetry.host, settings.telemetry.port)
            stack.push_async_callback(health.stop)
        return recorder

    async def _check_topics(self) -> None:
        names = self._settings.topics
        async with topics.admin(self._settings.broker) as client:
            existing = await topics.describe(client)
        missing = [name for name in (names.labels, names.dead_letters) if name not in existing]
        if missing:
            raise FatalError("topics_missing", f"no {', '.join(missing)} on the broker: run `streamer topics create`")

    async def _serve_webhook(self, stack: AsyncExitStack, outbox: Outbox) -> None:
        labels = self._settings.labels
        if not labels.webhook_port:
            return
        if labels.webhook_secret is None or not labels.webhook_secret.get_secret_value():
            raise FatalError(
                "settings_invalid", "STREAMER_LABELS__WEBHOOK_SECRET is unset: anybody could write labels through it"
            )
        webhook = Webhook(
            secret=labels.webhook_secret.get_secret_value(),
            publish=outbox.send,
            topic=self._settings.topics.labels,
            clock=_now,
        )
        await webhook.start(labels.webhook_host, labels.webhook_port)
        stack.push_async_callback(webhook.stop)

    # -- the agent

    async def _label(self, stream: Any) -> None:  # noqa: ANN401 - Faust's stream
        async for event in stream.noack().events():
            self._idle.clear()
            await self._waiting.put(incoming_of(event))

    async def _record(self, recorder: Recorder) -> None:
        """Record what has come, batch after batch, for ever."""
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and len(batch) < self._settings.labels.max_batch:
                batch.append(self._waiting.get_nowait())
            self._recording = asyncio.ensure_future(recorder.record(batch))
            (error,) = await asyncio.gather(self._recording, return_exceptions=True)
            if isinstance(error, Exception):  # not that it was given up
                raise error
            if self._waiting.empty():
                self._idle.set()

    def _give_up(self) -> None:
        """Let go of labels whose partitions are others' now; who is given them takes them to their outcomes."""
        while not self._waiting.empty():
            self._waiting.get_nowait()
        if self._recording is not None:
            self._recording.cancel()

    # -- life

    async def _serve(self, working: Mapping[asyncio.Task[None], str]) -> None:
        """Return when told to stop.

        Raises:
            StreamerError: a part has failed.
        """
        self._idle.set()
        told = asyncio.ensure_future(self._stopping.wait())
        crashed = asyncio.ensure_future(self._app.wait_crashed())
        await asyncio.wait({told, crashed, *working}, return_when=asyncio.FIRST_COMPLETED)
        reason: BaseException | None = None
        if (failed := next((task for task in working if task.done()), None)) is not None:
            error = failed.exception()
            wrapped = FatalError(working[failed], f"{type(error).__name__}: {error}")
            reason = error if isinstance(error, StreamerError) else wrapped
        elif crashed.done():
            reason = FatalError("consumer_crashed", f"Faust stopped: {crashed.result()!r}")
        for waiter in (told, crashed):
            waiter.cancel()
        if reason is not None:
            self._app.ordered.drain_timeout_s = 0.0  # nobody is left who would finish what waits
            raise reason

    async def _drain(self) -> None:
        consumer = self._app.ordered
        consumer.quiesce()
        try:
            await asyncio.wait_for(self._idle.wait(), self._settings.pipeline.drain_timeout_s)
        except TimeoutError:
            log.warning("worker.drain_timed_out", abandoned=self._waiting.qsize())
        await consumer.commit()
        consumer.drain_timeout_s = 0.0
        log.info("worker.drained")

    def _alive(self) -> tuple[bool, str]:
        return self._liveness.judge(self._app.ordered.progress(), time.monotonic())

    def _lag(self) -> int:
        return sum(max(0, end - committed) for committed, end in self._app.ordered.progress().values())

    def _ready(self) -> tuple[bool, str]:
        return (True, "ready") if self._app.recovered else (False, "waiting for partitions")


def _now() -> datetime:
    return datetime.now(UTC)
