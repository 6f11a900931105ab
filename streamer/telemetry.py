"""Metrics, health and logs of a worker. Labels are bounded: stages, outcomes, reasons, transitions; never a product.

`/metrics` speaks Prometheus; `/healthz` answers 200 while the worker makes progress, `/readyz` once its engine is warm
and its partitions are assigned.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from streamer import __version__
from streamer.events import OUTCOMES, Outcome, Transition
from streamer.labels import LABEL_OUTCOMES, LabelOutcome
from streamer.reviews import Sampled
from streamer.shadow_events import AGREEMENTS
from streamer.tracing import OFF

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping
    from datetime import datetime

    from engines.contract import Engine
    from streamer.batch import BatchReport
    from streamer.shadow_events import Agreement
    from streamer.tracing import Tracing

STAGES = ("parse", "fetch", "decode", "tokenise", "queue", "engine", "explain", "keep", "publish")

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_TENTHS = tuple(i / 20 for i in range(1, 21))


class WorkerTelemetry:
    """What every worker shows, in a registry of its own: its process, its version, how far behind it is."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        Gauge("streamer_build_info", "The version that runs", ["version"], registry=r).labels(__version__).set(1)
        self._lag = Gauge(
            "streamer_lag_events", "Records of this worker's partitions without an outcome", ["topic"], registry=r
        )

    def watch_lag(self, topic: str, lag: Callable[[], float]) -> None:
        """Show the lag of this worker's partitions of a topic whenever metrics are scraped."""
        self._lag.labels(topic).set_function(lag)


class Telemetry(WorkerTelemetry):
    """The scorer's metrics."""

    def __init__(self) -> None:
        super().__init__()
        r = self.registry
        self._events = Counter("streamer_events", "Product updates by outcome", ["outcome"], registry=r)
        self._rejected = Counter("streamer_rejected", "Rejected product updates by reason", ["reason"], registry=r)
        self._alerts = Counter("streamer_alerts", "Alerts published by transition", ["transition"], registry=r)
        self._stage = Histogram(
            "streamer_stage_seconds", "Time of one event in a stage", ["stage"], buckets=_SECONDS, registry=r
        )
        self._latency = Histogram(
            "streamer_event_latency_seconds",
            "From publication of an update to its outcome",
            buckets=_SECONDS,
            registry=r,
        )
        self._batch = Histogram("streamer_batch_size", "Pairs in one run of the engine", buckets=_SIZES, registry=r)
        self._busy = Counter("streamer_engine_busy_seconds", "Time the engine's batches took", registry=r)
        self._concurrency = Gauge(
            "streamer_engine_concurrency", "Batches that the engine runs at the same time", registry=r
        )
        self._depth = Gauge("streamer_queue_depth", "Events waiting, by queue", ["queue"], registry=r)
        self._fetch_errors = Counter(
            "streamer_fetch_errors", "Tries to fetch a picture that failed, by reason", ["reason"], registry=r
        )
        self._probability = Histogram(
            "streamer_mismatch_probability", "Calibrated probabilities", buckets=_TENTHS, registry=r
        )
        self._engine = Gauge("streamer_engine_info", "The engine that runs", ["release", "device"], registry=r)
        self._swaps = Counter("streamer_engine_swaps", "Engines swapped while the worker ran", registry=r)
        self._refused = Counter(
            "streamer_engine_refused", "Announced releases that were refused, by reason", ["reason"], registry=r
        )
        self._redecided = Counter(
            "streamer_alerts_redecided", "Alerts that another calibration or threshold has changed", registry=r
        )
        self._shadow = Gauge("streamer_shadow_info", "The challenger that is tried", ["release"], registry=r)
        self._compared = Counter(
            "streamer_shadow_compared", "Products that champion and challenger scored", ["agreement"], registry=r
        )
        self._skipped = Counter(
            "streamer_shadow_skipped",
            "Products of the challenger's share that it did not score",
            ["reason"],
            registry=r,
        )
        self._shadow_refused = Counter(
            "streamer_shadow_refused", "Challengers that were refused or given up", ["reason"], registry=r
        )
        self._kept = Counter("streamer_evidence", "Scored products kept for review, by why", ["sampled"], registry=r)
        self._not_kept = Counter(
            "streamer_evidence_failed", "Scored products or alerts that the evidence store did not take", registry=r
        )
        self._stages = {stage: self._stage.labels(stage) for stage in STAGES}
        self._outcomes = {outcome: self._events.labels(outcome) for outcome in OUTCOMES}
        # A series that begins with its first event shows no increase by it: those with few labels begin at nought.
        for transition in get_args(Transition):
            self._alerts.labels(transition)
        for sampled in get_args(Sampled):
            self._kept.labels(sampled)
        for agreement in AGREEMENTS:
            self._compared.labels(agreement)

    def stage(self, stage: str, seconds: float) -> None:
        self._stages[stage].observe(seconds)

    def outcome(self, outcome: Outcome, reason: str | None = None) -> None:
        self._outcomes[outcome].inc()
        if reason is not None:
            self._rejected.labels(reason).inc()

    def fetch_failed(self, reason: str) -> None:
        """Count a try that failed; one that is tried again is no outcome yet."""
        self._fetch_errors.labels(reason).inc()

    def latency(self, published_at: datetime) -> None:
        self._latency.observe(max(0.0, time.time() - published_at.timestamp()))

    def probability(self, probability: float) -> None:
        self._probability.observe(probability)

    def alert(self, transition: str) -> None:
        self._alerts.labels(transition).inc()

    def redecided(self) -> None:
        self._redecided.inc()

    def batch(self, report: BatchReport) -> None:
        self._batch.observe(report.size)
        self._busy.inc(report.infer_s)

    def engine(self, engine: Engine) -> None:
        """Show the engine that judges what comes from now on."""
        self._engine.clear()
        self._engine.labels(engine.manifest.release, engine.device).set(1)
        self._concurrency.set(engine.concurrency)

    def engine_swapped(self) -> None:
        self._swaps.inc()

    def engine_refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def shadow(self, release: str | None) -> None:
        """Show the challenger that is tried, None where there is none."""
        self._shadow.clear()
        if release is not None:
            self._shadow.labels(release).set(1)

    def shadow_compared(self, agreement: Agreement) -> None:
        self._compared.labels(agreement).inc()

    def shadow_skipped(self, reason: Literal["busy", "failed"]) -> None:
        self._skipped.labels(reason).inc()

    def shadow_refused(self, reason: str) -> None:
        self._shadow_refused.labels(reason).inc()

    def kept(self, sampled: str) -> None:
        self._kept.labels(sampled).inc()

    def evidence_failed(self) -> None:
        self._not_kept.inc()

    def watch_depth(self, name: str, depth: Callable[[], int]) -> None:
        """Read the depth of a queue whenever metrics are scraped."""
        self._depth.labels(name).set_function(depth)


