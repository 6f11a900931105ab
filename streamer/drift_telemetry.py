"""Metrics of the drift watcher. Labels are bounded: six values, and as many categories and hosts as are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from streamer.telemetry import WorkerTelemetry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamer.drift import Statistic
    from streamer.retrain_log import LastRetraining


class DriftTelemetry(WorkerTelemetry):
    """What has drifted, in a registry of its own; what is not compared any more is not shown any more."""

    def __init__(self) -> None:
        super().__init__()
        r = self.registry
        self._distance = Gauge(
            "streamer_drift_distance",
            "Kolmogorov-Smirnov distance of a value from its reference",
            ["value"],
            registry=r,
        )
        self._share = Gauge(
            "streamer_drift_share",
            "Share of products that alert, or of fetches that fail",
            ["kind", "group"],
            registry=r,
        )
        self._reference = Gauge(
            "streamer_drift_reference_share", "The same when the release began to judge", ["kind", "group"], registry=r
        )
        self._drifted = Gauge("streamer_drifted", "Comparisons beyond their limit, by kind", ["kind"], registry=r)
        self._products = Gauge("streamer_drift_products", "Products that are compared with the reference", registry=r)
        self._release = Gauge("streamer_drift_info", "The release whose products are watched", ["release"], registry=r)
        self._requested = Counter("streamer_retraining_requested", "Retrainings asked for", registry=r)
        self._ended = Gauge(
            "streamer_retraining_ended_timestamp_seconds",
            "When the last retraining was decided, in seconds since 1970, by how",
            ["outcome"],
            registry=r,
        )
        self._unreadable = Counter("streamer_drift_unreadable", "Records that no worker wrote", registry=r)

    def compared(self, release: str, products: int, statistics: Iterable[Statistic]) -> None:
        """Show the comparisons of now, and no earlier ones."""
        for gauge in (self._distance, self._share, self._reference, self._drifted, self._release):
            gauge.clear()
        self._release.labels(release).set(1)
        self._products.set(products)
        for one in statistics:
            self._drifted.labels(one.kind).inc(one.drifted)
            if one.kind == "value":
                self._distance.labels(one.name).set(one.value)
            else:
                self._share.labels(one.kind, one.name).set(one.value)
                self._reference.labels(one.kind, one.name).set(one.reference)

    def requested(self) -> None:
        self._requested.inc()

    def ended(self, last: LastRetraining | None) -> None:
        """Show how the last retraining ended, None before the first."""
        self._ended.clear()
        if last is not None:
            self._ended.labels(last.outcome).set(last.ended_at.timestamp())

    def unreadable(self) -> None:
        self._unreadable.inc()
