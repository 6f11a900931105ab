"""Publishing: only what is acknowledged with everything before it counts, whatever happens to a run."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import orjson
import pytest
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RequestTimedOutError
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import FatalError, RejectedEvent
from streamer.publish import Publication, Published, check
from streamer.publish_state import PublishOptions, PublishState, begin, save

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streamer.feeds import Feed

KAFKA = "kafka:9092"


class Notes:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.lines: list[tuple[int, str]] = []

    def advanced(self, feed: Feed, published: Published) -> None:
        """Look at the feed as a progress bar does."""
        assert feed.position() <= feed.total
        assert published.rejected <= published.rows + len(self.lines)

    def rejected(self, line: int, error: RejectedEvent) -> None:
        """Keep the line and the code."""
        self.lines.append((line, error.code))


class FakeKafka:
    """A producer whose broker answers each message as it is told, when flushed or at once."""

    def __init__(self, fate: Callable[[bytes], KafkaError | None] = lambda _: None, *, silent: bool = False) -> None:
        """`fate` answers a key with an error or None; a silent broker never answers."""
        self.fate = fate
        self.silent = silent
        self.keys: list[bytes] = []
        self.acknowledged: set[bytes] = set()
        self.sending = asyncio.Event()

    async def send(self, topic: str, *, key: bytes, value: bytes) -> asyncio.Future[object]:
        """Take a message, or refuse one that is too large."""
        if len(value) > 2**20:
            raise MessageSizeTooLargeError("1 MiB at most")
        self.keys.append(key)
        self.sending.set()
        delivery: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        error = self.fate(key)
        if error is not None:
            delivery.set_exception(error)
        elif not self.silent:
            self.acknowledged.add(key)
            delivery.set_result(topic)
        return delivery

    async def flush(self) -> None:
        """Wait for what is in flight; a silent broker lets the wait run out."""
        if self.silent:
            raise TimeoutError


def write_feed(folder: Path, rows: int, *, bad: Sequence[int] = ()) -> PublishOptions:
    """Write a feed of this many rows, some of them without an id, and return the options to publish it."""
    path = folder / "feed.jsonl"
    rows_of = ({"title": "?"} if number in bad else {"id": f"p{number}"} for number in range(1, rows + 1))
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows_of))
    return PublishOptions(feed=path, topic="product-updates")


async def run(options: PublishOptions, kafka: FakeKafka, watch: Notes | None = None) -> Published:
    """Publish from where the last run ended."""
    return await Publication(options, begin(options, KAFKA), kafka, watch or Notes()).run()  # type: ignore[arg-type]


def read_state(options: PublishOptions) -> PublishState:
    """Return the state file's content."""
    return msgspec.json.decode(options.state_path.read_bytes(), type=PublishState)


def test_check_counts_good_and_bad_rows_and_sends_nothing(tmp_path: Path) -> None:
    """A dry run tells every bad line and leaves no state behind."""
    options, watch = write_feed(tmp_path, 5, bad=[2, 4]), Notes()
    done = check(options, watch)
    assert (done.rows, done.rejected, done.finished) == (5, 2, True)
    assert watch.lines == [(2, "malformed_event"), (4, "malformed_event")]
    assert not options.state_path.exists()


def test_check_stops_at_the_limit(tmp_path: Path) -> None:
    """`limit` is a row of the feed."""
    options = replace(write_feed(tmp_path, 5), limit=3)
    assert (check(options, Notes()).rows, check(options, Notes()).finished) == (3, False)


def test_check_of_a_feed_that_is_all_wrong_ends_after_a_hundred_rows(tmp_path: Path) -> None:
    """A missing option or a wrong file is one error, not a million."""
    watch = Notes()
    with pytest.raises(FatalError) as caught:
        check(write_feed(tmp_path, 200, bad=range(201)), watch)
    assert caught.value.code == "feed_unusable"
    assert len(watch.lines) == 100


def test_check_with_a_base_url_that_is_none_is_refused(tmp_path: Path) -> None:
    """A base that is no http(s) address would make links that nobody can fetch."""
    with pytest.raises(FatalError, match="--base-url"):
        check(replace(write_feed(tmp_path, 1), base_url="cdn.example/x"), Notes())


async def test_publish_all_acknowledged_finishes(tmp_path: Path) -> None:
    """Every good row is sent once under its id; the next run has nothing to do."""
    options, kafka = write_feed(tmp_path, 600, bad=[7]), FakeKafka()
    done = await run(options, kafka)
    assert (done.rows, done.rejected, done.sent, done.finished) == (600, 1, 599, True)
    assert kafka.keys == [f"p{number}".encode() for number in range(1, 601) if number != 7]
    assert begin(options, KAFKA).finished
    assert begin(options, KAFKA).rejected == 1


async def test_publish_acknowledgement_behind_a_failure_does_not_count(tmp_path: Path) -> None:
    """Row 4 arrived, row 3 did not: the next run begins at row 3."""
    options = write_feed(tmp_path, 5)
    with pytest.raises(FatalError) as caught:
        await run(options, FakeKafka(lambda key: RequestTimedOutError() if key == b"p3" else None))
    assert caught.value.code == "publish_failed"
    assert "row 3" in str(caught.value)
    assert read_state(options).rows == 2
    again = FakeKafka()
    done = await run(options, again)
    assert again.keys == [b"p3", b"p4", b"p5"]
    assert (done.resumed_at, done.rows, done.finished) == (2, 5, True)