class Liveness:
    """Judges whether a worker makes progress: whether the committed offset of each partition moves while it has lag.

    Args:
        stalled_after_s: how long one may stand still.
    """

    def __init__(self, stalled_after_s: float) -> None:
        self._stalled_after_s = stalled_after_s
        self._moved: dict[Hashable, tuple[int, float]] = {}

    def judge(self, progress: Mapping[Any, tuple[int, int]], now: float) -> tuple[bool, str]:
        """Return the judgement, and why.

        Args:
            progress: of each partition, its committed offset and the end of its log.
            now: seconds by a clock that never jumps.
        """
        moved: dict[Hashable, tuple[int, float]] = {}
        for partition, (committed, end) in progress.items():
            known = self._moved.get(partition)
            stands = known is not None and known[0] == committed and committed < end
            moved[partition] = known if known is not None and stands else (committed, now)
        self._moved = moved
        stalled_s = max((now - since for _, since in moved.values()), default=0.0)
        lag = sum(max(0, end - committed) for committed, end in progress.values())
        return stalled_s < self._stalled_after_s, f"lag {lag}, the slowest partition moved {stalled_s:.0f} s ago"


class LabelTelemetry(WorkerTelemetry):
    """The label worker's metrics."""

    def __init__(self) -> None:
        super().__init__()
        self._labels = Counter(
            "streamer_labels", "Records of confirmed-labels by outcome", ["outcome"], registry=self.registry
        )
        self._rejected = Counter(
            "streamer_labels_rejected", "Rejected labels by reason", ["reason"], registry=self.registry
        )
        self._version = Gauge("streamer_label_dataset_version", "Version of the data set", registry=self.registry)
        self._outcomes = {outcome: self._labels.labels(outcome) for outcome in LABEL_OUTCOMES}

    def label(self, outcome: LabelOutcome, reason: str | None = None) -> None:
        self._outcomes[outcome].inc()
        if reason is not None:
            self._rejected.labels(reason).inc()

    def version(self, version: int) -> None:
        self._version.set(version)


class HealthServer:
    """Serves `/metrics`, `/healthz` and `/readyz`.

    Args:
        telemetry: what `/metrics` shows.
        alive: whether the worker makes progress, and why not.
        ready: whether the worker can take events, and why not.
    """

    def __init__(
        self,
        telemetry: WorkerTelemetry,
        *,
        alive: Callable[[], tuple[bool, str]],
        ready: Callable[[], tuple[bool, str]],
    ) -> None:
        self._telemetry = telemetry
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", _probe(alive))
        app.router.add_get("/readyz", _probe(ready))
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._telemetry.registry)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _probe(check: Callable[[], tuple[bool, str]]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.Response:
        good, reason = check()
        return web.Response(status=200 if good else 503, text=reason + "\n")

    return answer


def configure_logging(level: str, log_format: Literal["json", "console"], tracing: Tracing = OFF) -> None:
    """Send structlog and the standard library's loggers to stderr, one line per event, with the ids of its trace."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        *([lambda _, __, event: {**event, **tracing.ids()}] if tracing is not OFF else []),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=renderer))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in ("streamer", "engines"):
        logging.getLogger(name).setLevel(level.upper())
