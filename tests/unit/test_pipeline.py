"""One event's whole way: every event ends in exactly one record, and is acknowledged after it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import orjson
import pytest

from engines.contract import AttributeColumns, Calibration
from streamer.alert import decide
from streamer.batch import Batcher
from streamer.errors import RejectedEvent, TransientError
from streamer.events import DEAD_LETTERS, PRODUCT_SCORES, ProductScore
from streamer.incoming import Incoming
from streamer.pipeline import Pipeline
from streamer.settings import PipelineSettings, TopicSettings
from streamer.telemetry import Telemetry
from streamer.topics import MAX_DEAD_LETTER_BYTES
from streamer.tracing import OFF
from streamer.wire import SourcePosition, Unread
from tests.fakes import FakeEngine, FakeFetcher, FakeTokenizer, Published, WordTokenizer, fake_serving, manifest, png

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from engines.contract import Batch
    from streamer.alert_state import AlertState
    from streamer.keeping import Keeper
    from streamer.serving import Serving
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


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Yield a pipeline with room for eight events."""
    async for built in build(PipelineSettings(max_in_flight=8)):
        yield built


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


async def test_newer_version_supersedes_the_one_that_waits(bench: Bench) -> None:
    """The older version ends without inference, and its record comes first."""
    bench.fetcher.hold(RIGHT)
    await bench.send(update(1, RIGHT))
    await asyncio.sleep(0)
    await bench.send(update(2, WRONG))
    first, second = await bench.settle()
    assert (first["outcome"], first["superseded_by"]) == ("superseded", 2)
    assert second["outcome"] == "scored"
    assert sorted(bench.acknowledged) == [0, 1]
    assert bench.engine.batches == [1]


async def test_newer_version_that_is_rejected_leaves_the_older_its_score(bench: Bench) -> None:
    """What one at a time would have led to; the dead letter comes after the score."""
    missing = "https://shop.example/missing.png"
    bench.fetcher.pages[missing] = RejectedEvent("image_not_found", "404")
    bench.fetcher.hold(RIGHT)
    await bench.send(update(1))
    await bench.send(update(2, missing))
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.dead() == []
    bench.fetcher.release(RIGHT)
    assert [score["outcome"] for score in await bench.settle()] == ["scored"]
    assert [letter["reason"] for letter in bench.dead()] == ["image_not_found"]
    assert bench.acknowledged == [0, 1]


async def test_older_version_that_comes_late_is_superseded(bench: Bench) -> None:
    """The newest version known wins, whatever the order of arrival."""
    await bench.send(update(5))
    await bench.pipeline.drain()
    await bench.send(update(4, WRONG))
    _, late = await bench.settle()
    assert (late["outcome"], late["superseded_by"]) == ("superseded", 5)


async def test_same_version_again_is_recorded_after_the_first(bench: Bench) -> None:
    """A duplicate has its own record, and it is `unchanged`."""
    await bench.send(update(1))
    await bench.send(update(1))
    assert [score["outcome"] for score in await bench.settle()] == ["scored", "unchanged"]
    assert bench.acknowledged == [0, 1]


@pytest.mark.parametrize("tombstone", [None, {"id": "p", "version": 2, "deleted": True}])
async def test_tombstone_is_recorded_after_what_it_overtook(bench: Bench, tombstone: dict[str, Any] | None) -> None:
    """A null value, or `deleted` with a version, ends the update that waits and is recorded behind it."""
    bench.fetcher.hold(RIGHT)
    await bench.send(update(1))
    await asyncio.sleep(0)
    await bench.send(tombstone)
    await bench.settle()
    assert [score["outcome"] for score in bench.published.topic(PRODUCT_SCORES)] == ["superseded", "deleted"]


async def test_tombstone_without_version_leaves_the_order_to_what_it_ends(bench: Bench) -> None:
    """The update that it ended says how new the product was: an older one that comes late does not bring it back."""
    bench.fetcher.hold(RIGHT)
    await bench.send(update(5))
    await asyncio.sleep(0)
    await bench.send(None)
    await bench.send(update(3, WRONG))
    state: AlertState | None = None
    records = await bench.settle()
    for record in records:
        state, _ = decide(state, msgspec.convert(record, ProductScore), source="/test")
    assert [(record["outcome"], record["order"]) for record in records[:2]] == [("superseded", 5), ("deleted", None)]
    assert state is not None
    assert (state.deleted, state.order) == (True, 5)


async def test_older_version_behind_a_rejected_newer_one_is_scored(bench: Bench) -> None:
    """Whether the newer one is still in the works when it comes, or has been rejected by then."""
    missing = "https://shop.example/missing.png"
    bench.fetcher.pages[missing] = RejectedEvent("image_not_found", "404")
    await bench.send(update(7, missing))
    await bench.send(update(5))
    await bench.settle()
    await bench.send(update(6, WRONG))
    assert [(score["order"], score["outcome"]) for score in await bench.settle()] == [(5, "scored"), (6, "scored")]


