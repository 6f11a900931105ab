"""The wire contracts of review, version 1: what people are asked, what they say, and what they are asked about.

    review-requests     ReviewRequest     out: products that did not alert, drawn for the audit
    confirmed-labels    ConfirmedLabel    in, from any review tool; a null value erases the product that its key names

A ScoredItem is what was scored, kept in the evidence store (`streamer.evidence`) so that a verdict can be joined with
it and not with what the URL shows today. JSON as in `streamer.wire`; golden files pin the bytes. No I/O, no clock.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec
import orjson
from msgspec import Meta

from streamer.errors import RejectedEvent
from streamer.updates import MAX_ID_CHARS, AttributeValue, ProductId
from streamer.wire import SCHEMA_VERSION, Sha256, SourcePosition, encode, parse

MAX_WORDS = 256
MAX_AHEAD: Final = timedelta(hours=1)
"""How far a label may be dated ahead of the clock of who takes it: as far as a broker lets the times of records be.

Source: https://kafka.apache.org/documentation/#topicconfigs_message.timestamp.after.max.ms
"""

Verdict = Literal["mismatch", "match", "unsure"]
Words = Annotated[str, Meta(min_length=1, max_length=MAX_WORDS)]
AlertId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
Sampled = Literal["alert", "audit"]


class ScoredItem(msgspec.Struct, frozen=True, kw_only=True):
    """What was scored, as it was: the picture by its digest, what the text said, what the engine made of both.

    `text` is what the engine read, `fields` what it was composed of, `columns` what else was known. `sampled` says why
    it was kept, `sampling_probability` how likely that was: 1 for an alert. To weight by its inverse makes the kept
    items stand for all that were scored.
    """

    schema_version: int = SCHEMA_VERSION
    item_id: str
    product_id: str
    order: int | None
    item_group_id: str | None
    category: str | None
    title: str | None
    text: str
    fields: dict[str, str]
    columns: dict[str, AttributeValue]
    image_url: str | None
    image_sha256: Sha256
    text_sha256: Sha256
    logit: float
    probability: float
    threshold: float
    release: str
    scored_at: datetime
    source: SourcePosition
    sampled: Sampled
    sampling_probability: float


class ReviewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A product that did not alert and was drawn for the audit: does its picture show what its text says?

    Key: product id. `request_id` is the same when the request is published again. What a ConfirmedLabel must carry
    stands here; the picture that was scored is in the evidence store, `image_url` may show another one by now.
    """

    schema_version: int = SCHEMA_VERSION
    request_id: str
    product_id: str
    order: int | None
    title: str | None
    category: str | None
    text: str
    image_url: str | None
    image_sha256: str
    text_sha256: str
    probability: float
    threshold: float
    release: str
    sampling_probability: float
    requested_at: datetime


class ConfirmedLabel(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says of a product as it was scored.

    Key: `product_id`, so that a verdict stands in the partition of its product's erasure, and neither overtakes the
    other. A record with another key, or with none, is rejected (`key_mismatch`). The partition is that of Kafka's own
    client (murmur2; librdkafka needs `partitioner=murmur2_random`).

    What was judged is named by `image_sha256` and `text_sha256`, with `release` where more than one scored that picture
    and text (one that decided an alert anew and scored nothing is passed over); or, where these are not given, by
    `alert_id`, the CloudEvents `id` of the alert. All of them stand in an alert's `data`. `field` is the field of the
    product that is wrong, as in an alert's `contradicts`.

    One person has one verdict on an item: that of the latest `labeled_at`, and of the last `label_id` where two are the
    same; `unsure` takes an earlier verdict back. The same label may come any number of times. One that is dated more
    than an hour ahead is rejected (`labeled_in_future`): it would win over all that the person says until then. So is
    one on a product that was erased (`product_erased`), until `streamer labels restore`.
    """

    schema_version: int = SCHEMA_VERSION
    label_id: Words
    product_id: ProductId
    alert_id: AlertId | None = None
    image_sha256: Sha256 | None = None
    text_sha256: Sha256 | None = None
    release: Words | None = None
    verdict: Verdict
    field: Words | None = None
    reviewer: Words
    labeled_at: datetime
    source: Words

    @property
    def names_digests(self) -> bool:
        """Whether it says which picture and which text were judged."""
        return self.image_sha256 is not None and self.text_sha256 is not None


def parse_label(value: bytes) -> ConfirmedLabel:
    """Return the label that stands in these bytes.

    Raises:
        RejectedEvent: malformed_json, malformed_event, schema_unsupported, label_names_no_item.
    """
    label = parse(value, ConfirmedLabel)
    if label.labeled_at.tzinfo is None:
        raise RejectedEvent("malformed_event", "`labeled_at` has no UTC offset: write 2026-01-31T12:00:00Z")
    try:
        label.labeled_at.astimezone(UTC)
    except OverflowError as error:
        raise RejectedEvent("malformed_event", "`labeled_at` is before or after all years of UTC") from error
    if label.alert_id is None and not label.names_digests:
        raise RejectedEvent(
            "label_names_no_item", "a label needs `alert_id`, or `image_sha256` and `text_sha256`: what was judged?"
        )
    return label


def check_record(label: ConfirmedLabel, key: bytes | None, now: datetime) -> None:
    """Return if the label may be recorded that stands in a record with this key.

    Raises:
        RejectedEvent: key_mismatch, labeled_in_future.
    """
    if key != label.product_id.encode():
        raise RejectedEvent(
            "key_mismatch",
            "the record's key is not the label's `product_id`, so an erasure of the product could overtake it: "
            "write it again with that key",
        )
    if label.labeled_at > now + MAX_AHEAD:
        raise RejectedEvent(
            "labeled_in_future",
            f"`labeled_at` is {label.labeled_at.isoformat()}, more than an hour ahead of {now.isoformat()}: "
            "set the review tool's clock, and write it again",
        )


def erased_product(key: bytes | None) -> str:
    """Return the product that a record without a value erases.

    Raises:
        RejectedEvent: key_missing.
    """
    try:
        product_id = (key or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise RejectedEvent("key_missing", "a null value whose key is not UTF-8") from error
    if not 1 <= len(product_id) <= MAX_ID_CHARS:
        raise RejectedEvent("key_missing", "a null value without the key of a product: there is nothing to erase")
    return product_id


def item_id(product_id: str, image_sha256: str, text_sha256: str, release: str) -> str:
    """Return the id of what was scored: 32 hex digits that tell nothing of the product."""
    return hashlib.sha256(orjson.dumps((product_id, image_sha256, text_sha256, release))).hexdigest()[:32]


def request_of(item: ScoredItem, requested_at: datetime) -> ReviewRequest:
    """Return the question that the item is for people."""
    return ReviewRequest(
        request_id=item.item_id,
        product_id=item.product_id,
        order=item.order,
        title=item.title,
        category=item.category,
        text=item.text,
        image_url=item.image_url,
        image_sha256=item.image_sha256,
        text_sha256=item.text_sha256,
        probability=item.probability,
        threshold=item.threshold,
        release=item.release,
        sampling_probability=item.sampling_probability,
        requested_at=requested_at,
    )


def encode_item(item: ScoredItem) -> bytes:
    """Return the item as JSON."""
    return encode(item)
