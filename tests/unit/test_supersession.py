"""Updates of a few products in any order, duplicated and deleted: each has one outcome, and the newest wins."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.alert import decide
from streamer.batch import Batcher
from streamer.errors import RejectedEvent
from streamer.events import DEAD_LETTERS, PRODUCT_SCORES, ProductScore
from streamer.incoming import Incoming
from streamer.offsets import PartitionLedger
from streamer.pipeline import Pipeline
from streamer.settings import PipelineSettings, TopicSettings
from streamer.telemetry import Telemetry
from streamer.wire import SourcePosition
from tests.fakes import SIDE, FakeEngine, FakeFetcher, Published, fake_serving

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.alert_state import AlertState

Event = tuple[str, int | None, str, int]

GONE = "https://shop.example/gone"
PICTURES = {f"https://shop.example/{red}": bytes([red]) for red in (0, 255)}

events = st.tuples(
    st.sampled_from("pq"),
    st.integers(1, 4) | st.none(),  # a version; none is a null value
    st.sampled_from([*PICTURES, GONE]),
    st.integers(0, 3),  # turns of the loop before the next event is admitted
)


async def pixels(data: bytes) -> NDArray[np.uint8]:
    """Return a picture of one colour, without decoding anything."""
    return np.full((3, SIDE, SIDE), data[0], np.uint8)


class Log:
    """One partition on its way through a pipeline; offsets are committed as a worker commits them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.ledger = PartitionLedger(0)
        self.unfinished: set[int] = set()

    async def admit(self, offset: int, product: str, version: int | None, url: str) -> None:
        value = None
        if version is not None:
            value = orjson.dumps({"id": product, "version": version, "title": "a mug", "image_link": url})
        self.ledger.deliver(offset)
        self.unfinished.add(offset)
        await self.pipeline.admit(
            Incoming(
                key=product.encode(),
                value=value,
                headers=[],
                position=SourcePosition(topic="product-updates", partition=0, offset=offset),
                published_at=datetime.now(UTC),
                acknowledge=lambda: self.acknowledge(offset),
            )
        )

    def acknowledge(self, offset: int) -> None:
        """Commit what may be committed: never past an event that has no outcome."""
        self.unfinished.discard(offset)
        self.ledger.acknowledge(offset)
        committable = self.ledger.committable()
        if committable is not None:
            assert all(committable <= other for other in self.unfinished)
            self.ledger.committed = committable


async def outcomes(sequence: list[Event]) -> list[dict[str, Any]]:
    """Return the records of a sequence of events, in the order of their publication."""
    engine, published, telemetry = FakeEngine(), Published(), Telemetry()
    fetcher = FakeFetcher({**PICTURES})
    fetcher.pages[GONE] = _GONE
    batcher = Batcher(engine, max_batch=8, report=telemetry.batch)
    with ThreadPoolExecutor(1) as executor:
        pipeline = Pipeline(
            fetcher=fetcher,  # type: ignore[arg-type]
            serving=fake_serving(batcher.lane, executor, decoded=pixels, explained_share=0),
            batcher=batcher,
            executor=executor,
            publish=published,
            topics=TopicSettings(),
            settings=PipelineSettings(max_in_flight=8, explained_share=0),
            telemetry=telemetry,
        )
        log = Log(pipeline)
        for offset, (product, version, url, turns) in enumerate(sequence):
            await log.admit(offset, product, version, url)
            for _ in range(turns):
                await asyncio.sleep(0)
        await pipeline.drain()
        await batcher.close()
    assert not pipeline.fatal.done()
    assert log.ledger.committed == len(sequence)
    return [record for topic, _, record in published.records if topic in (PRODUCT_SCORES, DEAD_LETTERS)]


_GONE = RejectedEvent("image_not_found", "404")


def final(records: list[dict[str, Any]]) -> dict[str, tuple[bool, bool]]:
    """Return whether each product is deleted, and whether an alert is open, as the alert agent has it."""
    states: dict[str, AlertState | None] = {}
    for record in records:
        if "outcome" in record:
            score = msgspec.convert(record, ProductScore)
            states[score.product_id], _ = decide(states.get(score.product_id), score, source="/test")
    return {p: (s.deleted, s.alert is not None) for p, s in states.items() if s is not None}


def ordered(sequence: list[Event]) -> list[Event]:
    """Return the events that have an order among each other, whatever becomes of them.

    Left out are the same version with another picture, and versions behind a tombstone without one that are no higher
    than those before it.
    """
    first: dict[tuple[str, int | None], str] = {}
    highest: dict[str, int] = {}
    deleted: set[str] = set()
    kept = []
    for event in sequence:
        product, version, url, _ = event
        old = product in deleted and version is not None and version <= highest.get(product, 0)
        if version is None:
            deleted.add(product)
        elif old or first.setdefault((product, version), url) != url:
            continue
        else:
            highest[product] = max(version, highest.get(product, 0))
        kept.append(event)
    return kept


@settings(max_examples=60)
@given(st.lists(events, max_size=14).map(ordered))
def test_events_in_any_order_have_one_outcome_each_and_end_as_one_by_one(sequence: list[Event]) -> None:
    """However they overtake each other, products end as if each event had been finished before the next one came."""
    records = asyncio.run(outcomes(sequence))
    assert sorted(record["source"]["offset"] for record in records) == list(range(len(sequence)))
    assert final(records) == final(asyncio.run(outcomes([(p, v, url, 200) for p, v, url, _ in sequence])))
