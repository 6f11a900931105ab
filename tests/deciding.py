"""An alert agent on fakes of Faust's stream, events and table, and scores to give it: for tests of deciding."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from streamer.alert_agent import AlertAgent
from streamer.events import MISMATCH_ALERTS, ProductScore
from streamer.policy import Policy
from streamer.settings import Settings
from streamer.telemetry import Telemetry
from streamer.tracing import OFF
from streamer.wire import SourcePosition
from tests.fakes import Published, manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from streamer.tracing import Tracing

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = {"model.onnx": "the same"}
OTHER_MODEL = {"model.onnx": "another"}


def policy(release: str, threshold: float = 0.5, *, files: dict[str, str] = MODEL, **changes: object) -> Policy:
    """Return how a release of one model decides."""
    return Policy(manifest(release=release, threshold=threshold, files=files, **changes))


LENIENT, STRICT = policy("r-lenient", 0.9), policy("r-strict", 0.5)
FOREIGN = policy("r-foreign", 0.1, files=OTHER_MODEL)


def score(order: int, logit: float, by: Policy, *, product: str = "p", category: str | None = None) -> ProductScore:
    """Return what a worker that runs the release makes of an update."""
    return ProductScore(
        product_id=product,
        order=order,
        outcome="scored",
        source=SourcePosition(topic="product-updates", partition=0, offset=order),
        published_at=NOW,
        scored_at=NOW,
        title="Blue mug",
        category=category,
        image_url="https://cdn.example/mug.jpg",
        image_sha256="a",
        text_sha256="t",
        probability=by.probability(logit),
        threshold=by.threshold(category or ""),
        release=by.release,
        logit=logit,
        model=by.model,
    )


UNSURE = 1.0  # logit of a probability of 0.73: an alert to the strict release, none to the lenient one


class Table(dict[str, Any]):
    """Faust's table: the broker has a change at once, or, where `holds` is set, when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.last_change: asyncio.Future[None]
        self.changes: list[asyncio.Future[None]] = []
        self.holds = False
        self.lost = False

    def __setitem__(self, key: str, value: object) -> None:
        if self.lost:
            raise SystemError("killed before the state was written")
        super().__setitem__(key, value)
        self.last_change = asyncio.get_running_loop().create_future()
        self.changes.append(self.last_change)
        if not self.holds:
            self.last_change.set_result(None)


class Stream:
    """Faust's stream of a few records."""

    def __init__(self, records: Iterable[tuple[str, bytes]], acknowledged: list[int], generation: int) -> None:
        self._records = list(records)
        self._generation = generation
        self._acknowledged = acknowledged

    def noack(self) -> Stream:
        return self

    async def events(self) -> AsyncIterator[Any]:
        for offset, (topic, value) in enumerate(self._records):
            message = SimpleNamespace(
                topic=topic,
                partition=0,
                offset=offset,
                key=b"k",
                value=value,
                headers=None,
                timestamp=0.0,
                generation_id=self._generation,
            )
            yield SimpleNamespace(
                message=message, value=value, ack=lambda offset=offset: self._acknowledged.append(offset)
            )


class Owner:
    """An alert agent, what it publishes and what it acknowledges, without a broker."""

    def __init__(
        self,
        runs: Policy,
        table: Table | None = None,
        *,
        published: Published | None = None,
        keeper: Any = None,  # noqa: ANN401 - a fake
        tracing: Tracing = OFF,
    ) -> None:
        self.runs = runs
        self.table = table if table is not None else Table()
        self.published = published or Published()
        self.acknowledged: list[int] = []
        self.agent = AlertAgent(
            table=self.table,
            policy=lambda: self.runs,
            settings=Settings(),
            publish_alert=self.published,
            publish=self.published,
            keeper=keeper,
            telemetry=Telemetry(),
            tracing=tracing,
        )

    async def take(self, *records: tuple[str, bytes], generation: int = 1) -> None:
        """Give the agent records of topics, delivered in a generation of its group."""
        await self.agent.run(Stream(records, self.acknowledged, generation))
        await asyncio.sleep(0)  # what acknowledges is called by the loop

    @property
    def alerts(self) -> list[dict[str, Any]]:
        return self.published.topic(MISMATCH_ALERTS)
