"""One event's whole way: every event ends in exactly one record, and is acknowledged after it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engines.contract import AttributeColumns, Calibration
from streamer.settings import PipelineSettings
from tests.fakes import FakeEngine, WordTokenizer, fake_serving, manifest, png

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.contract import Batch
    from streamer.serving import Serving
from tests.pipeline_bench import RIGHT, WRONG, Bench, build, update


async def test_event_is_scored_and_acknowledged(bench: Bench) -> None:
    """The record carries digests, probability, threshold and release; the acknowledgement comes after it."""
    await bench.send(update(1, WRONG))
    (score,) = await bench.settle()
    assert score["outcome"] == "scored"
    assert score["probability"] > 0.99
    assert score["threshold"] == 0.5
    assert score["release"] == bench.engine.manifest.release
    assert len(score["image_sha256"]) == len(score["text_sha256"]) == 64
    assert bench.acknowledged == [0]


async def test_event_is_not_acknowledged_before_the_broker_has_its_record(bench: Bench) -> None:
    """While publication is pending nothing is acknowledged."""
    bench.published.gate = asyncio.Event()
    await bench.send(update(1))
    while not bench.engine.batches:  # noqa: ASYNC110 - the fake engine runs in a thread and signals nothing
        await asyncio.sleep(0)
    assert bench.acknowledged == []
    bench.published.gate.set()
    await bench.settle()
    assert bench.acknowledged == [0]


async def test_update_that_changes_neither_picture_nor_text_costs_no_inference(bench: Bench) -> None:
    """The second version is `unchanged`, with the probability of the first, and no second fetch of the body."""
    await bench.send(update(1))
    await bench.pipeline.drain()
    await bench.send(update(2))
    first, second = await bench.settle()
    assert (first["outcome"], second["outcome"]) == ("scored", "unchanged")
    assert second["probability"] == first["probability"]
    assert bench.engine.batches == [1]


async def test_same_picture_under_another_url_costs_no_inference(bench: Bench) -> None:
    """The digest decides, not the address."""
    bench.fetcher.pages["https://cdn.example/copy.png"] = png(0)
    await bench.send(update(1))
    await bench.pipeline.drain()
    await bench.send(update(2, "https://cdn.example/copy.png"))
    assert [score["outcome"] for score in await bench.settle()] == ["scored", "unchanged"]


async def test_depths_count_the_events_in_a_stage(bench: Bench) -> None:
    """An event that waits for its picture is counted under fetch, also when it is superseded there; then no more."""
    bench.fetcher.hold(RIGHT)
    await bench.send(update(1))
    while not bench.fetcher.asked:  # noqa: ASYNC110 - the fake signals nothing
        await asyncio.sleep(0)
    assert bench.pipeline.depths == {"fetch": 1, "preprocess": 0}
    await bench.send(update(2, WRONG))
    await bench.settle()
    assert bench.pipeline.depths == {"fetch": 0, "preprocess": 0}


async def test_admission_waits_when_too_much_is_in_flight() -> None:
    """Backpressure: consumption stops at the bound and goes on when there is room."""
    async for bench in build(PipelineSettings(max_in_flight=1)):
        bench.fetcher.hold(RIGHT)
        await bench.send(update(1, RIGHT))
        second = asyncio.create_task(bench.send(update(1, WRONG, product="q")))
        await asyncio.sleep(0)
        assert not second.done()
        bench.fetcher.release(RIGHT)
        await second
        assert len(await bench.settle()) == 2


@pytest.mark.parametrize(("pairs_per_s", "room"), [(0.0, 8), (0.01, 1), (0.5, 5), (2.0, 20), (1e6, 40)])
async def test_admission_waits_when_the_engine_could_not_finish_in_a_drain(pairs_per_s: float, room: int) -> None:
    """In flight is what the engine answers in ten of the drain's seconds, at least one, at most the bound by number."""
    async for bench in build(PipelineSettings(drain_timeout_s=25, max_in_flight=40)):
        bench.fetcher.hold(RIGHT)
        bench.batcher.pairs_per_s = pairs_per_s
        for number in range(room):
            await bench.send(update(1, RIGHT, product=f"p{number}"))
        more = asyncio.create_task(bench.send(update(1, WRONG, product="q")))
        await asyncio.sleep(0)
        assert not more.done()
        bench.fetcher.release(RIGHT)
        await more
        assert len(await bench.settle()) == room + 1


async def test_abandoned_event_leaves_no_record_and_no_acknowledgement(bench: Bench) -> None:
    """What is given up at shutdown is another worker's."""
    bench.fetcher.hold(RIGHT)
    await bench.send(update(1, RIGHT))
    await asyncio.sleep(0)
    await bench.pipeline.abandon()
    assert bench.published.records == []
    assert bench.acknowledged == []


async def test_unforeseen_error_stops_the_worker_without_acknowledgement(bench: Bench) -> None:
    """A bug is neither an outcome nor a reason to commit."""
    bench.fetcher.pages[RIGHT] = ZeroDivisionError("a bug")
    await bench.send(update(1, RIGHT))
    await bench.pipeline.drain()
    assert bench.pipeline.fatal.result().code == "pipeline_failed"
    assert bench.acknowledged == []


