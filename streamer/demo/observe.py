"""What the demo reads back from Kafka: every outcome and every alert, by the event that led to it.

A plain consumer without a group, so that nothing it does can disturb the worker or a cluster that is somebody's own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamer.alert import decide
from streamer.events import DeadLetter, MismatchAlert, ProductScore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamer.alert_state import AlertState
    from streamer.events import Contradiction, Outcome, Transition
    from streamer.settings import TopicSettings
    from streamer.wire import SourcePosition

T = TypeVar("T", bound=msgspec.Struct)
Position = tuple[str, int, int]
"""topic, partition, offset: the name of one event."""

POLL_MS = 100
FETCH_WAIT_MS = 20
"""The embedded broker holds every fetch for the whole of this, news or not; the screen should not lag."""


@dataclass(frozen=True, kw_only=True)
class EventOutcome:
    """What became of one event; `at_ms` is the outcome record's timestamp."""

    outcome: Outcome
    product_id: str | None
    order: int | None
    at_ms: int
    probability: float | None = None
    threshold: float | None = None
    release: str | None = None
    contradicts: tuple[Contradiction, ...] = ()
    reason: str | None = None
    message: str | None = None


@dataclass(frozen=True, kw_only=True)
class SeenAlert:
    """One alert event, as it was read."""

    id: str
    transition: Transition
    product_id: str
    order: int
    title: str
    probability: float | None
    reason: str
    at_ms: int
    contradicts: tuple[Contradiction, ...] = ()


@dataclass
class Ledger:
    """Outcomes by event and alerts in order; `on_outcome` is called once for each event that gets its first.

    `awaited_alerts` are ids of alerts that the scores call for, by the worker's own rule, and that are not here yet.
    """

    on_outcome: Callable[[], None] = lambda: None
    outcomes: dict[Position, EventOutcome] = field(default_factory=dict)
    alerts: list[SeenAlert] = field(default_factory=list)
    open: dict[str, SeenAlert] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    repeated_alerts: int = 0
    last_at_ms: int | None = None
    _alert_ids: set[str] = field(default_factory=set)
    _due_ids: set[str] = field(default_factory=set)
    _states: dict[str, AlertState | None] = field(default_factory=dict)

    def add_score(self, score: ProductScore, at_ms: int) -> None:
        """Enter an outcome that is not a rejection; scores of one product come in their partition's order."""
        outcome = EventOutcome(
            outcome=score.outcome,
            product_id=score.product_id,
            order=score.order,
            at_ms=at_ms,
            probability=score.probability,
            threshold=score.threshold,
            release=score.release,
            contradicts=score.contradicts or (),
        )
        self._enter(score.source, outcome)
        state, alert = decide(self._states.get(score.product_id), score, source="demo")
        self._states[score.product_id] = state
        if alert is not None:
            self._due_ids.add(alert.id)

    def add_dead_letter(self, letter: DeadLetter, at_ms: int) -> None:
        """Enter a rejection."""
        outcome = EventOutcome(
            outcome="rejected",
            product_id=letter.product_id,
            order=None,
            at_ms=at_ms,
            reason=letter.reason,
            message=letter.message,
        )
        self._enter(letter.source, outcome)

    def add_alert(self, alert: MismatchAlert, at_ms: int) -> None:
        """Enter an alert event; one whose id was seen before is a redelivery and only counted."""
        if alert.id in self._alert_ids:
            self.repeated_alerts += 1
            return
        self._alert_ids.add(alert.id)
        seen = _seen(alert, at_ms)
        self.alerts.append(seen)
        if seen.transition == "resolved":
            self.open.pop(seen.product_id, None)
        else:
            self.open[seen.product_id] = seen

    @property
    def awaited_alerts(self) -> set[str]:
        return self._due_ids - self._alert_ids

    @property
    def unexplained_alerts(self) -> set[str]:
        """Ids of alerts that no score calls for."""
        return self._alert_ids - self._due_ids

    def transitions(self) -> Counter[str]:
        """Return how many alert events there are of each transition."""
        return Counter(alert.transition for alert in self.alerts)

    def _enter(self, source: SourcePosition, outcome: EventOutcome) -> None:
        position = (source.topic, source.partition, source.offset)
        if position in self.outcomes:
            self.duplicates += 1
            return
        self.outcomes[position] = outcome
        self.counts[outcome.outcome] += 1
        self.last_at_ms = max(outcome.at_ms, self.last_at_ms or outcome.at_ms)
        self.on_outcome()


def _seen(alert: MismatchAlert, at_ms: int) -> SeenAlert:
    transition: Transition = alert.type.rsplit(".", 1)[1]  # type: ignore[assignment] # the literal's last part
    return SeenAlert(
        id=alert.id,
        transition=transition,
        product_id=alert.data.product_id,
        order=alert.data.order,
        title=alert.data.title or alert.data.product_id,
        probability=alert.data.probability,
        reason=alert.data.reason,
        at_ms=at_ms,
        contradicts=alert.data.contradicts or (),
    )


async def observe(ledger: Ledger, names: TopicSettings, client: Mapping[str, Any]) -> None:
    """Read the three outgoing topics from their beginning into the ledger, until cancelled.

    Args:
        ledger: where everything is entered.
        names: topics, and how many partitions each has.
        client: how to reach the broker, see `streamer.topics.client_kwargs`.
    """
    enter: dict[str, Callable[[bytes, int], None]] = {
        names.scores: lambda value, at: ledger.add_score(_decode(value, ProductScore), at),
        names.dead_letters: lambda value, at: ledger.add_dead_letter(_decode(value, DeadLetter), at),
        names.alerts: lambda value, at: ledger.add_alert(_decode(value, MismatchAlert), at),
    }
    consumer = AIOKafkaConsumer(
        **client, auto_offset_reset="earliest", enable_auto_commit=False, fetch_max_wait_ms=FETCH_WAIT_MS
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, p) for topic in enter for p in range(names.partitions)])
        while True:
            for partition, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                for record in records:
                    enter[partition.topic](record.value or b"", record.timestamp)
    finally:
        await consumer.stop()


def _decode(value: bytes, kind: type[T]) -> T:
    return msgspec.convert(orjson.loads(value), kind)
