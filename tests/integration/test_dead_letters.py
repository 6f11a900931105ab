"""`streamer dead-letters` on a broker: what is chosen, what is shown, and that a replay is the event as it was."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streamer import topics
from streamer.cli import main
from streamer.dead_letters import Choice, open_dead_letters
from streamer.errors import RejectedEvent
from streamer.events import DEAD_LETTERS, PRODUCT_UPDATES
from streamer.incoming import Headers, Incoming, dead_letter
from streamer.outbox import producer
from streamer.settings import BrokerSettings, TopicSettings
from streamer.updates import parse_update
from streamer.wire import SourcePosition, encode, origin_of

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.demo.broker import EmbeddedBroker

NOW = datetime.now(UTC)
NAMES = TopicSettings(partitions=2)
STOOD = SourcePosition(topic=PRODUCT_UPDATES, partition=1, offset=100)


HEADERS: Headers = [("trace", b"\xff\x00"), ("empty", None)]


def event(number: int, host: str = "cdn.example") -> bytes:
    """Return an update of product p<number>."""
    return json.dumps({"id": f"p{number}", "version": number, "image_link": f"https://{host}/a.jpg", "x": "ü"}).encode()


def letter(number: int, reason: str, *, host: str = "cdn.example", value: bytes | None = None, **changes: Any) -> bytes:  # noqa: ANN401 - fields of an event
    """Return a dead letter of product p<number>, whose event stood at that offset of partition 1."""
    fields: dict[str, Any] = {
        "key": f"p{number}".encode(),
        "value": event(number, host) if value is None else value,
        "headers": HEADERS,
        "position": SourcePosition(topic=PRODUCT_UPDATES, partition=1, offset=number),
        "published_at": NOW - timedelta(hours=1),
        "acknowledge": lambda: None,
    }
    incoming = Incoming(**(fields | changes))
    try:
        update = parse_update(incoming.key, incoming.value)
    except RejectedEvent:
        update = None
    return encode(dead_letter(incoming, RejectedEvent(reason, "why\x1b[31m"), update=update, release="r-1"))


async def fill(broker: BrokerSettings, letters: list[bytes]) -> None:
    """Create the topics and write the letters to the first partition."""
    await topics.create(broker, topics.specs(NAMES))
    async with producer(broker) as kafka:
        for one in letters:
            await kafka.send_and_wait(DEAD_LETTERS, one, partition=0)


async def updates(broker: BrokerSettings, count: int) -> list[Any]:
    """Return that many records of the updates' second partition."""
    consumer = AIOKafkaConsumer(**topics.client_kwargs(broker), auto_offset_reset="earliest")
    await consumer.start()
    try:
        tp = TopicPartition(PRODUCT_UPDATES, 1)
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        return [await asyncio.wait_for(consumer.getone(), 10) for _ in range(count)]
    finally:
        await consumer.stop()


