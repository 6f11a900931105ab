"""JSON as it goes over the wire: how any event is read and written, and what all of them share. No I/O, no clock.

JSON is read and written by orjson, typed by msgspec. A `schema_version` that this code does not know is rejected, never
guessed at. What stands in each topic: `streamer.updates`, `streamer.events`, `streamer.reviews`,
`streamer.shadow_events`.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Self, TypeVar

import msgspec
import orjson
from msgspec import Meta

from streamer.errors import RejectedEvent

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA_VERSION = 1

REPLAYED_FROM = "replayed-from"
"""Header of an update that is published again: `TOPIC/PARTITION/OFFSET` where it first stood, which orders it still."""

Contract = TypeVar("Contract", bound=msgspec.Struct)

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hex."""

_ORIGIN = re.compile(rb"([A-Za-z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,18})")


class SourcePosition(msgspec.Struct, frozen=True, kw_only=True):
    """Where the event that led to this record stands."""

    topic: str
    partition: int
    offset: int

    def shares_partition(self, other: SourcePosition) -> bool:
        """Whether both stand in the same partition."""
        return (self.topic, self.partition) == (other.topic, other.partition)


class Unread(bytes):
    """Stands for a value that the broker has and that could not be read (`streamer.records`): empty, and says why."""

    code: str
    message: str

    def __new__(cls, error: RejectedEvent) -> Self:
        """Make a value that `parse` rejects as this does."""
        made = super().__new__(cls)
        made.code, made.message = error.code, str(error)  # not itself: it holds the frames that raised it
        return made


def parse(value: bytes, contract: type[Contract]) -> Contract:
    """Return the event of a contract with a `schema_version` that stands in these bytes.

    Raises:
        RejectedEvent: malformed_json, malformed_event, schema_unsupported; what an `Unread` value says.
    """
    if isinstance(value, Unread):
        raise RejectedEvent(value.code, value.message)
    try:
        loaded = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise RejectedEvent("malformed_json", f"not JSON: {error}") from error
    if isinstance(loaded, dict) and loaded.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        given = loaded["schema_version"]
        said = str(given)[:40] if isinstance(given, str | int | float) else type(given).__name__  # not what is nested
        raise RejectedEvent("schema_unsupported", f"schema_version {said}; this worker reads {SCHEMA_VERSION}")
    try:
        return msgspec.convert(loaded, contract)
    except (msgspec.ValidationError, OverflowError, ValueError) as error:
        raise RejectedEvent("malformed_event", str(error)[:500]) from error


def encode(event: msgspec.Struct) -> bytes:
    """Return the event as JSON: fields in the order of the contract, times in RFC 3339, those in UTC ending in Z."""
    return orjson.dumps(msgspec.to_builtins(event, builtin_types=(datetime,)), option=orjson.OPT_UTC_Z)


def origin_of(headers: Iterable[tuple[str, bytes | None]], position: SourcePosition) -> SourcePosition | None:
    """Return where a replayed event first stood, None where it is no replay or its header is not one of ours.

    A replay stands in the partition of its event, behind it; anybody may write a header that says otherwise, and what
    claims to come from the future would be newer than all that is yet to come.
    """
    for name, value in headers:
        if name == REPLAYED_FROM and value is not None and (found := _ORIGIN.fullmatch(value)) is not None:
            topic, partition, offset = found.groups()
            origin = SourcePosition(topic=topic.decode("ascii"), partition=int(partition), offset=int(offset))
            return origin if origin.shares_partition(position) and origin.offset < position.offset else None
    return None


def origin_header(origin: SourcePosition) -> tuple[str, bytes]:
    """Return the header that `origin_of` reads."""
    return REPLAYED_FROM, f"{origin.topic}/{origin.partition}/{origin.offset}".encode("ascii")


def encode_bytes(raw: bytes | None) -> str | None:
    """Return base64 of the bytes, None for None."""
    return None if raw is None else base64.b64encode(raw).decode("ascii")


def claimed_time(timestamp_s: float | None) -> datetime:
    """Return the time that a record claims, 1970-01-01 where no calendar has it: anybody may write any."""
    try:
        return datetime.fromtimestamp(timestamp_s or 0.0, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
