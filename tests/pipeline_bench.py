"""A pipeline on fakes, and what it did."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from streamer.batch import Batcher
from streamer.events import DEAD_LETTERS, PRODUCT_SCORES
from streamer.incoming import Incoming
from streamer.pipeline import Pipeline
from streamer.settings import PipelineSettings, TopicSettings
from streamer.telemetry import Telemetry
from streamer.tracing import OFF
from streamer.wire import SourcePosition
from tests.fakes import FakeEngine, FakeFetcher, FakeTokenizer, Published, WordTokenizer, fake_serving, png

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from streamer.keeping import Keeper
    from streamer.shadow import Shadow
    from streamer.tracing import Tracing


RIGHT, WRONG = "https://shop.example/right.png", "https://shop.example/wrong.png"


@dataclass
class Bench:
    """A pipeline on fakes, and what it did."""

    pipeline: Pipeline
    fetcher: FakeFetcher
    published: Published
    engine: FakeEngine
    batcher: Batcher
    acknowledged: list[int] = field(default_factory=list)
    offset: int = 0

    async def send(
        self, update: dict[str, Any] | bytes | None, key: bytes | None = b"p", *headers: tuple[str, bytes | None]
    ) -> None:
        value = orjson.dumps(update) if isinstance(update, dict) else update
        offset, self.offset = self.offset, self.offset + 1
        incoming = Incoming(
            key=key,
            value=value,
            headers=[("trace", b"1"), *headers],
            position=SourcePosition(topic="product-updates", partition=0, offset=offset),
            published_at=datetime.now(UTC),
            acknowledge=lambda: self.acknowledged.append(offset),
        )
        await self.pipeline.admit(incoming)

    async def settle(self) -> list[dict[str, Any]]:
        """Wait until nothing is in flight; return the scores in the order of their events."""
        while self.pipeline.in_flight:  # noqa: ASYNC110 - `drain` would hurry
            await asyncio.sleep(0)
        return sorted(self.published.topic(PRODUCT_SCORES), key=lambda score: score["source"]["offset"])

    def dead(self) -> list[dict[str, Any]]:
        return self.published.topic(DEAD_LETTERS)


async def build(
    settings: PipelineSettings,
    engine: FakeEngine | None = None,
    tokenizer: FakeTokenizer | WordTokenizer | None = None,
    *,
    keeper: Keeper | None = None,
    shadow: Shadow | None = None,
    tracing: Tracing = OFF,
) -> AsyncIterator[Bench]:
    """Yield a pipeline on fakes, and end its threads."""
    engine = engine or FakeEngine()
    fetcher, published, telemetry = FakeFetcher({RIGHT: png(0), WRONG: png(255)}), Published(), Telemetry()
    batcher = Batcher(engine, max_batch=8, report=telemetry.batch)
    with ThreadPoolExecutor(1) as executor:
        pipeline = Pipeline(
            fetcher=fetcher,  # type: ignore[arg-type]
            serving=fake_serving(
                batcher.lane,
                executor,
                tokenizer=tokenizer,
                explained_share=settings.explained_share,
                heat_map_share=settings.heat_map_share,
            ),
            batcher=batcher,
            executor=executor,
            publish=published,
            topics=TopicSettings(),
            settings=settings,
            telemetry=telemetry,
            keeper=keeper,
            shadow=shadow,
            tracing=tracing,
        )
        yield Bench(pipeline, fetcher, published, engine, batcher)
        await batcher.close()


def update(version: int, url: str = RIGHT, *, product: str = "p", title: str = "a mug") -> dict[str, Any]:
    """Return an update of one product."""
    return {"id": product, "version": version, "title": title, "image_link": url}
