"""What people choose of the dead letters, and that nobody's letter keeps another's from being replayed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from streamer.dead_letters import Choice, DeadLetters, Letter, Place, Replayed
from streamer.errors import RejectedEvent
from streamer.events import PRODUCT_UPDATES, DeadLetter
from streamer.incoming import Headers, Incoming, dead_letter
from streamer.settings import TopicSettings
from streamer.topic_log import Record
from streamer.updates import ProductUpdate
from streamer.wire import SourcePosition, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VICTIM, STRANGER = b'{"id":"victim"', b'{"id":"stranger"'
NOW = datetime(2026, 1, 31, tzinfo=UTC)


def letter(offset: int, value: bytes, *headers: tuple[str, bytes | None], partition: int = 1) -> DeadLetter:
    """Return the letter of an event that stands at an offset."""
    incoming = Incoming(
        key=b"k",
        value=value,
        headers=list(headers),
        position=SourcePosition(topic=PRODUCT_UPDATES, partition=partition, offset=offset),
        published_at=NOW,
        acknowledge=lambda: None,
    )
    return dead_letter(incoming, RejectedEvent("malformed_json", "cut"))


def replay_of(place: str) -> tuple[str, bytes]:
    """Return the header of an event that is published again."""
    return "replayed-from", f"{PRODUCT_UPDATES}/{place}".encode()


class Log:
    """A topic that holds these letters."""

    def __init__(self, letters: list[DeadLetter]) -> None:
        self._letters = letters

    async def read(self, *_: object) -> AsyncIterator[Record]:
        for offset, one in enumerate(self._letters):
            yield Record(0, offset, encode(one))


class Sent:
    """A producer that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[tuple[bytes, int, dict[str, bytes]]] = []

    async def send(self, _: str, value: bytes, *, partition: int, headers: Headers, **__: Any) -> asyncio.Future[None]:  # noqa: ANN401 - as aiokafka's
        self.events.append((value, partition, {name: given for name, given in headers if given is not None}))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Nobody:
    """Looks on without a word."""

    def advanced(self, done: int, total: int) -> None: ...


async def replayed(*letters: DeadLetter) -> tuple[Replayed, Sent]:
    """Replay these letters."""
    sent = Sent()
    letters_of = DeadLetters(Log(list(letters)), TopicSettings())  # type: ignore[arg-type]
    return await letters_of.replay(Choice(), sent, Nobody()), sent  # type: ignore[arg-type]


async def test_letter_that_claims_the_place_of_another_does_not_replace_it() -> None:
    """Anybody may write the header of a replay; both events are sent, each with its own bytes."""
    done, sent = await replayed(letter(1, VICTIM), letter(77, STRANGER, replay_of("1/1")))
    assert (done.sent, done.repeated) == (2, 0)
    assert [value for value, _, _ in sent.events] == [VICTIM, STRANGER]


async def test_letter_of_a_replay_replaces_the_first_of_the_same_event() -> None:
    """The last one is sent, once, from where it first stood."""
    trace = ("trace", b"1")
    done, sent = await replayed(letter(1, VICTIM, trace), letter(9, VICTIM, trace, replay_of("1/1")))
    assert (done.sent, done.repeated) == (1, 1)
    assert sent.events == [(VICTIM, 1, dict([trace, replay_of("1/1")]))]


@pytest.mark.parametrize("claimed", ["2/1", "x"])
async def test_letter_that_claims_a_place_in_another_partition_keeps_its_own(claimed: str) -> None:
    """No replay moves an event, so this is no header of ours."""
    _, sent = await replayed(letter(7, STRANGER, replay_of(claimed)))
    assert sent.events == [(STRANGER, 1, dict([replay_of("1/7")]))]


def test_letter_of_an_older_version_that_names_another_partition_is_known_by_its_own_place() -> None:
    """Workers have believed the header before."""
    elsewhere = SourcePosition(topic=PRODUCT_UPDATES, partition=2, offset=1)
    content = letter(7, STRANGER)
    believed = DeadLetter(
        **{name: getattr(content, name) for name in DeadLetter.__struct_fields__} | {"origin": elsewhere}
    )
    assert Letter(Place(0, 0), believed).origin == content.source


@pytest.mark.parametrize("host", ["bücher.example", "xn--bcher-kva.example"])
@pytest.mark.parametrize("typed", ["bücher.example", "xn--bcher-kva.example"])
def test_host_is_found_in_both_of_its_forms(host: str, typed: str) -> None:
    """A URL may have either, and people may type either."""
    assert Choice(hosts=frozenset({typed})).takes(shown(f"https://{host}/a.jpg"))
    assert not Choice(hosts=frozenset({"bucher.example"})).takes(shown(f"https://{host}/a.jpg"))


@pytest.mark.parametrize("url", ["http://[]@", "https://x[]y@", "http://[", "http://xn--\udc80/", ""])
def test_letter_of_a_url_that_cannot_be_read_has_no_host(url: str) -> None:
    """It is listed, and chosen by no host."""
    assert shown(url).host is None
    assert not Choice(hosts=frozenset({"cdn.example"})).takes(shown(url))


def shown(url: str) -> Letter:
    """Return the letter of an update with this picture."""
    incoming = Incoming(
        key=b"k",
        value=b"{}",
        headers=[],
        position=SourcePosition(topic=PRODUCT_UPDATES, partition=0, offset=0),
        published_at=NOW,
        acknowledge=lambda: None,
    )
    update = ProductUpdate(id="p", image_link=url)
    return Letter(Place(0, 0), dead_letter(incoming, RejectedEvent("image_url_invalid", "odd"), update=update))
