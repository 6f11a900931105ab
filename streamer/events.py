"""The wire contracts, version 1: what stands in each topic, byte for byte. No I/O, no clock.

    product-updates    ProductUpdate   in, from catalogue systems; a null value is a tombstone
    product-scores     ProductScore    one per event that was not rejected: the ledger of outcomes
    mismatch-alerts    MismatchAlert   CloudEvents 1.0, structured JSON mode
    dead-letters       DeadLetter      one per rejected event, with its original bytes
    engine-releases    EngineRelease   compacted by release; the last record says which one runs

What people say of alerts, and what they are asked, is in `streamer.reviews`.

JSON is read and written by orjson, typed by msgspec. Unknown fields of a ProductUpdate are ignored here and kept in
the topic; a `schema_version` that this code does not know is rejected, never guessed at. Golden files in
`tests/contract/golden/` pin the bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
import orjson
from msgspec import Meta

from engines.catalogs.folder import PRICE_HISTORY
from engines.contract import top_level
from streamer.errors import RejectedEvent

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA_VERSION = 1

PRODUCT_UPDATES = "product-updates"
PRODUCT_SCORES = "product-scores"
MISMATCH_ALERTS = "mismatch-alerts"
DEAD_LETTERS = "dead-letters"
ENGINE_RELEASES = "engine-releases"
CONFIRMED_LABELS = "confirmed-labels"
REVIEW_REQUESTS = "review-requests"

MAX_ID_CHARS = 256
MAX_URL_CHARS = 2048  # Google Merchant allows 2,000 characters in image_link
MAX_ADDITIONAL_IMAGES = 32
MAX_TITLE_CHARS = 300  # of a title that is carried along for people to read
MAX_DEAD_LETTER_VALUE = 2**20  # bytes; in base64 it still fits the topic's max.message.bytes of 2 MiB

REPLAYED_FROM = "replayed-from"
"""Header of an update that is published again: `TOPIC/PARTITION/OFFSET` where it first stood, which orders it still."""

CLOUD_EVENT = ("content-type", b"application/cloudevents+json; charset=UTF-8")
"""Header of an alert. Source: Kafka protocol binding for CloudEvents 1.0.2, 3.3.1, structured content mode."""

Contract = TypeVar("Contract", bound=msgspec.Struct)

RecordedOutcome = Literal["scored", "unchanged", "superseded", "deleted"]
Outcome = RecordedOutcome | Literal["rejected"]
"""What became of one product update; every event ends in exactly one."""

OUTCOMES: tuple[Outcome, ...] = ("scored", "unchanged", "superseded", "deleted", "rejected")

ProductId = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
Url = Annotated[str, Meta(max_length=MAX_URL_CHARS)]
# Kafka offsets and our versions are signed 64-bit.
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
COLUMNS = (
    "title", "description", "brand", "color", "material", "pattern", "gender", "size", "product_type", "price",
)  # fmt: skip
"""Fields of an update that an engine may read as attributes, beside `ProductUpdate.attributes`."""

AttributeValue = str | int | float | bool | list[str] | None


_ORIGIN = re.compile(rb"([A-Za-z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,18})")


class ProductUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """One product as its catalogue system knows it now; field names are Google Merchant's.

    `version` (any growing integer) or `updated_at` (RFC 3339 with an offset) orders the updates of one product; a
    source must not mix the two. `deleted` true is a tombstone that carries its version.
    """

    id: ProductId
    schema_version: int = SCHEMA_VERSION
    version: Int64 | None = None
    updated_at: datetime | None = None
    deleted: bool = False
    title: str | None = None
    description: str | None = None
    brand: str | None = None
    color: str | None = None
    material: str | None = None
    pattern: str | None = None
    gender: str | None = None
    size: str | None = None
    product_type: str | None = None
    item_group_id: str | None = None
    price: str | float | None = None
    attributes: dict[str, AttributeValue] = {}
    image_link: Url | None = None
    additional_image_link: Annotated[list[Url], Meta(max_length=MAX_ADDITIONAL_IMAGES)] = []

    @property
    def order(self) -> int:
        """The update's place among the updates of its product: `version`, else `updated_at` in microseconds."""
        if self.version is not None:
            return self.version
        if self.updated_at is None:
            raise RejectedEvent("version_missing", "neither `version` nor `updated_at` is set")
        return microseconds(self.updated_at)

    @property
    def category(self) -> str:
        """The top level of `product_type` (`Apparel > Shoes` → `Apparel`), or an empty string."""
        return top_level(self.product_type or "")

    def text_fields(self) -> dict[str, str]:
        """Return what the text says, by field, empty fields left out; `attributes` follow under their own names."""
        named = {
            "title": self.title,
            "brand": self.brand,
            "product_type": self.product_type,
            "color": self.color,
            "material": self.material,
            "pattern": self.pattern,
            "gender": self.gender,
            "size": self.size,
            "description": self.description,
        }
        extra = {k: _attribute_text(v) for k, v in self.attributes.items() if k not in named and k != PRICE_HISTORY}
        return {k: v.strip() for k, v in (named | extra).items() if v and v.strip()}

    def columns(self) -> dict[str, AttributeValue]:
        """Return everything that is known of the product by column, `attributes` beside the fields above."""
        named = {name: getattr(self, name) for name in COLUMNS}
        return self.attributes | {name: value for name, value in named.items() if value is not None}


