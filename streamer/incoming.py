"""A record as it comes in, and the dead letter that it becomes when it is rejected."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from engines.errors import EngineError
from streamer import events, wire
from streamer.errors import RejectedEvent, StreamerError
from streamer.events import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from streamer.updates import ProductUpdate
    from streamer.wire import SourcePosition

log = structlog.get_logger(__name__)

_MAX_WORDS = 500  # of an error, in its dead letter
_ESCAPED, _PUNCTUATION = 6, 16  # bytes of JSON: for a character at most, and around a header

LEAVING: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
"""What is raised to end the work, whatever it is at."""

Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Incoming:
    """One record of a topic, and the call that acknowledges it."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    position: SourcePosition
    published_at: datetime
    acknowledge: Callable[[], None]

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        around = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + around


def incoming_of(event: Any) -> Incoming:  # noqa: ANN401 - Faust's event
    """Return the record that an agent was given."""
    message = event.message
    return Incoming(
        key=message.key,
        value=message.value,
        headers=list(message.headers or ()),
        position=wire.SourcePosition(topic=message.topic, partition=message.partition, offset=message.offset),
        published_at=wire.claimed_time(message.timestamp),
        acknowledge=event.ack,
    )


@contextmanager
def reading(position: SourcePosition) -> Generator[None]:
    """Make a rejection of whatever the block raises: it reads bytes that anybody may have sent.

    An error that nobody foresaw would stop the worker, and each one after it that is given the same event.

    Raises:
        RejectedEvent: event_unreadable, for what is not one of our own errors.
    """
    try:
        yield
    except (StreamerError, EngineError, *LEAVING):
        raise
    except BaseException as error:  # a panic in a library written in Rust is no Exception
        log.exception("event.unreadable", topic=position.topic, partition=position.partition, offset=position.offset)
        raise RejectedEvent("event_unreadable", f"reading it failed: {type(error).__name__}") from error


def dead_letter(
    incoming: Incoming,
    error: StreamerError | EngineError,
    *,
    update: ProductUpdate | None = None,
    product_id: str | None = None,
    release: str | None = None,
) -> DeadLetter:
    """Return the record of an event that could not be taken, with its original bytes."""
    origin = wire.origin_of(incoming.headers, incoming.position)
    room = events.MAX_DEAD_LETTER_VALUE
    around = 2 * len(incoming.key or b"") + sum(_weight(*header) for header in incoming.headers)  # see `letter_record`
    whole = around <= room
    omitted = isinstance(incoming.value, wire.Unread) or not whole or around + len(incoming.value or b"") > room
    return DeadLetter(
        reason=error.code,
        message=str(error)[:_MAX_WORDS],
        attempts=getattr(error, "attempts", 1),
        source=incoming.position,
        product_id=update.id if update else product_id,
        image_url=update.image_link if update else None,
        release=release,
        published_at=incoming.published_at,
        rejected_at=datetime.now(UTC),
        key=wire.encode_bytes(incoming.key) if whole else None,
        value=None if omitted else wire.encode_bytes(incoming.value),
        value_omitted=omitted,
        headers=[(name, wire.encode_bytes(value)) for name, value in incoming.headers] if whole else [],
        origin=origin or msgspec.UNSET,
    )


def letter_record(incoming: Incoming, letter: DeadLetter) -> tuple[bytes | None, bytes]:
    """Return key and value of the dead letter's own record: keyed as its event was, unless that key is left out."""
    return incoming.key if letter.key is not None else None, wire.encode(letter)


def _weight(name: str, value: bytes | None) -> int:
    """Return what a header adds to its dead letter at most, less what base64 adds to its value."""
    return _ESCAPED * len(name) + len(value or b"") + _PUNCTUATION
