"""Hand-made products, updates and outcomes of a demo, for its unit tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import UNSET

from streamer.alert import decide
from streamer.demo.evaluation import Evaluation, PublishedEvent
from streamer.demo.observe import Ledger
from streamer.demo.products import DemoProduct, Fact
from streamer.demo.traffic import Kind, Truth
from streamer.events import Contradiction, DeadLetter, MismatchAlert, ProductScore
from streamer.wire import SourcePosition

if TYPE_CHECKING:
    from streamer.alert_state import AlertState

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
COLOURS = ("red", "blue", "green", "black")


def product(number: int, colour: str, siblings: tuple[str, ...]) -> DemoProduct:
    """Return a mug of one colour, in the group of its four colours."""
    return DemoProduct(
        id=f"mug-{number}-{colour}",
        fields={"title": f"{colour.title()} mug <{number}>", "color": colour, "capacity": "0.3 l"},
        facts={"color": Fact(value=colour, phrases=(colour,))},
        item_group_id=f"mug-{number}",
        picture=f"{number}-{colour}.jpg",
        siblings=siblings,
    )


def products(count: int) -> list[DemoProduct]:
    """Return `count` mugs, a multiple of four."""
    groups = range(count // len(COLOURS))
    return [
        product(n, colour, tuple(f"mug-{n}-{other}" for other in COLOURS if other != colour))
        for n in groups
        for colour in COLOURS
    ]


@dataclass
class Run:
    """A demo run in the making: publishes, scores and alerts by hand, all in one partition."""

    threshold: float = 0.5
    ledger: Ledger = field(default_factory=Ledger)
    published: list[PublishedEvent] = field(default_factory=list)
    scores: list[ProductScore] = field(default_factory=list)

    @property
    def evaluation(self) -> Evaluation:
        return Evaluation(self.published, self.ledger)

    def publish(
        self, product_id: str, *, order: int | None = 10, kind: Kind = "right", shown_id: str | None = None
    ) -> SourcePosition:
        """Publish one update at 10 ms per offset and return its place."""
        offset = len(self.published)
        truth = Truth(
            kind=kind,
            product_id=product_id,
            order=order,
            swapped=shown_id is not None,
            shown_id=shown_id or product_id,
        )
        position = ("product-updates", 0, offset)
        self.published.append(PublishedEvent(truth=truth, position=position, at_ms=offset * 10))
        return SourcePosition(topic=position[0], partition=0, offset=offset)

    def score(
        self,
        source: SourcePosition,
        probability: float,
        *,
        at_ms: int = 500,
        contradicts: tuple[Contradiction, ...] = (),
    ) -> ProductScore:
        """Enter a score for the update at `source`."""
        truth = self.published[source.offset].truth
        score = ProductScore(
            product_id=truth.product_id,
            order=truth.order,
            outcome="scored",
            source=source,
            published_at=NOW,
            scored_at=NOW,
            title=truth.product_id,
            image_sha256=truth.shown_id,
            probability=probability,
            threshold=self.threshold,
            release="r1",
            contradicts=contradicts or UNSET,
        )
        self.enter(score, at_ms=at_ms)
        return score

    def delete(self, source: SourcePosition, *, at_ms: int = 500) -> None:
        """Enter the outcome of a tombstone at `source`."""
        truth = self.published[source.offset].truth
        score = ProductScore(
            product_id=truth.product_id,
            order=truth.order,
            outcome="deleted",
            source=source,
            published_at=NOW,
            scored_at=NOW,
        )
        self.enter(score, at_ms=at_ms)

    def enter(self, score: ProductScore, *, at_ms: int) -> None:
        """Enter any score."""
        self.scores.append(score)
        self.ledger.add_score(score, at_ms)

    def reject(self, source: SourcePosition, reason: str) -> None:
        """Enter a dead letter for the update at `source`."""
        letter = DeadLetter(
            reason=reason,
            message=f"{reason} in words",
            attempts=1,
            source=source,
            product_id=None,
            image_url=None,
            release=None,
            published_at=NOW,
            rejected_at=NOW,
            key=None,
            value=None,
            headers=[],
        )
        self.ledger.add_dead_letter(letter, 500)

    def alerts(self) -> list[MismatchAlert]:
        """Return the alerts that the scores so far call for, in order."""
        states: dict[str, AlertState | None] = {}
        alerts: list[MismatchAlert] = []
        for score in self.scores:
            states[score.product_id], alert = decide(states.get(score.product_id), score, source="/test")
            alerts += [alert] if alert is not None else []
        return alerts

    def raise_alerts(self, *, at_ms: int = 600) -> None:
        """Enter all of them."""
        for alert in self.alerts():
            self.ledger.add_alert(alert, at_ms)