class PricedEngine(FakeEngine):
    """Adds the value of its first attribute to the logit, where it is known."""

    def __init__(self) -> None:
        super().__init__()
        columns = AttributeColumns(numbers=("price",), categories={"color": ("red", "blue")})
        self.manifest = manifest(attributes=columns)

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        assert batch.attributes is not None
        assert batch.attributes.shape == (len(batch), 2, 2)
        super().infer(batch)
        return batch.attributes[:, 0, 0] - 20 * batch.attributes[:, 1, 0] * batch.attributes[:, 1, 1]


async def test_engine_that_reads_attributes_gets_those_of_the_update() -> None:
    """Its logit depends on the price, beside an unknown color, and on a color that only `attributes` names."""
    async for bench in build(PipelineSettings(), PricedEngine()):
        await bench.send(update(1, product="dear") | {"price": "1000000 EUR"})
        await bench.send(update(1, product="free") | {"price": 0})
        await bench.send(update(1, product="blue") | {"price": 0, "attributes": {"color": "Blue"}})
        dear, free, blue = (score["probability"] for score in await bench.settle())
        assert dear > 0.99
        assert free == pytest.approx(0.5)
        assert blue < 0.01


async def test_attribute_that_the_engine_reads_is_part_of_what_was_said() -> None:
    """Another price is scored anew; the same one, and a column that is not read, are not."""
    async for bench in build(PipelineSettings(), PricedEngine()):
        for version, changed in enumerate(({"price": 5}, {"price": 5, "brand": None}, {"price": 6}), start=1):
            await bench.send(update(version) | changed)
            await bench.settle()
        scores = await bench.settle()
        assert [score["outcome"] for score in scores] == ["scored", "unchanged", "scored"]
        assert scores[0]["text_sha256"] == scores[1]["text_sha256"] != scores[2]["text_sha256"]


async def test_claim_that_is_left_out_of_the_text_is_left_out_of_the_attributes() -> None:
    """What is named is the field that alone, in text and attributes together, calms the engine."""

    class Mindful(PricedEngine):
        def infer(self, batch: Batch) -> NDArray[np.float32]:
            super().infer(batch)
            assert batch.attributes is not None
            told = (batch.attributes[:, 1, 1] > 0) | (batch.attention_mask[:, 3] > 0)
            return np.where(told, 9, -9).astype(np.float32)

    async for bench in build(PipelineSettings(), Mindful(), WordTokenizer()):
        await bench.send(update(1, title="mug") | {"color": "red"})
        (score,) = await bench.settle()
        assert score["contradicts"] == [{"field": "color", "value": "red", "share": 1.0}]


def swap(bench: Bench, executor: ThreadPoolExecutor, **changes: object) -> tuple[FakeEngine, Serving]:
    """Swap to a release with another manifest; return its engine and the release that judged before."""
    engine = FakeEngine()
    engine.manifest = manifest(release="fake-111111111111", **changes)
    lane = bench.batcher.open(engine, max_batch=8)
    return engine, bench.pipeline.swap(fake_serving(lane, executor))


async def test_swap_leaves_an_event_on_its_way_with_the_release_that_it_began_with(bench: Bench) -> None:
    """Its picture and text were made ready for that one; what comes after the swap is judged by the new one."""
    with ThreadPoolExecutor(1) as executor:
        bench.fetcher.hold(RIGHT)
        await bench.send(update(1, product="early"))
        while not bench.fetcher.asked:  # noqa: ASYNC110 - the fake signals nothing
            await asyncio.sleep(0)
        new, before = swap(bench, executor, files={"model.onnx": "other"}, threshold=0.25)
        unused = asyncio.create_task(before.unused())
        await bench.send(update(1, WRONG, product="late"))
        while not new.batches:  # noqa: ASYNC110 - the fake signals nothing
            await asyncio.sleep(0)
        assert not unused.done()
        bench.fetcher.release(RIGHT)
        early, late = await bench.settle()
        await asyncio.wait_for(unused, 10)
    assert (early["release"], early["threshold"]) == ("fake-000000000000", 0.5)
    assert (late["release"], late["threshold"]) == ("fake-111111111111", 0.25)
    assert (bench.engine.batches, new.batches) == ([1], [1])


async def test_swap_to_another_model_scores_again_what_was_scored(bench: Bench) -> None:
    """What one model said is not what another one says."""
    with ThreadPoolExecutor(1) as executor:
        await bench.send(update(1))
        await bench.settle()
        new, _ = swap(bench, executor, files={"model.onnx": "other"})
        await bench.send(update(2))
        first, second = await bench.settle()
    assert [first["outcome"], second["outcome"]] == ["scored", "scored"]
    assert new.batches == [1]


async def test_swap_of_calibration_and_thresholds_decides_again_without_inference() -> None:
    """The same model says the same; what it means is the new release's to say."""
    engine, model = FakeEngine(), {"model.onnx": "the same"}
    engine.manifest = manifest(files=model)
    with ThreadPoolExecutor(1) as executor:
        async for bench in build(PipelineSettings(), engine):
            await bench.send(update(1))
            await bench.settle()
            new, _ = swap(bench, executor, files=model, calibration=Calibration(shift=300.0), threshold=0.75)
            await bench.send(update(2))
            first, second = await bench.settle()
            assert new.batches == []
    assert (second["outcome"], second["release"], second["threshold"]) == ("unchanged", "fake-111111111111", 0.75)
    assert (first["probability"] < 0.5, second["probability"] > 0.99) == (True, True)
