"""Updates of one product: which of them counts, whatever order they come and end in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from streamer.alert import decide
from streamer.errors import RejectedEvent
from streamer.events import PRODUCT_SCORES, ProductScore
from tests.fakes import png

if TYPE_CHECKING:
    from streamer.alert_state import AlertState
from tests.pipeline_bench import RIGHT, WRONG, Bench, update


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