class SourcePosition(msgspec.Struct, frozen=True, kw_only=True):
    """Where the event that led to this record stands."""

    topic: str
    partition: int
    offset: int


class Contradiction(msgspec.Struct, frozen=True, kw_only=True):
    """A claim of the text that the picture contradicts.

    `field` is the field of the update where the claim stands, `value` its words there: all of a short field, a word or
    a quantity of the title, a sentence of the description. `share`, 0..1, is its part in the engine's verdict.
    """

    field: str
    value: str
    share: float


class ProductScore(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one product update that was not rejected.

    `probability`, `threshold`, `release` and the digests are set when outcome is `scored` or `unchanged`; `order` is
    null only for a tombstone without a version. `contradicts`, the worst first, is there when the score calls for an
    alert and the claims could be told. Times are RFC 3339 in UTC. `origin` is there when the update was published again
    from the dead letters: where it first stood.
    """

    schema_version: int = SCHEMA_VERSION
    product_id: str
    order: int | None
    outcome: RecordedOutcome
    source: SourcePosition
    published_at: datetime
    scored_at: datetime
    title: str | None = None
    category: str | None = None
    image_url: str | None = None
    image_sha256: str | None = None
    text_sha256: str | None = None
    probability: float | None = None
    threshold: float | None = None
    release: str | None = None
    superseded_by: int | None = None
    contradicts: tuple[Contradiction, ...] | msgspec.UnsetType = msgspec.UNSET
    origin: SourcePosition | msgspec.UnsetType = msgspec.UNSET

    @property
    def place(self) -> SourcePosition:
        """Where the update stands among the others: `source`, or where it first stood."""
        return self.origin or self.source


Transition = Literal["opened", "updated", "resolved"]
AlertType = Literal["catalogue.mismatch.opened", "catalogue.mismatch.updated", "catalogue.mismatch.resolved"]


class MismatchData(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert says; `alert_id` is the id of the event that opened it and stays the same until resolved.

    `reason` of a resolution: `matches` (the picture now shows what the text says) or `deleted` (product gone).
    `contradicts` is the score's; a resolution has none.
    """

    alert_id: str
    product_id: str
    order: int
    title: str | None
    category: str | None
    image_url: str | None
    image_sha256: str | None
    text_sha256: str | None
    probability: float | None
    threshold: float | None
    release: str | None
    first_seen: datetime
    reason: Literal["mismatch", "matches", "deleted"]
    contradicts: tuple[Contradiction, ...] | msgspec.UnsetType = msgspec.UNSET


class MismatchAlert(msgspec.Struct, frozen=True, kw_only=True):
    """CloudEvents 1.0. Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: AlertType
    subject: str
    time: datetime
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: Literal["urn:mismatch-streamer:mismatch-alert:v1"] = "urn:mismatch-streamer:mismatch-alert:v1"
    data: MismatchData


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that could not be scored, why, and its original bytes, so that it can be replayed as it was.

    `key`, `value` and header values are standard base64 (RFC 4648 §4); `value` is null for a null value, and when the
    event is larger than MAX_DEAD_LETTER_VALUE (`value_omitted` is then true, `source` says where it stands; a key and
    headers that are larger alone are left out too). `origin` is there when the event had been replayed before: where it
    first stood.
    """

    schema_version: int = SCHEMA_VERSION
    reason: str
    message: str
    attempts: int
    source: SourcePosition
    product_id: str | None
    image_url: str | None
    release: str | None
    published_at: datetime
    rejected_at: datetime
    key: str | None
    value: str | None
    value_omitted: bool = False
    headers: list[tuple[str, str | None]]
    origin: SourcePosition | msgspec.UnsetType = msgspec.UNSET


ReleaseName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,119}-[0-9a-f]{12}$")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hex."""


class EngineRelease(msgspec.Struct, frozen=True, kw_only=True):
    """An announcement: scorers that follow this topic run `release` from now on.

    Key: the release. The last record of the topic, which has one partition and is compacted, is the one that counts; a
    null value takes a release's announcement back. Scorers fetch the release from the store that **their** settings
    name, and only if its manifest has `manifest_sha256`, which in turn pins every file: who may write here may choose
    among published releases, and bring none.

    `previous` is what a rollback goes back to: the release that ran before, and after a rollback the one before that.
    `replaces` is what ran until now. `announced_by` and `reason` are for people.
    """

    schema_version: int = SCHEMA_VERSION
    release: ReleaseName
    manifest_sha256: Sha256
    action: Literal["promoted", "rolled_back"]
    replaces: str | None
    previous: str | None
    announced_at: datetime
    announced_by: str
    reason: str | None = None


