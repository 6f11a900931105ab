"""What an alert names: the claims without which the engine is calm; and that naming never costs the score."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engines.errors import InferenceFailed
from streamer.batch import MAX_FAILURES_IN_A_ROW
from streamer.explain import BURST
from streamer.settings import PipelineSettings
from tests.fakes import FakeEngine, WordTokenizer
from tests.pipeline_bench import RIGHT, WRONG, build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from numpy.typing import NDArray

    from engines.contract import Batch
    from tests.pipeline_bench import Bench

MINDED = 3  # the fourth word, `navy` in `title: mug` and `color: navy`


class WordEngine(FakeEngine):
    """Minds one word of a wrong picture's text; `stubborn` engines fail where it is left out."""

    def __init__(self, *, stubborn: bool = False, gate: Callable[[], object] | None = None) -> None:
        super().__init__(gate=gate)
        self.stubborn = stubborn

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        if self.stubborn and not batch.attention_mask[:, MINDED].all():
            raise InferenceFailed("a word is missing")
        logits = super().infer(batch)
        return np.where(batch.attention_mask[:, MINDED] > 0, logits, -10.0).astype(np.float32)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Yield a pipeline whose engine minds the colour."""
    async for built in build(PipelineSettings(), WordEngine(), WordTokenizer()):
        yield built


def navy_mug(url: str, version: int = 1, product: str = "p") -> dict[str, Any]:
    """Return an update of a product whose picture may not be navy."""
    return {"id": product, "version": version, "title": "mug", "color": "navy", "image_link": url}


async def test_alerting_score_names_the_contradicted_field(bench: Bench) -> None:
    """The colour alone calms the engine, so the title's words need not be tried."""
    await bench.send(navy_mug(WRONG))
    (score,) = await bench.settle()
    assert score["contradicts"] == [{"field": "color", "value": "navy", "share": 1.0}]
    assert bench.engine.batches == [1, 1]  # the product; the product without `navy`


async def test_alerting_score_that_no_field_explains_names_a_word_of_the_title(bench: Bench) -> None:
    """Then each word of the title is left out, too."""
    await bench.send({"id": "p", "version": 1, "title": "mug or navy", "color": "red", "image_link": WRONG})
    (score,) = await bench.settle()
    assert score["contradicts"] == [{"field": "title", "value": "navy", "share": 1.0}]
    assert sum(bench.engine.batches) == 4  # the product, without `red`, without `mug`, without `navy`


async def test_score_below_the_threshold_costs_nothing_more(bench: Bench) -> None:
    """Right pictures are scored once, and their scores say nothing of fields."""
    await bench.send(navy_mug(RIGHT))
    (score,) = await bench.settle()
    assert "contradicts" not in score
    assert bench.engine.batches == [1]


async def test_unchanged_score_names_what_the_first_one_did(bench: Bench) -> None:
    """The alert that it keeps open can still be explained, without inference."""
    await bench.send(navy_mug(WRONG))
    await bench.settle()
    await bench.send(navy_mug(WRONG, version=2))
    first, second = await bench.settle()
    assert second["outcome"] == "unchanged"
    assert second["contradicts"] == first["contradicts"]
    assert sum(bench.engine.batches) == 2


async def test_attribution_that_fails_keeps_the_score_and_the_worker() -> None:
    """However often it fails in a row, products are scored, nothing is rejected, and the worker goes on."""
    gate = threading.Event()
    async for bench in build(PipelineSettings(), WordEngine(stubborn=True, gate=gate.wait), WordTokenizer()):
        bench.batcher.pairs_per_s = 1e6  # there is room for all of them
        for number in range(MAX_FAILURES_IN_A_ROW):
            await bench.send({**navy_mug(WRONG, product=f"p{number}"), "color": f"navy {number}"})
        gate.set()
        scores = await bench.settle()
        assert {score["outcome"] for score in scores} == {"scored"}
        assert len(scores) == MAX_FAILURES_IN_A_ROW
        assert not any("contradicts" in score for score in scores)
        assert bench.dead() == []
        assert not bench.batcher.fatal.done()


async def test_alerting_score_where_explaining_is_off_says_nothing() -> None:
    """The alert stands, and the engine runs once."""
    async for bench in build(PipelineSettings(explained_share=0), WordEngine(), WordTokenizer()):
        await bench.send(navy_mug(WRONG))
        (score,) = await bench.settle()
        assert score["probability"] >= score["threshold"]
        assert "contradicts" not in score
        assert bench.engine.batches == [1]


async def test_flood_of_alerts_is_explained_in_part_and_scored_whole() -> None:
    """What a calm stream has saved up and a tenth of the flood are explained; every alert stands."""
    alerts = 300
    async for bench in build(PipelineSettings(explained_share=0.1, max_in_flight=8), WordEngine(), WordTokenizer()):
        for number in range(alerts):
            await bench.send({**navy_mug(WRONG, product=f"p{number}"), "color": f"navy {number}"})
        scores = await bench.settle()
        assert [score["outcome"] for score in scores] == ["scored"] * alerts
        explained = sum("contradicts" in score for score in scores)
        assert BURST + alerts // 10 - 2 <= explained <= BURST + alerts // 10


async def test_worker_that_others_wait_for_explains_nothing(bench: Bench) -> None:
    """Its partitions are handed over sooner; once nobody waits, alerts are explained again."""
    bench.pipeline.hurried = True
    await bench.send(navy_mug(WRONG))
    await bench.settle()
    bench.pipeline.hurried = False
    await bench.send({**navy_mug(WRONG, product="q"), "color": "navy blue"})
    assert ["contradicts" in score for score in await bench.settle()] == [False, True]


async def test_draining_worker_explains_nothing(bench: Bench) -> None:
    """Whoever waits for it to leave is served first."""
    bench.fetcher.hold(WRONG)
    await bench.send(navy_mug(WRONG))
    drained = asyncio.create_task(bench.pipeline.drain())
    await asyncio.sleep(0)  # it has begun
    bench.fetcher.release(WRONG)
    await drained
    (score,) = await bench.settle()
    assert score["probability"] > 0.99
    assert "contradicts" not in score
