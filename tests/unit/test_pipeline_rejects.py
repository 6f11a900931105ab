"""What cannot be scored: its reason, and its original bytes, in the dead-letter topic."""

from __future__ import annotations

import orjson
import pytest

from streamer.errors import RejectedEvent, TransientError
from streamer.settings import PipelineSettings
from streamer.topics import MAX_DEAD_LETTER_BYTES
from streamer.wire import Unread
from tests.fakes import FakeEngine, png
from tests.pipeline_bench import RIGHT, WRONG, Bench, build, update


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


async def test_update_without_version_is_found_by_its_product_in_dead_letters(bench: Bench) -> None:
    """What could be read of it stands in its letter."""
    await bench.send({"id": "p", "title": "x", "image_link": RIGHT})
    await bench.settle()
    (letter,) = bench.dead()
    assert (letter["reason"], letter["product_id"], letter["image_url"]) == ("version_missing", "p", RIGHT)


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