def origin_of(headers: Iterable[tuple[str, bytes | None]]) -> SourcePosition | None:
    """Return where a replayed event first stood, None where it is no replay or its header is not one of ours."""
    for name, value in headers:
        if name == REPLAYED_FROM and value is not None and (found := _ORIGIN.fullmatch(value)) is not None:
            topic, partition, offset = found.groups()
            return SourcePosition(topic=topic.decode("ascii"), partition=int(partition), offset=int(offset))
    return None


def origin_header(origin: SourcePosition) -> tuple[str, bytes]:
    """Return the header that `origin_of` reads."""
    return REPLAYED_FROM, f"{origin.topic}/{origin.partition}/{origin.offset}".encode("ascii")


def parse_update(key: bytes | None, value: bytes | None) -> ProductUpdate:
    """Return the update that stands in these bytes; a null value is a tombstone of the product that `key` names.

    Raises:
        RejectedEvent: malformed_json, malformed_event, schema_unsupported, key_missing.
    """
    if value is None:
        return ProductUpdate(id=_tombstone_id(key), deleted=True)
    return parse(value, ProductUpdate)


def parse_score(value: bytes) -> ProductScore:
    """Return the score that stands in these bytes.

    Raises:
        RejectedEvent: malformed_event.
    """
    try:
        return msgspec.convert(orjson.loads(value), ProductScore)
    except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
        raise RejectedEvent("malformed_event", str(error)[:500]) from error


def parse_release(value: bytes) -> EngineRelease:
    """Return the announcement that stands in these bytes.

    Raises:
        RejectedEvent: malformed_event, schema_unsupported.
    """
    return parse(value, EngineRelease)


def parse(value: bytes, contract: type[Contract]) -> Contract:
    """Return the event of a contract with a `schema_version` that stands in these bytes.

    Raises:
        RejectedEvent: malformed_json, malformed_event, schema_unsupported.
    """
    try:
        loaded = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise RejectedEvent("malformed_json", f"not JSON: {error}") from error
    if isinstance(loaded, dict) and loaded.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        given = str(loaded["schema_version"])[:40]
        raise RejectedEvent("schema_unsupported", f"schema_version {given}; this worker reads {SCHEMA_VERSION}")
    try:
        return msgspec.convert(loaded, contract)
    except (msgspec.ValidationError, OverflowError, ValueError) as error:
        raise RejectedEvent("malformed_event", str(error)[:500]) from error


def encode(event: msgspec.Struct) -> bytes:
    """Return the event as JSON: fields in the order of the contract, times in RFC 3339, those in UTC ending in Z."""
    return orjson.dumps(msgspec.to_builtins(event, builtin_types=(datetime,)), option=orjson.OPT_UTC_Z)


def text_digest(text: str, attributes: bytes = b"") -> str:
    """Return the SHA-256, in hex, of the text as the engine reads it: what it does not read changes nothing.

    A catalogue's stock and price change all day; a digest over every field would have each change scored again.
    `attributes` are those that the engine reads beside the text, if it reads any.

    Raises:
        RejectedEvent: text_not_unicode.
    """
    try:
        return hashlib.sha256(text.encode() + attributes).hexdigest()
    except UnicodeEncodeError as error:
        raise RejectedEvent("text_not_unicode", f"the text has no UTF-8 form: {error.reason}") from error


def alert_id(score: ProductScore, transition: Transition, order: int) -> str:
    """Return the id of a transition: the same for every redelivery of the score, another for any other score.

    `order` is part of it, so an alert that opens again after its repair, with the same picture and text, is a new
    event to consumers that drop ids they have seen.
    """
    facts = (score.product_id, str(order), score.image_sha256, score.text_sha256, score.release, transition)
    return hashlib.sha256(orjson.dumps(facts)).hexdigest()[:32]


def encode_bytes(raw: bytes | None) -> str | None:
    """Return base64 of the bytes, None for None."""
    return None if raw is None else base64.b64encode(raw).decode("ascii")


def claimed_time(timestamp_s: float | None) -> datetime:
    """Return the time that a record claims, 1970-01-01 where no calendar has it: anybody may write any."""
    try:
        return datetime.fromtimestamp(timestamp_s or 0.0, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def microseconds(moment: datetime) -> int:
    """Return microseconds since 1970-01-01 UTC, exactly; a time without an offset is rejected."""
    if moment.tzinfo is None:
        raise RejectedEvent("malformed_event", "`updated_at` has no UTC offset: write 2026-01-31T12:00:00Z")
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _attribute_text(value: Any) -> str:  # noqa: ANN401 - AttributeValue, as msgspec has checked
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None or isinstance(value, bool) else str(value)


def _tombstone_id(key: bytes | None) -> str:
    if not key:
        raise RejectedEvent("key_missing", "a null value without a key: there is no product to delete")
    try:
        product_id = key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RejectedEvent("key_missing", "a null value whose key is not UTF-8") from error
    if len(product_id) > MAX_ID_CHARS:
        raise RejectedEvent("key_missing", f"a null value whose key is longer than {MAX_ID_CHARS} characters")
    return product_id
