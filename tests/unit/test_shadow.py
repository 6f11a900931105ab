"""A challenger that is tried: it scores its share, alerts nobody, and whatever it does the champion goes on."""

from __future__ import annotations

import asyncio
import io
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.contract import Calibration, ImageSpec
from engines.errors import InferenceFailed
from engines.image import decode
from streamer.events import PRODUCT_SCORES
from streamer.reload import Loaded
from streamer.serving import Reading
from streamer.settings import PipelineSettings
from streamer.shadow import MAX_FAILURES_IN_A_ROW, MAX_OFFERED, Challenger, Shadow
from streamer.shadow_events import SHADOW_SCORES, ShadowRelease, is_shadowed
from streamer.telemetry import Telemetry
from tests.fakes import SIDE, FakeEngine, FakeTokenizer, Published, manifest
from tests.pipeline_bench import RIGHT, WRONG, Bench, build, update

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PATIENCE_S = 20.0


def trial(share: float = 1.0, release: str = "fake-222222222222") -> ShadowRelease:
    """Return the announcement of a trial."""
    return ShadowRelease(
        release=release,
        manifest_sha256="0" * 64,
        share=share,
        announced_at=datetime(2026, 1, 1, tzinfo=UTC),
        announced_by="test",
    )


@dataclass
class Try:
    """A shadow on fakes and the pipeline that offers to it."""

    shadow: Shadow
    published: Published
    telemetry: Telemetry
    bench: Bench
    fetched: list[str] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    async def follow(self, wanted: ShadowRelease | None, engine: FakeEngine | None = None) -> None:
        """Do as an announcement says; the release is the fake engine."""

        async def fetch(wanted: ShadowRelease) -> Loaded | None:
            self.fetched.append(wanted.release)
            chosen = engine or FakeEngine()
            chosen.manifest = manifest(release=wanted.release, calibration=Calibration(shift=-300.0), threshold=0.25)
            return Loaded(chosen, FakeTokenizer())  # type: ignore[arg-type]

        await self.shadow.follow(wanted, fetch)

    async def until(self, so: Callable[[], object]) -> None:
        """Return when that is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not so():  # noqa: ASYNC110 - threads tell nobody
                await asyncio.sleep(0.001)

    def compared(self) -> list[dict[str, Any]]:
        return self.published.topic(SHADOW_SCORES)

    def count(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def trying(**settings: Any) -> AsyncIterator[Try]:  # noqa: ANN401 - of the pipeline
    """Yield a pipeline with a shadow that tries nothing yet."""
    published, telemetry, closed = Published(), Telemetry(), threading.Event()

    def ready(loaded: Loaded) -> Challenger:
        one = loaded.engine.manifest
        decoded = partial(decode, spec=one.image, max_pixels=10**6)
        return Challenger(Reading(one, loaded.tokenizer), decoded, loaded.engine, closed.set)

    shadow = Shadow(publish=published, topic=SHADOW_SCORES, ready=ready, telemetry=telemetry)
    async for bench in build(PipelineSettings(**settings), shadow=shadow):
        yield Try(shadow, published, telemetry, bench, closed=closed)
        await shadow.end()


async def test_challenger_scores_its_share_and_only_compares() -> None:
    """What goes to product-scores is the champion's alone; the comparison says what either would do."""
    async with trying() as tried:
        await tried.follow(trial())
        for product, url in (("p", WRONG), ("q", RIGHT)):
            await tried.bench.send(update(1, url, product=product))
        scores = await tried.bench.settle()
        await tried.until(lambda: len(tried.compared()) == 2)
        assert {score["release"] for score in scores} == {"fake-000000000000"}
        by_product = {one["product_id"]: one for one in tried.compared()}
        assert by_product["p"]["champion"]["probability"] == scores[0]["probability"]
        assert by_product["p"]["challenger"]["release"] == "fake-222222222222"
        assert by_product["p"]["challenger"]["logit"] == by_product["p"]["champion"]["logit"] == 127.5
        assert by_product["p"]["challenger"]["threshold"] == 0.25
        assert by_product["p"]["source"] == scores[0]["source"]
        await tried.until(lambda: tried.count("streamer_shadow_compared_total", agreement="closes") == 1)
        assert tried.count("streamer_shadow_compared_total", agreement="neither") == 1
        assert tried.count("streamer_shadow_info", release="fake-222222222222") == 1


