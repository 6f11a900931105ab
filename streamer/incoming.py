"""A record as it comes in, and the dead letter that it becomes when it is rejected. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from streamer import events, wire
from streamer.events import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Callable

    from engines.errors import EngineError
    from streamer.errors import StreamerError
    from streamer.updates import ProductUpdate
    from streamer.wire import SourcePosition

_MAX_WORDS = 500  # of an error, in its dead letter
_ESCAPED, _PUNCTUATION = 6, 16  # bytes of JSON: for a character at most, and around a header

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


def dead_letter(
    incoming: Incoming,
    error: StreamerError | EngineError,
    *,
    update: ProductUpdate | None = None,
    product_id: str | None = None,
    release: str | None = None,
) -> DeadLetter:
    """Return the record of an event that could not be taken, with its original bytes."""
    origin = wire.origin_of(incoming.headers)
    room = events.MAX_DEAD_LETTER_VALUE
    around = len(incoming.key or b"") + sum(_weight(*header) for header in incoming.headers)
    whole = around <= room
    omitted = not whole or around + len(incoming.value or b"") > room
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


def _weight(name: str, value: bytes | None) -> int:
    """Return what a header adds to its dead letter at most, less what base64 adds to its value."""
    return _ESCAPED * len(name) + len(value or b"") + _PUNCTUATION
