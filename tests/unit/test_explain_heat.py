"""Where in the picture an alert is contradicted: for a share of them, one at a time, and never at the score's cost."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from engines import heat
from streamer.events import Contradiction
from streamer.explain import HEAT_MAP_BURST, Explainer
from streamer.pairs import Pair, Scored
from streamer.settings import PipelineSettings
from tests.fakes import MINDED, SIDE, MindfulEngine, WordTokenizer
from tests.pipeline_bench import WRONG, build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from streamer.events import Contradiction as Named
    from tests.pipeline_bench import Bench

INFERENCES = 2 * (1 + heat.GRID * heat.GRID)
RED = np.zeros((3, SIDE, SIDE), dtype=np.uint8)
RED[0, 1:-1, 1:-1] = 255


def mug(number: int) -> dict[str, Any]:
    """Return an update of a product whose picture is red."""
    return {"id": f"p{number}", "version": 1, "title": "mug", "color": f"navy{number}", "image_link": WRONG}


async def shop(share: float) -> AsyncIterator[Bench]:
    """Yield a pipeline whose engine minds the color of mugs whose picture is red within a black margin."""
    buffer = io.BytesIO()
    Image.fromarray(RED.transpose(1, 2, 0)).save(buffer, "PNG")
    async for bench in build(PipelineSettings(heat_map_share=share), MindfulEngine(), WordTokenizer()):
        bench.fetcher.pages[WRONG] = buffer.getvalue()
        bench.batcher.pairs_per_s = 1e6  # there is room for all of them
        yield bench


async def test_alert_says_where_its_first_claim_is_contradicted() -> None:
    """The warmest region is 100; it costs its inferences, and only those."""
    async for bench in shop(share=1.0):
        await bench.send(mug(0))
        (score,) = await bench.settle()
        (named,) = score["contradicts"]
        assert named["field"] == "color"
        where = np.array(named["where"])
        assert where.shape == (heat.GRID, heat.GRID)
        assert where[2, 2] == where.max() == 100
        assert where[0, 0] < 50
        assert sum(bench.engine.batches) == 2 + INFERENCES


async def test_alert_says_nothing_of_where_unless_it_is_told_to() -> None:
    """It is dear, and off."""
    assert PipelineSettings().heat_map_share == 0.0
    async for bench in shop(share=0.0):
        await bench.send(mug(0))
        (score,) = await bench.settle()
        assert "where" not in score["contradicts"][0]
        assert sum(bench.engine.batches) == 2


async def test_flood_of_alerts_has_a_few_heat_maps_and_all_names() -> None:
    """What a calm stream has saved up, and the share."""
    alerts = 40
    async for bench in shop(share=0.05):
        for number in range(alerts):
            await bench.send(mug(number))
            scores = await bench.settle()
        named = [score["contradicts"][0] for score in scores]
        assert [one["field"] for one in named] == ["color"] * alerts
        shown = sum("where" in one for one in named)
        assert HEAT_MAP_BURST < shown <= HEAT_MAP_BURST + round(0.05 * alerts)


async def test_heat_map_that_fails_keeps_the_names() -> None:
    """What was told before stays; nothing is rejected."""
    async for bench in shop(share=1.0):
        bench.engine.poison = int(heat.covered(RED)[1:, 0].mean(axis=(1, 2)).max().round())
        await bench.send(mug(0))
        (score,) = await bench.settle()
        assert score["contradicts"] == [{"field": "color", "value": "navy0", "share": 1.0}]
        assert bench.dead() == []


class SlowLane:
    """Answers at once about the picture as it is, and about covered ones when it may."""

    def __init__(self) -> None:
        self.looking, self.may = asyncio.Event(), asyncio.Event()

    async def logit(self, pair: Pair, *, explains: bool) -> Scored:
        assert explains
        if pair.pixel_values is not RED:
            self.looking.set()
            await self.may.wait()
        minds = bool(pair.attention_mask[MINDED])
        return Scored(float(pair.pixel_values[0].mean()) - 127.5 if minds else -10.0, 0.0, 0.0)


async def test_heat_maps_come_one_at_a_time() -> None:
    """An alert that comes meanwhile is named and goes on: who leaves waits for no more than one."""
    lane, tokenizer = SlowLane(), WordTokenizer()
    ids, mask = tokenizer.encode(["title: mug\ncolor: navy"])
    with ThreadPoolExecutor(1) as executor:
        explainer = Explainer(
            tokenizer=tokenizer,  # type: ignore[arg-type]
            lane=lane,  # type: ignore[arg-type]
            executor=executor,
            share=1.0,
            heat_map_share=1.0,
        )

        async def explained() -> tuple[Named, ...]:
            pair = Pair(RED, ids[0], mask[0])
            return await explainer.contradictions("title: mug\ncolor: navy", pair, 16.0, lambda logit: logit > 0)

        first = asyncio.create_task(explained())
        await lane.looking.wait()
        assert await explained() == (Contradiction(field="color", value="navy", share=1.0),)
        lane.may.set()
        (shown,) = await first
        assert shown.where
