"""What the loop reads back: one outcome for each update, alerts and audit requests for the reviewers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamer.events import DeadLetter, MismatchAlert, ProductScore
from streamer.reviews import ReviewRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamer.settings import TopicSettings

POLL_MS: Final = 100
FETCH_WAIT_MS: Final = 20

Position = tuple[str, int, int]


class Judged(NamedTuple):
    """What the scorer made of one update: None where it was rejected or superseded."""

    probability: float | None
    threshold: float | None
    release: str | None


class Question(NamedTuple):
    """What people are asked: what a ConfirmedLabel must carry, and which product it is about."""

    product_id: str
    alert_id: str | None
    image_sha256: str | None
    text_sha256: str | None


@dataclass
class Ledger:
    """Outcomes by the place of their update, and questions in the order in which they came.

    `unanswered` are products whose score alerts, but whose alert has not come yet: it comes by another topic.
    """

    outcomes: dict[Position, Judged] = field(default_factory=dict)
    doubled: int = 0
    rejected: int = 0
    superseded: int = 0
    alerts: int = 0
    requests: int = 0
    unanswered: set[str] = field(default_factory=set[str])
    _opened: set[str] = field(default_factory=set[str])
    ask: Callable[[Question], None] = lambda _: None

    @property
    def read(self) -> int:
        """How many outcomes and alerts have come."""
        return len(self.outcomes) + self.alerts

    def add_score(self, score: ProductScore) -> None:
        """Enter an outcome."""
        place = (score.source.topic, score.source.partition, score.source.offset)
        self.superseded += score.outcome == "superseded"
        self._enter(place, Judged(score.probability, score.threshold, score.release))
        probability, threshold = score.probability, score.threshold
        alerts = probability is not None and threshold is not None and probability >= threshold
        if alerts and score.product_id not in self._opened:
            self.unanswered.add(score.product_id)

    def add_letter(self, letter: DeadLetter) -> None:
        """Enter a rejection."""
        self.rejected += 1
        place = (letter.source.topic, letter.source.partition, letter.source.offset)
        self._enter(place, Judged(None, None, None))

    def add_alert(self, alert: MismatchAlert) -> None:
        """Pass an alert that opened on to people."""
        if alert.type.endswith(".opened"):
            self.alerts += 1
            self._opened.add(alert.data.product_id)
            self.unanswered.discard(alert.data.product_id)
            self.ask(Question(alert.data.product_id, alert.id, None, None))

    def add_request(self, request: ReviewRequest) -> None:
        """Pass a product of the audit on to people."""
        self.requests += 1
        self.ask(Question(request.product_id, None, request.image_sha256, request.text_sha256))

    def _enter(self, place: Position, judged: Judged) -> None:
        self.doubled += place in self.outcomes
        self.outcomes.setdefault(place, judged)


async def follow(ledger: Ledger, names: TopicSettings, client: Mapping[str, Any]) -> None:
    """Read what workers publish into the ledger, from its beginning, until cancelled."""
    enter: dict[str, tuple[Any, Callable[[Any], None]]] = {
        names.scores: (ProductScore, ledger.add_score),
        names.dead_letters: (DeadLetter, ledger.add_letter),
        names.alerts: (MismatchAlert, ledger.add_alert),
        names.reviews: (ReviewRequest, ledger.add_request),
    }
    consumer = AIOKafkaConsumer(
        **client, auto_offset_reset="earliest", enable_auto_commit=False, fetch_max_wait_ms=FETCH_WAIT_MS
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, part) for topic in enter for part in range(names.partitions)])
        while True:
            for partition, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                kind, take = enter[partition.topic]
                for record in records:
                    take(msgspec.convert(orjson.loads(record.value or b""), kind))
    finally:
        await consumer.stop()
