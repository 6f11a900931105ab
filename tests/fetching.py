"""A worker's pipeline with a real fetcher, an engine that answers at once, and a partition of updates."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

from streamer.batch import Batcher
from streamer.events import DEAD_LETTERS, PRODUCT_SCORES
from streamer.fetch import Fetcher
from streamer.incoming import Incoming
from streamer.pipeline import Pipeline
from streamer.settings import PipelineSettings, TopicSettings
from streamer.telemetry import Telemetry
from streamer.wire import SourcePosition
from tests.fakes import FakeEngine, Published, fake_serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.abc import AbstractResolver

    from streamer.serving import Decode
    from streamer.settings import FetchSettings


class Worker:
    """A pipeline with a real fetcher, an engine that answers at once, and a partition of updates."""

    def __init__(self, pipeline: Pipeline, published: Published) -> None:
        self.pipeline = pipeline
        self.published = published
        self.acknowledged: list[int] = []
        self.offset = 0

    async def send(self, url: str, product: str | None = None) -> None:
        offset, self.offset = self.offset, self.offset + 1
        update = {"id": product or f"p{offset}", "version": 1 + offset, "title": "a mug", "image_link": url}
        await self.pipeline.admit(
            Incoming(
                key=b"p",
                value=orjson.dumps(update),
                headers=[],
                position=SourcePosition(topic="product-updates", partition=0, offset=offset),
                published_at=datetime.now(UTC),
                acknowledge=lambda: self.acknowledged.append(offset),
            )
        )

    def outcomes(self) -> Counter[str]:
        scores = self.published.topic(PRODUCT_SCORES)
        letters = self.published.topic(DEAD_LETTERS)
        return Counter([str(one["outcome"]) for one in scores] + [str(one["reason"]) for one in letters])


@asynccontextmanager
async def worker(
    fetch: FetchSettings, *, in_flight: int, decoded: Decode | None = None, resolver: AbstractResolver | None = None
) -> AsyncIterator[Worker]:
    """Yield a worker that holds so many events in flight; `decoded` stands for its decoders."""
    engine, published, telemetry = FakeEngine(), Published(), Telemetry()
    batcher = Batcher(engine, max_batch=8, report=telemetry.batch)
    batcher.pairs_per_s = 1e6
    pipeline_settings = PipelineSettings(max_in_flight=in_flight, score_cache_entries=0)
    with ThreadPoolExecutor(1) as executor:
        async with Fetcher(fetch, resolver=resolver) as fetcher:
            pipeline = Pipeline(
                fetcher=fetcher,
                serving=fake_serving(batcher.lane, executor, decoded=decoded),
                batcher=batcher,
                executor=executor,
                publish=published,
                topics=TopicSettings(),
                settings=pipeline_settings,
                telemetry=telemetry,
            )
            yield Worker(pipeline, published)
        await batcher.close()