async def test_publish_cancelled_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    """Ctrl-C loses nothing and counts nothing that the broker has not confirmed."""
    options, kafka = write_feed(tmp_path, 3), FakeKafka(silent=True)
    running = asyncio.create_task(run(options, kafka))
    await kafka.sending.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (read_state(options).rows, read_state(options).finished) == (0, False)


async def test_publish_row_larger_than_a_message_is_a_bad_row(tmp_path: Path) -> None:
    """One row that Kafka cannot take does not stop the feed."""
    options = write_feed(tmp_path, 2)
    with options.feed.open("ab") as file:
        file.write(orjson.dumps({"id": "p3", "description": "x" * 2**21}) + b"\n")
    watch = Notes()
    done = await run(options, FakeKafka(), watch)
    assert watch.lines == [(3, "row_too_large")]
    assert (done.sent, done.rejected, done.finished) == (2, 1, True)


async def test_publish_to_a_limit_goes_on_from_there(tmp_path: Path) -> None:
    """A limited run is not finished; the next one continues."""
    options = write_feed(tmp_path, 5)
    done = await run(replace(options, limit=2), FakeKafka())
    assert (done.rows, done.finished) == (2, False)
    assert (await run(options, FakeKafka())).sent == 3


@given(data=st.data(), rows=st.integers(1, 12))
async def test_publish_until_finished_delivers_every_row_in_order(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: int
) -> None:
    """However often runs fail, every good row arrives, and the count never passes one that has not."""
    bad = data.draw(st.sets(st.integers(1, rows)))
    options = write_feed(tmp_path_factory.mktemp("feed"), rows, bad=sorted(bad))
    arrived: set[bytes] = set()
    finished = False
    while not finished:
        failing = data.draw(st.sets(st.integers(1, rows), max_size=2))
        lost = {f"p{number}".encode() for number in failing} if data.draw(st.booleans()) else set[bytes]()
        kafka = FakeKafka(lambda key, lost=lost: RequestTimedOutError() if key in lost else None)  # type: ignore[misc]
        with contextlib.suppress(FatalError):
            finished = (await run(options, kafka)).finished
        arrived |= kafka.acknowledged
        counted = {f"p{n}".encode() for n in range(1, read_state(options).rows + 1) if n not in bad}
        assert counted <= arrived
    assert arrived == {f"p{number}".encode() for number in range(1, rows + 1) if number not in bad}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rows": 3}, "resume"),
        ({"rows": 3, "topic": "other"}, "refuse"),
        ({"rows": 3, "feed_sha256": "0" * 64}, "refuse"),
        ({"rows": 3, "bootstrap": "other:9092"}, "refuse"),
        ({"rows": 3, "base_url": "https://h/"}, "refuse"),
        ({"rows": 3, "topic": "other", "finished": True}, "anew"),
        ({"rows": 3, "feed_sha256": "0" * 64, "finished": True}, "anew"),
        ({"rows": 3, "rejected": 3, "base_url": "https://h/"}, "anew"),
        ({"rows": 0, "feed_sha256": "0" * 64}, "anew"),
    ],
)
def test_begin_after_an_earlier_run(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    """The same feed to the same place goes on, a finished one gives way, and a half-sent other one is a question."""
    options = write_feed(tmp_path, 5)
    last = msgspec.structs.replace(begin(options, KAFKA), **changes)
    save(options.state_path, last)
    if expected == "refuse":
        with pytest.raises(FatalError, match="--restart") as caught:
            begin(options, KAFKA)
        assert caught.value.code == "publish_unfinished"
    else:
        assert begin(options, KAFKA).rows == (3 if expected == "resume" else 0)
    assert begin(replace(options, restart=True), KAFKA).rows == 0


def test_begin_after_a_touch_keeps_the_first_time(tmp_path: Path) -> None:
    """The time orders the rows without a version: both halves of a feed must carry the same."""
    options = write_feed(tmp_path, 5)
    last = msgspec.structs.replace(begin(options, KAFKA), rows=2)
    save(options.state_path, last)
    os.utime(options.feed, (1, 1))
    assert begin(options, KAFKA) == last


def test_begin_with_a_damaged_state_says_so(tmp_path: Path) -> None:
    """A state that cannot be read is not guessed at."""
    options = write_feed(tmp_path, 1)
    options.state_path.write_text("{", encoding="utf-8")
    with pytest.raises(FatalError) as caught:
        begin(options, KAFKA)
    assert caught.value.code == "publish_state_invalid"


def test_save_where_nothing_can_be_written_names_the_option(tmp_path: Path) -> None:
    """A read-only folder of products is usual."""
    options = write_feed(tmp_path, 1)
    with pytest.raises(FatalError, match="--state-dir") as caught:
        save(options.feed / "state.json", begin(options, KAFKA))
    assert caught.value.code == "state_unwritable"


def test_state_stands_beside_the_feed_or_where_it_is_told(tmp_path: Path) -> None:
    """One state file per feed, named after it."""
    options = write_feed(tmp_path, 1)
    assert options.state_path == tmp_path / "feed.jsonl.publish-state.json"
    assert replace(options, state_dir=tmp_path / "s").state_path == tmp_path / "s/feed.jsonl.publish-state.json"
