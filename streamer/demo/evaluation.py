"""The demo's outcomes held against the truth: what was caught, missed and falsely accused, and how fast. Pure.

Recall and precision are over events whose picture was judged (`scored` or `unchanged`): an event is positive when it
carries a wrong picture, and predicted so when its calibrated probability reaches its threshold.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from streamer.demo.observe import EventOutcome, Ledger, Position, SeenAlert
    from streamer.demo.traffic import Truth
    from streamer.events import Contradiction

Z_95 = 1.959964
"""The normal distribution's two-sided 95 % quantile."""


@dataclass(frozen=True, kw_only=True)
class PublishedEvent:
    """An event that the broker has acknowledged: its truth, its place, and when it was published."""

    truth: Truth
    position: Position
    at_ms: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One judged event: its truth, and what the scorer said."""

    truth: Truth
    probability: float
    threshold: float
    contradicts: tuple[Contradiction, ...] = ()

    @property
    def mismatch(self) -> bool:
        return self.probability >= self.threshold


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """The curve over all thresholds, from the strictest on; `thresholds`, `precision`, `recall`: float64 (N,)."""

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    average_precision: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds from the update's timestamp to the timestamp of the alert that it led to."""

    p50_ms: float | None
    p99_ms: float | None


class Evaluation:
    """All figures of one demo run, from what was published and what was read back."""

    def __init__(self, published: Sequence[PublishedEvent], ledger: Ledger) -> None:
        self.published = published
        self.ledger = ledger

    @property
    def events(self) -> int:
        return len(self.published)

    @cached_property
    def missing(self) -> list[PublishedEvent]:
        """Events without an outcome."""
        return [event for event in self.published if event.position not in self.ledger.outcomes]

    @cached_property
    def unknown(self) -> int:
        """How many outcomes name an event that was not published here."""
        return len(self.ledger.outcomes.keys() - {event.position for event in self.published})

    @property
    def adds_up(self) -> bool:
        """Whether every event has exactly one outcome, and nothing else has one."""
        return not self.missing and not self.unknown and not self.ledger.duplicates

    @property
    def alerts_complete(self) -> bool:
        """Whether the alerts are exactly those that the scores call for, each once."""
        return not self.ledger.awaited_alerts and not self.ledger.unexplained_alerts

    @cached_property
    def outcome_of(self) -> list[tuple[Truth, EventOutcome]]:
        """Truth and outcome of each event that has one, in publishing order."""
        outcomes = self.ledger.outcomes
        return [(e.truth, outcomes[e.position]) for e in self.published if e.position in outcomes]

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The judged events, in publishing order."""
        return [
            Verdict(truth=truth, probability=o.probability, threshold=o.threshold, contradicts=o.contradicts)
            for truth, o in self.outcome_of
            if o.probability is not None and o.threshold is not None
        ]

    @cached_property
    def caught(self) -> list[Verdict]:
        return [v for v in self.verdicts if v.truth.swapped and v.mismatch]

    @cached_property
    def missed(self) -> list[Verdict]:
        return [v for v in self.verdicts if v.truth.swapped and not v.mismatch]

    @cached_property
    def false_alarms(self) -> list[Verdict]:
        return [v for v in self.verdicts if not v.truth.swapped and v.mismatch]

    @property
    def recall(self) -> float | None:
        """The share of wrong pictures that were caught; None when there were none."""
        return _share(len(self.caught), len(self.caught) + len(self.missed))

    @property
    def precision(self) -> float | None:
        """The share of accusations that were right; None when there were none."""
        return _share(len(self.caught), len(self.caught) + len(self.false_alarms))

    @cached_property
    def by_kind(self) -> Mapping[str, Counter[str]]:
        """What became of each kind of event: outcomes, and for rejected ones the reason."""
        table: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for truth, outcome in self.outcome_of:
            table[truth.kind][outcome.reason or outcome.outcome] += 1
        return table

    @property
    def events_per_s(self) -> float | None:
        """Events per second, from the first publication to the last outcome."""
        if not self.published or self.ledger.last_at_ms is None:
            return None
        milliseconds = self.ledger.last_at_ms - min(event.at_ms for event in self.published)
        return 1000 * self.events / milliseconds if milliseconds > 0 else None

    @cached_property
    def latency(self) -> Latency:
        """Publish to alert, over every opened, updated and resolved alert."""
        published_at = {(e.truth.product_id, e.truth.order): e.at_ms for e in reversed(self.published)}
        deleted_at = {e.truth.product_id: e.at_ms for e in self.published if e.truth.kind == "tombstone"}
        spans = [
            alert.at_ms - start
            for alert in self.ledger.alerts
            if (start := _start(alert, published_at, deleted_at)) is not None
        ]
        if not spans:
            return Latency(p50_ms=None, p99_ms=None)
        return Latency(p50_ms=float(np.percentile(spans, 50)), p99_ms=float(np.percentile(spans, 99)))

    @cached_property
    def rejected(self) -> Mapping[str, Counter[str]]:
        """How many events of each kind were rejected, by reason."""
        table: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for truth, outcome in self.outcome_of:
            if outcome.reason is not None:
                table[truth.kind][outcome.reason] += 1
        return table

    @property
    def release(self) -> str | None:
        """The engine release that scored; None when nothing was scored."""
        return ", ".join(sorted({o.release for _, o in self.outcome_of if o.release})) or None


def ranked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return one verdict for each pair of text and picture (a redelivery shows nothing new), the surest first."""
    distinct = {(v.truth.product_id, v.truth.shown_id): v for v in verdicts}
    return sorted(distinct.values(), key=lambda verdict: verdict.probability, reverse=True)


def precision_recall(verdicts: Sequence[Verdict]) -> PrecisionRecall | None:
    """Return the precision-recall curve of these verdicts; None without a positive one.

    Source: average precision as the sum of precision times the step in recall, without interpolation.
    """
    actual = np.array([v.truth.swapped for v in verdicts], dtype=np.float64)
    if not actual.sum():
        return None
    probability = np.array([v.probability for v in verdicts], dtype=np.float64)
    falling = np.argsort(-probability, kind="stable")
    actual, probability = actual[falling], probability[falling]
    last_of_tie = np.append(np.flatnonzero(np.diff(probability)), len(probability) - 1)
    true_positives = np.cumsum(actual)[last_of_tie]
    precision = true_positives / (last_of_tie + 1)
    recall = true_positives / actual.sum()
    average = float(np.sum(precision * np.diff(recall, prepend=0.0)))
    return PrecisionRecall(
        thresholds=probability[last_of_tie], precision=precision, recall=recall, average_precision=average
    )


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if trials == 0:
        return (0.0, 1.0)
    share, z2 = hits / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return (max(0.0, centre - half), min(1.0, centre + half))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _start(
    alert: SeenAlert, published_at: Mapping[tuple[str, int | None], int], deleted_at: Mapping[str, int]
) -> int | None:
    """Return when the event was published that this alert answers; a tombstone need not carry a version."""
    if alert.reason == "deleted":
        return deleted_at.get(alert.product_id)
    return published_at.get((alert.product_id, alert.order))