@pytest.fixture
def broker(tansu: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BrokerSettings:
    """Return a broker with five letters, which the commands find."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("STREAMER_BROKER__BOOTSTRAP", tansu.bootstrap)
    monkeypatch.chdir(tmp_path)
    settings = BrokerSettings(bootstrap=tansu.bootstrap)
    again = ("replayed-from", f"{PRODUCT_UPDATES}/1/1".encode())
    letters = [
        letter(1, "image_timeout"),
        letter(2, "image_timeout", host="other.example"),
        letter(3, "malformed_json", value=b'{"id":\xff\x1b[2J'),
        letter(9, "image_host_unavailable", key=b"p1", value=event(1), headers=[*HEADERS, again]),
        letter(5, "malformed_json", value=b"{" + b" " * 2**20 + b"!"),
        b"not a dead letter",
    ]
    asyncio.run(fill(settings, letters))
    return settings


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Run `streamer dead-letters …` and return its output."""
    with pytest.raises(SystemExit) as caught:
        main(["dead-letters", *arguments])
    structlog.reset_defaults()
    captured = capsys.readouterr()
    assert caught.value.code == code, captured.err
    return captured.out if code != 2 else captured.err


def places(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Return the places that `list` prints with these options."""
    return [json.loads(line)["place"] for line in run(capsys, "list", "--json", *arguments).splitlines()]


def test_list_chooses_by_reason_host_product_and_time(
    broker: BrokerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each option narrows the choice, repeated ones widen it."""
    assert places(capsys) == ["0:0", "0:1", "0:2", "0:3", "0:4"]
    assert places(capsys, "--reason", "image_timeout") == ["0:0", "0:1"]
    assert places(capsys, "--reason", "image_timeout", "--reason", "malformed_json") == ["0:0", "0:1", "0:2", "0:4"]
    assert places(capsys, "--reason", "image_timeout", "--host", "Other.example") == ["0:1"]
    assert places(capsys, "--product", "p1") == ["0:0", "0:3"]
    assert places(capsys, "--until", "1h") == []
    assert places(capsys, "--since", (NOW - timedelta(minutes=1)).isoformat()) == ["0:0", "0:1", "0:2", "0:3", "0:4"]


def test_list_for_people_counts_and_steers_no_terminal(
    broker: BrokerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """What strangers wrote is escaped, and reasons are counted."""
    shown = run(capsys, "list", "--limit", "2")
    assert "and 3 more" in shown
    assert "image_timeout" in shown
    assert "\x1b[31m" not in shown
    assert "\\x1b[31m" in shown


def test_show_gives_everything_and_the_bytes_as_they_came(
    broker: BrokerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """For people escaped, as JSON as it stands in the topic, and the original bytes."""
    shown = run(capsys, "show", "0:2")
    assert "product-updates/1:3" in shown
    assert "header trace" in shown
    assert "\x1b[2J" not in shown
    assert json.loads(run(capsys, "show", "0:2", "--json"))["source"]["offset"] == 3
    command = [sys.executable, "-m", "streamer.cli", "dead-letters", "show", "0:2", "--value"]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b'{"id":\xff\x1b[2J'
    assert "letter_missing" in run(capsys, "show", "0:77", code=2)
    assert "place_invalid" in run(capsys, "show", "first", code=2)


def test_replay_publishes_each_event_once_as_it_was(broker: BrokerSettings, capsys: pytest.CaptureFixture[str]) -> None:
    """Key, bytes, headers and partition are the event's; its first place goes along; of two letters the last counts."""
    dry = json.loads(run(capsys, "replay", "--all", "--dry-run", "--json", code=1))
    assert dry == {
        "dry_run": True,
        "chosen": 5,
        "sent": 0,
        "replayable": 3,
        "older_letters_of_the_same_event": 1,
        "kept": {"value_omitted": 1},
    }
    assert json.loads(run(capsys, "replay", "--all", "--json", code=1))["sent"] == 3
    records = asyncio.run(updates(broker, 3))
    assert [record.key for record in records] == [b"p2", b"p3", b"p1"]
    assert records[1].value == b'{"id":\xff\x1b[2J'
    assert records[0].headers[:2] == (("trace", b"\xff\x00"), ("empty", None))
    origins = [origin_of(record.headers, STOOD) for record in records]
    assert [origin.offset for origin in origins if origin] == [2, 3, 1]
    assert sum(name == "replayed-from" for name, _ in records[2].headers) == 1


def test_replay_without_a_choice_is_refused(broker: BrokerSettings, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody replays a month of dead letters by leaving out an option."""
    assert "choice_missing" in run(capsys, "replay", code=2)
    assert "time_invalid" in run(capsys, "replay", "--since", "yesterday", code=2)


class Nobody:
    """Looks on without a word."""

    def advanced(self, done: int, total: int) -> None:
        """See that no more is read than there is."""
        assert 0 <= done <= total


async def test_read_ends_while_more_letters_come_in(broker: BrokerSettings) -> None:
    """During an outage letters arrive faster than anybody reads; what stood there at the start is read, and no more."""

    async def outage() -> None:
        async with producer(broker) as kafka:
            while True:
                await kafka.send_and_wait(DEAD_LETTERS, letter(7, "image_host_unavailable"), partition=0)

    more = asyncio.create_task(outage())
    try:
        async with open_dead_letters(broker, NAMES) as letters, asyncio.timeout(20):
            for _ in range(2):
                before = (await letters._log._consumer.end_offsets([TopicPartition(DEAD_LETTERS, 0)])).popitem()[1]
                read = [one.place.offset async for one in letters.read(Choice(), Nobody())]
                assert read[:5] == [0, 1, 2, 3, 4]
                assert read == sorted(set(read))
                assert before - 1 <= len(read)
    finally:
        more.cancel()
        await asyncio.gather(more, return_exceptions=True)


async def test_replay_leaves_out_what_has_become_too_large(broker: BrokerSettings) -> None:
    """The header that says where it stood makes an event larger: those behind it are replayed all the same."""
    kafka = AIOKafkaProducer(**topics.client_kwargs(broker), max_request_size=223)
    await kafka.start()
    try:
        async with open_dead_letters(broker, NAMES) as letters:
            done = await letters.replay(Choice(), kafka, Nobody())
    finally:
        await kafka.stop()
    assert (done.sent, dict(done.kept)) == (2, {"value_omitted": 1, "too_large": 1})
