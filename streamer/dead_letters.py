"""Dead letters as people use them: read the topic, choose by reason, time, host and product, publish again.

A replay is the original event: its key, bytes and headers, to the partition where it stood, and a header that says
where that was (`wire.REPLAYED_FROM`). It is ordered by its own version, and by its first place where versions do not
tell, so the pipeline and the alert agent treat it as if it had come in time: what is newer stays settled. Of several
letters of one event, left by replays that were rejected again, the last one is replayed. Anybody may write that header,
so letters are of one event only if their bytes are the same, too.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from yarl import URL

from streamer import topics
from streamer.errors import FatalError
from streamer.events import DeadLetter
from streamer.outbox import producer
from streamer.topic_log import open_topic_log
from streamer.wire import REPLAYED_FROM, SourcePosition, origin_header

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from datetime import datetime

    from aiokafka import AIOKafkaProducer

    from streamer.settings import BrokerSettings, TopicSettings
    from streamer.topic_log import Record, TopicLog, Watch

IN_FLIGHT: Final = 500
"""Replayed records that the broker has not acknowledged yet."""


class Place(msgspec.Struct, frozen=True, order=True):
    """Where a letter stands in the dead letters; written PARTITION:OFFSET."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Return the place that PARTITION:OFFSET names.

        Raises:
            FatalError: place_invalid.
        """
        partition, _, offset = text.partition(":")
        if not (partition.isdecimal() and offset.isdecimal()):
            raise FatalError("place_invalid", f"{text!r}: write PARTITION:OFFSET, as `streamer dead-letters list` does")
        return cls(int(partition), int(offset))


@dataclass(frozen=True)
class Letter:
    """One dead letter and where it stands."""

    place: Place
    content: DeadLetter

    @property
    def origin(self) -> SourcePosition:
        """Where its event stood at first."""
        origin, source = self.content.origin, self.content.source
        return origin if origin and origin.shares_partition(source) else source

    @property
    def event(self) -> bytes:
        """What its event is known by, in all its letters: a digest of where it first stood, and of its bytes."""
        content = self.content
        headers = [header for header in content.headers if header[0] != REPLAYED_FROM]
        known = (self.origin, content.key, content.value, headers)
        return hashlib.sha256(msgspec.json.encode(known)).digest()

    @property
    def host(self) -> str | None:
        """The host that its picture was asked of, as people write it; None where none can be told."""
        return self._host_of(lambda url: url.host)

    @property
    def hosts(self) -> frozenset[str | None]:
        """The same host as people write it and as DNS does (`xn--…`)."""
        return frozenset({self.host, self._host_of(lambda url: url.raw_host)})

    def _host_of(self, form: Callable[[URL], str | None]) -> str | None:
        try:
            return form(URL(self.content.image_url or ""))
        except Exception:  # noqa: BLE001 - a URL of anybody's; yarl has raised more than it says
            return None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which letters: empty sets and None choose all. Times are of the rejection, `until` excluded."""

    reasons: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    products: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether the letter is one of those."""
        content = letter.content
        return (
            (not self.reasons or content.reason in self.reasons)
            and (not self.products or content.product_id in self.products)
            and (not self.hosts or not letter.hosts.isdisjoint(self.hosts))
            and (self.since is None or content.rejected_at >= self.since)
            and (self.until is None or content.rejected_at < self.until)
        )


@dataclass
class Replayed:
    """What a replay did; `kept` counts by reason those that cannot be replayed."""

    chosen: int = 0
    sent: int = 0
    repeated: int = 0
    kept: Counter[str] = field(default_factory=Counter)


class DeadLetters:
    """The dead letters of a broker; made by `open_dead_letters`."""

    def __init__(self, log: TopicLog, names: TopicSettings) -> None:
        self._log = log
        self._names = names
        self.unreadable = 0
        """Records of the topic that no version of this project has written."""

    async def read(self, choice: Choice, watch: Watch) -> AsyncGenerator[Letter]:
        """Yield the chosen letters that stand in the topic now, partition by partition in their order."""
        # A letter is written when its event is rejected, so records before that time hold none of those.
        async for record in self._log.read(choice.since, watch):
            letter = self._letter(record)
            if letter is not None and choice.takes(letter):
                yield letter

    def _letter(self, record: Record) -> Letter | None:
        try:
            content = msgspec.convert(orjson.loads(record.value or b""), DeadLetter)
        except (orjson.JSONDecodeError, msgspec.ValidationError):
            self.unreadable += 1
            return None
        return Letter(Place(record.partition, record.offset), content)

    async def at(self, place: Place) -> Letter:
        """Return the letter that stands there.

        Raises:
            FatalError: letter_missing.
        """
        record = await self._log.at(place.partition, place.offset)
        letter = None if record is None else self._letter(record)
        if letter is None:
            raise FatalError("letter_missing", f"no dead letter stands at {place} of {self._names.dead_letters}")
        return letter

    async def replay(
        self, choice: Choice, kafka: AIOKafkaProducer | None, watch: Watch, *, rate: float | None = None
    ) -> Replayed:
        """Publish the chosen events again; with no producer, only count them.

        Raises:
            FatalError: replay_failed, when the broker refuses a record; those that were sent before stay sent.
        """
        done = Replayed()
        last: dict[bytes, Place] = {}
        async for letter in self.read(choice, watch):
            done.chosen += 1
            last[letter.event] = letter.place
        places = set(last.values())
        done.repeated = done.chosen - len(places)
        sending: set[asyncio.Future[Any]] = set()
        try:
            async for letter in self.read(choice, watch):
                if letter.place not in places:
                    continue
                obstacle = self._obstacle(letter.content)
                if obstacle is not None:
                    done.kept[obstacle] += 1
                    continue
                if kafka is not None:
                    sending.add(await _send(kafka, letter))
                    if len(sending) >= IN_FLIGHT:
                        await _delivered(sending, done)
                    if rate is not None:
                        await asyncio.sleep(1 / rate)
                done.sent += 1
        except (KafkaError, AssertionError, ValueError) as error:
            raise FatalError("replay_failed", f"the broker refused a record: {error!r}") from error
        finally:
            await _delivered(sending, done)
        return done

    def _obstacle(self, content: DeadLetter) -> str | None:
        """Return why the event cannot be published again."""
        if content.value_omitted:
            return "value_omitted"
        if content.source.topic not in (self._names.updates, self._names.scores, self._names.labels):
            return "other_topic"
        return None


async def _send(kafka: AIOKafkaProducer, letter: Letter) -> asyncio.Future[Any]:
    """Hand the event to the producer; what that refuses is refused as if the broker had."""
    content = letter.content
    headers = [(name, _raw(value)) for name, value in content.headers if name != REPLAYED_FROM]
    sent: asyncio.Future[Any]
    try:
        sent = await kafka.send(
            content.source.topic,
            _raw(content.value),
            key=_raw(content.key),
            partition=content.source.partition,
            headers=[*headers, origin_header(letter.origin)],
        )
    except MessageSizeTooLargeError as error:
        sent = asyncio.get_running_loop().create_future()
        sent.set_exception(error)
    return sent


async def _delivered(sending: set[asyncio.Future[Any]], done: Replayed) -> None:
    """Wait until the broker has them; one that has become too large by saying where it stood is left out."""
    answers = await asyncio.gather(*sending, return_exceptions=True)
    sending.clear()
    for answer in answers:
        if isinstance(answer, MessageSizeTooLargeError):
            done.sent -= 1
            done.kept["too_large"] += 1
        elif isinstance(answer, KafkaError):
            raise FatalError("replay_failed", f"the broker refused a record: {answer!r}") from answer
        elif isinstance(answer, BaseException):
            raise answer


def _raw(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def original(content: DeadLetter) -> bytes | None:
    """Return the event's bytes, None for a null value or one that was left out."""
    return _raw(content.value)


@asynccontextmanager
async def open_dead_letters(broker: BrokerSettings, names: TopicSettings) -> AsyncGenerator[DeadLetters]:
    """Yield the dead letters of the broker.

    Raises:
        FatalError: topics_missing, broker_unreachable, broker_unauthorized, broker_refused.
    """
    async with open_topic_log(broker, names.dead_letters, max_record_bytes=2 * topics.MAX_DEAD_LETTER_BYTES) as log:
        yield DeadLetters(log, names)


async def replay(
    broker: BrokerSettings,
    names: TopicSettings,
    choice: Choice,
    watch: Watch,
    *,
    dry_run: bool,
    rate: float | None = None,
) -> Replayed:
    """Publish the chosen events again, or count them."""
    async with open_dead_letters(broker, names) as letters:
        if dry_run:
            return await letters.replay(choice, None, watch)
        async with producer(broker) as kafka:
            return await letters.replay(choice, kafka, watch, rate=rate)