async def test_update_without_version_is_found_by_its_product_in_dead_letters(bench: Bench) -> None:
    """What could be read of it stands in its letter."""
    await bench.send({"id": "p", "title": "x", "image_link": RIGHT})
    await bench.settle()
    (letter,) = bench.dead()
    assert (letter["reason"], letter["product_id"], letter["image_url"]) == ("version_missing", "p", RIGHT)


async def test_newest_of_three_ends_the_others_when_it_is_ready(bench: Bench) -> None:
    """The third is ready first and ends both that wait for their pictures."""
    bench.fetcher.hold(RIGHT)
    slow = "https://shop.example/slow.png"
    bench.fetcher.pages[slow] = png(7)
    bench.fetcher.hold(slow)
    await bench.send(update(1))
    await bench.send(update(2, slow))
    await bench.send(update(3, WRONG))
    scores = await bench.settle()
    assert [score["outcome"] for score in scores] == ["superseded", "superseded", "scored"]
    assert [score["superseded_by"] for score in scores] == [3, 3, None]


async def test_tombstone_in_flight_is_recorded_although_a_newer_update_follows(bench: Bench) -> None:
    """What follows a deletion may be rejected: the product's alert must have been closed."""
    bench.published.gate = asyncio.Event()
    await bench.send(None)
    await bench.send({"id": "p", "version": 3, "title": "a mug"})
    bench.published.gate.set()
    assert [score["outcome"] for score in await bench.settle()] == ["deleted"]
    assert [letter["reason"] for letter in bench.dead()] == ["image_missing"]


async def test_tombstone_redelivered_after_a_newer_version_is_superseded(bench: Bench) -> None:
    """Its offset says that it is older than what is known."""
    bench.offset = 7
    await bench.send(update(2))
    await bench.pipeline.drain()
    bench.offset = 3
    await bench.send(None)
    outcomes = {score["source"]["offset"]: score["outcome"] for score in await bench.settle()}
    assert outcomes == {3: "superseded", 7: "scored"}


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (b"{", b"p", "malformed_json"),
        (b'{"id": 7, "version": 1}', b"p", "malformed_event"),
        (b'{"id": "p", "schema_version": 9}', b"p", "schema_unsupported"),
        (b'{"id": "p", "title": "x", "image_link": "u"}', b"p", "version_missing"),
        (None, None, "key_missing"),
        (b'{"id": "p", "version": 1, "title": "a mug"}', b"p", "image_missing"),
        (b'{"id": "p", "version": 1, "image_link": "https://shop.example/right.png"}', b"p", "text_empty"),
    ],
)
async def test_bad_event_goes_to_dead_letters_with_its_reason(
    bench: Bench, value: bytes | None, key: bytes | None, reason: str
) -> None:
    """It is acknowledged, its bytes are kept, and the event behind it is scored."""
    await bench.send(value, key)
    await bench.send(update(1, product="next"))
    scores = await bench.settle()
    (letter,) = bench.dead()
    assert letter["reason"] == reason
    assert letter["source"] == {"topic": "product-updates", "partition": 0, "offset": 0}
    assert letter["headers"] == [["trace", "MQ=="]]
    assert [score["outcome"] for score in scores] == ["scored"]
    assert sorted(bench.acknowledged) == [0, 1]


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (RejectedEvent("image_not_found", "404"), "image_not_found"),
        (TransientError("image_timeout", "slow"), "image_timeout"),
        (b"not an image at all", "image_unsupported"),
        (png(0)[:-30], "image_truncated"),
    ],
)
async def test_bad_picture_goes_to_dead_letters_with_its_reason(
    bench: Bench, page: bytes | Exception, reason: str
) -> None:
    """Errors of the fetcher and of the decoder become outcomes."""
    bench.fetcher.pages[WRONG] = page
    await bench.send(update(1, WRONG))
    await bench.settle()
    assert [letter["reason"] for letter in bench.dead()] == [reason]
    assert bench.acknowledged == [0]


async def test_pair_that_the_engine_cannot_score_goes_to_dead_letters() -> None:
    """The stream goes on."""
    async for bench in build(PipelineSettings(), FakeEngine(poison=255)):
        await bench.send(update(1, WRONG))
        await bench.send(update(1, RIGHT, product="q"))
        assert [score["product_id"] for score in await bench.settle()] == ["q"]
        assert [letter["reason"] for letter in bench.dead()] == ["inference_failed"]


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