async def test_product_that_was_scored_before_is_not_offered_again() -> None:
    """The challenger would say of the same picture and text what it has said."""
    async with trying() as tried:
        await tried.follow(trial())
        for version in (1, 2):
            await tried.bench.send(update(version))
            await tried.bench.settle()
        await tried.until(tried.compared)
        assert [one["order"] for one in tried.compared()] == [1]


@given(st.text(min_size=1, max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_products_of_a_share_are_of_every_larger_one(product: str, one: float, other: float) -> None:
    """Chosen by the product's id alone, so all workers choose alike, and a trial may grow."""
    small, large = sorted((one, other))
    assert is_shadowed(product, large) or not is_shadowed(product, small)
    assert is_shadowed(product, 1.0)


def test_share_is_the_share_of_products() -> None:
    """Within what chance allows."""
    chosen = sum(is_shadowed(f"product-{number}", 0.05) for number in range(20_000))
    assert 880 < chosen < 1120  # four standard deviations


async def test_share_that_changes_needs_no_loading() -> None:
    """The same challenger goes on, with more products or fewer."""
    async with trying() as tried:
        await tried.follow(trial(share=1e-9))
        await tried.bench.send(update(1))
        await tried.bench.settle()
        await tried.follow(trial(share=1.0))
        await tried.bench.send(update(2, WRONG))
        await tried.bench.settle()
        await tried.until(tried.compared)
        assert [one["order"] for one in tried.compared()] == [2]
        assert tried.fetched == ["fake-222222222222"]


async def test_challenger_that_hangs_costs_the_champion_nothing() -> None:
    """All its events have their outcomes; what the challenger has no room for is passed over."""
    gate = threading.Event()
    async with trying(score_cache_entries=0) as tried:
        await tried.follow(trial(), FakeEngine(gate=gate.wait))
        total = MAX_OFFERED + 10
        for number in range(total):
            await tried.bench.send(update(1, product=f"p{number}"))
        scores = await tried.bench.settle()
        assert len(scores) == len(tried.bench.acknowledged) == total
        assert tried.count("streamer_shadow_skipped_total", reason="busy") == 10
        gate.set()
        await tried.until(lambda: len(tried.compared()) == MAX_OFFERED)


async def test_broker_that_takes_no_comparisons_costs_the_champion_nothing() -> None:
    """What waits for it is bounded as what waits for the challenger."""
    async with trying(score_cache_entries=0) as tried:
        tried.published.gate = asyncio.Event()
        await tried.follow(trial())
        total = MAX_OFFERED + 5
        for number in range(total):
            await tried.bench.send(update(1, product=f"p{number}"))
            await tried.bench.settle()
        assert len(tried.bench.published.topic(PRODUCT_SCORES)) == total
        assert tried.count("streamer_shadow_skipped_total", reason="busy") == 5
        tried.published.gate.set()


async def test_picture_larger_than_there_is_room_for_is_passed_over() -> None:
    """Whatever the number of products that wait."""
    async with trying() as tried:
        await tried.follow(trial())
        await tried.bench.send(update(1))
        (score,) = await tried.bench.settle()
        await tried.until(tried.compared)

        class Large(io.BytesIO):
            def seek(self, offset: int, whence: int = 0) -> int:
                return 2**40 if whence == 2 else super().seek(offset)

        tried.shadow.offer(score, _Update("p"), Large())  # type: ignore[arg-type]
        assert tried.count("streamer_shadow_skipped_total", reason="busy") == 1


@dataclass
class _Update:
    id: str


class Broken(FakeEngine):
    """Fails as it is told."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def infer(self, batch: Any) -> Any:  # noqa: ANN401 - never answered
        raise self.error


@pytest.mark.parametrize(
    ("error", "products"),
    [(InferenceFailed("NaN"), MAX_FAILURES_IN_A_ROW), (RuntimeError("a bug"), 1), (MemoryError(), 1)],
)
async def test_challenger_that_fails_is_given_up(error: Exception, products: int) -> None:
    """Nobody but those who read metrics and logs hears of it; the same announcement does not begin it again."""
    async with trying(score_cache_entries=0) as tried:
        await tried.follow(trial(), Broken(error))
        for number in range(products):
            await tried.bench.send(update(1, product=f"p{number}"))
            await tried.bench.settle()
            await tried.until(lambda n=number: tried.count("streamer_shadow_skipped_total", reason="failed") == n + 1)
        assert tried.count("streamer_shadow_refused_total", reason="challenger_failing") == 1
        assert tried.count("streamer_shadow_info", release="fake-222222222222") == 0
        await tried.until(tried.closed.is_set)
        await tried.follow(trial())
        assert tried.fetched == ["fake-222222222222"]
        await tried.follow(trial(release="fake-333333333333"))
        assert tried.fetched == ["fake-222222222222", "fake-333333333333"]
        assert len(tried.bench.published.topic(PRODUCT_SCORES)) == products


async def test_picture_that_only_the_challenger_refuses_is_passed_over() -> None:
    """And one that it can score counts as before."""
    refusing = FakeEngine(poison=0)
    async with trying(score_cache_entries=0) as tried:
        await tried.follow(trial(), refusing)
        for product, url in (("p", RIGHT), ("q", WRONG)):
            await tried.bench.send(update(1, url, product=product))
        await tried.bench.settle()
        await tried.until(tried.compared)
        assert [one["product_id"] for one in tried.compared()] == ["q"]
        assert tried.count("streamer_shadow_skipped_total", reason="failed") == 1


async def test_trial_that_ends_has_freed_its_memory() -> None:
    """Whoever waits for the end may load another engine."""
    async with trying() as tried:
        await tried.follow(trial())
        assert not tried.closed.is_set()
        await tried.follow(None)
        assert tried.closed.is_set()
        assert not tried.shadow.wants("p")
        assert tried.count("streamer_shadow_info", release="fake-222222222222") == 0


async def test_challenger_that_hangs_does_not_keep_its_worker() -> None:
    """Its end is waited for a while, not for ever."""
    gate = threading.Event()
    async with trying() as tried:
        hanging = FakeEngine(gate=gate.wait)
        await tried.follow(trial(), hanging)
        await tried.bench.send(update(1))
        await tried.bench.settle()
        await tried.shadow.end(within_s=0.01)
        assert not tried.closed.is_set()
        gate.set()
        await tried.until(tried.closed.is_set)


async def test_challenger_reads_pictures_and_texts_its_own_way() -> None:
    """Another size of picture than the champion's is decoded from the same bytes."""
    async with trying() as tried:
        engine = FakeEngine()
        sizes: list[tuple[int, ...]] = []
        real = engine.infer

        def infer(batch: Any) -> Any:  # noqa: ANN401 - a batch, logits
            sizes.append(batch.pixel_values.shape)
            return real(batch)

        engine.infer = infer  # type: ignore[method-assign]

        async def fetch(wanted: ShadowRelease) -> Loaded | None:
            engine.manifest = manifest(release=wanted.release, image=ImageSpec(height=2 * SIDE, width=2 * SIDE))
            return Loaded(engine, FakeTokenizer())  # type: ignore[arg-type]

        await tried.shadow.follow(trial(), fetch)
        await tried.bench.send(update(1, WRONG))
        await tried.bench.settle()
        await tried.until(tried.compared)
        assert sizes == [(1, 3, 2 * SIDE, 2 * SIDE)]


async def test_challenger_that_is_refused_is_not_asked_for_again() -> None:
    """Until it is announced again."""
    async with trying() as tried:
        asked: list[str] = []

        async def refuse(wanted: ShadowRelease) -> Loaded | None:
            asked.append(wanted.release)
            return None

        for _ in range(2):
            await tried.shadow.follow(trial(), refuse)
        assert asked == ["fake-222222222222"]