@pytest.mark.parametrize("reader", ["streamer.pipeline.parse_update", "streamer.serving.compose"])
async def test_event_that_cannot_be_read_for_an_unforeseen_reason_is_rejected(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """A bug in what reads strangers' bytes stops nobody: each worker after this one would be given the same event."""

    def fails(*_: object) -> None:
        raise RecursionError("too deep")

    with monkeypatch.context() as broken:
        broken.setattr(reader, fails)
        await bench.send(update(1))
        await bench.settle()
    await bench.send(update(2))
    assert [score["outcome"] for score in await bench.settle()] == ["scored"]
    (letter,) = bench.dead()
    assert (letter["reason"], letter["message"]) == ("event_unreadable", "reading it failed: RecursionError")
    assert bench.acknowledged == [0, 1]


async def test_record_that_could_not_be_read_is_rejected_as_it_says(bench: Bench) -> None:
    """Its dead letter keeps no bytes, as nobody has them, and says where they stand."""
    await bench.send(Unread(RejectedEvent("batch_too_large", "the batch")), None)
    await bench.settle()
    (letter,) = bench.dead()
    assert (letter["reason"], letter["message"], letter["value_omitted"]) == ("batch_too_large", "the batch", True)
    assert (letter["value"], letter["product_id"], letter["source"]["offset"]) == (None, None, 0)  # type: ignore[index]
    assert bench.acknowledged == [0]


async def test_replay_keeps_its_place_among_the_updates(bench: Bench) -> None:
    """Behind a tombstone, or a later update of its version, a replay is superseded; in its own place it is scored."""
    bench.offset = 7
    await bench.send(None)
    await bench.send(update(5), b"p", ("replayed-from", b"product-updates/0/6"))
    await bench.send(update(5, product="q"))
    await bench.send(update(5, WRONG, product="q"), b"q", ("replayed-from", b"product-updates/0/8"))
    await bench.send(update(5, WRONG, product="q"), b"q", ("replayed-from", b"product-updates/0/10"))
    scores = await bench.settle()
    assert [score["outcome"] for score in scores] == ["deleted", "superseded", "scored", "superseded", "scored"]
    assert scores[1]["origin"] == {"topic": "product-updates", "partition": 0, "offset": 6}
    assert scores[1]["source"]["offset"] == 8
    assert "origin" not in scores[2]


async def test_replay_that_is_rejected_again_says_where_it_first_stood(bench: Bench) -> None:
    """Its dead letter names both places, so that another replay keeps the first."""
    bench.offset = 12
    await bench.send(b"{", b"p", ("replayed-from", b"product-updates/0/9"))
    await bench.settle()
    (letter,) = bench.dead()
    assert letter["origin"] == {"topic": "product-updates", "partition": 0, "offset": 9}
    assert letter["source"] == {"topic": "product-updates", "partition": 0, "offset": 12}


async def test_replay_that_claims_a_place_to_come_closes_its_product_for_nobody(bench: Bench) -> None:
    """A tombstone from the end of time would be newer than every update that follows."""
    await bench.send(None, b"p", ("replayed-from", b"product-updates/0/999999999999999999"))
    await bench.send(update(8))
    assert [score["outcome"] for score in await bench.settle()] == ["deleted", "scored"]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        None,
        b"product-updates/0",
        b"a/b/c",
        b"product-updates/0/" + b"9" * 30,
        b"\xff/0/1",
        b"product-updates/-1/2",
        b"product-updates/3/9",
        b"others/0/9",
    ],
)
async def test_replay_header_that_is_not_one_of_ours_is_ignored(bench: Bench, value: bytes | None) -> None:
    """Anybody may write headers."""
    await bench.send(update(1), b"p", ("replayed-from", value))
    (score,) = await bench.settle()
    assert score["outcome"] == "scored"
    assert "origin" not in score


@pytest.mark.parametrize(
    ("key", "headers", "value", "kept"),
    [
        (b"k" * 2**20, [("h", b"x" * 2**20)], b"{", (False, False)),
        (b"k" * 1_000_000, [], b"{", (False, False)),
        (b"k" * 1_040_000, [], None, (False, False)),
        (b"k" * 500_000, [], b"{" * 40_000, (True, True)),
        (b"k", [("h", b"")] * 200_000, b"{", (False, False)),
        (b"k", [("\x01" * 2**20, None)], b"{", (False, False)),
        (b"k", [("h", b"x" * 600_000)], b"{" * 600_000, (True, False)),
        (b"k", [("h", b"x" * 400_000)], b"{" * 600_000, (True, True)),
    ],
)
async def test_dead_letter_of_an_enormous_event_fits_its_topic(
    bench: Bench, key: bytes, headers: list[tuple[str, bytes | None]], value: bytes | None, kept: tuple[bool, bool]
) -> None:
    """No event makes a dead letter that the topic does not take: first its value is left out, then key and headers.

    The record's own key counts as well, and is left out with the other.
    """
    await bench.send(value, key, *headers)
    await bench.settle()
    (letter,) = bench.dead()
    assert (letter["key"] is not None, letter["value"] is not None) == kept
    assert letter["value_omitted"] == (not kept[1])
    ((_, own_key, _),) = bench.published.records
    assert own_key == (key if kept[0] else None)
    assert len(own_key or b"") + len(orjson.dumps(letter)) < MAX_DEAD_LETTER_BYTES - 2**16


async def test_large_value_is_left_out_of_its_dead_letter(bench: Bench) -> None:
    """A record that would not fit the topic is named by its position instead."""
    await bench.send(b"{" + b" " * (2**20 + 1))
    await bench.settle()
    (letter,) = bench.dead()
    assert (letter["value"], letter["value_omitted"]) == (None, True)


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
