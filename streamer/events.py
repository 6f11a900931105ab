"""The wire contracts of what comes of updates, version 1: what stands in each topic, byte for byte. No I/O, no clock.

    product-scores     ProductScore    one per event that was not rejected: the ledger of outcomes
    mismatch-alerts    MismatchAlert   CloudEvents 1.0, structured JSON mode
    dead-letters       DeadLetter      one per rejected event, with its original bytes
    engine-releases    EngineRelease   compacted by release; the last record says which one runs
    alert-redecisions  Redecision      among workers: the alert of this product is to be decided anew

The updates themselves are in `streamer.updates`; what people say of alerts, and what they are asked, is in
`streamer.reviews`. JSON as in `streamer.wire`; golden files in `tests/contract/golden/` pin the bytes.
"""

from __future__ import annotations

import hashlib
from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from typing import Annotated, Literal

import msgspec
import orjson
from msgspec import Meta

from streamer.errors import RejectedEvent
from streamer.wire import SCHEMA_VERSION, Sha256, SourcePosition, parse

PRODUCT_UPDATES = "product-updates"
PRODUCT_SCORES = "product-scores"
MISMATCH_ALERTS = "mismatch-alerts"
DEAD_LETTERS = "dead-letters"
ENGINE_RELEASES = "engine-releases"
CONFIRMED_LABELS = "confirmed-labels"
REVIEW_REQUESTS = "review-requests"
ALERT_REDECISIONS = "alert-redecisions"

MAX_DEAD_LETTER_VALUE = 2**20  # bytes; in base64 it still fits the topic's max.message.bytes of 2 MiB

CLOUD_EVENT = ("content-type", b"application/cloudevents+json; charset=UTF-8")
"""Header of an alert. Source: Kafka protocol binding for CloudEvents 1.0.2, 3.3.1, structured content mode."""

RecordedOutcome = Literal["scored", "unchanged", "superseded", "deleted"]
Outcome = RecordedOutcome | Literal["rejected"]
"""What became of one product update; every event ends in exactly one."""

OUTCOMES: tuple[Outcome, ...] = ("scored", "unchanged", "superseded", "deleted", "rejected")

Transition = Literal["opened", "updated", "resolved"]
AlertType = Literal["catalogue.mismatch.opened", "catalogue.mismatch.updated", "catalogue.mismatch.resolved"]
ReleaseName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,119}-[0-9a-f]{12}$")]
Percent = Annotated[int, Meta(ge=0, le=100)]


class Contradiction(msgspec.Struct, frozen=True, kw_only=True):
    """A claim of the text that the picture contradicts.

    `field` is the field of the update where the claim stands, `value` its words there: all of a short field, a word or
    a quantity of the title, a sentence of the description. `share`, 0..1, is its part in the engine's verdict.

    `where`, of the first claim and only if workers are told to look (`STREAMER_PIPELINE__HEAT_MAP_SHARE`): rows of a
    grid over the picture as the engine sees it, the upper first, each from left to right. 100 is where covering the
    picture weakens the case against the claim most, 0 where it does not at all. The engine sees the picture scaled to
    fit and centred between margins, unless its release's manifest has `image.fit` as `stretch`.
    """

    field: str
    value: str
    share: float
    where: tuple[tuple[Percent, ...], ...] | msgspec.UnsetType = msgspec.UNSET


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """Cheap statistics of what an engine was given: by them drift is seen (`streamer.drift`).

    Of the picture as the engine takes it, 0..1: `brightness` and `contrast` (mean and standard deviation of all
    channels), `saturation` (mean of the largest channel less the smallest). Of the text: `tokens` that were read, and
    the share of them that the tokenizer does not know.
    """

    brightness: float
    contrast: float
    saturation: float
    tokens: int
    unknown_share: float


class ProductScore(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one product update that was not rejected.

    `probability`, `threshold`, `release`, the digests, `logit` and `model` are set when outcome is `scored` or
    `unchanged`; releases that differ in calibration or thresholds only have the same `model`, and their logits mean the
    same. `features` are there when it is `scored`. `order` is null only for a tombstone without a version.
    `contradicts`, the worst first, is there when the score calls for an alert and the claims could be told. Times are
    RFC 3339 in UTC. `origin` is there when the update was published again from the dead letters: where it first stood.
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
    logit: float | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET
    features: Features | msgspec.UnsetType = msgspec.UNSET
    superseded_by: int | None = None
    contradicts: tuple[Contradiction, ...] | msgspec.UnsetType = msgspec.UNSET
    origin: SourcePosition | msgspec.UnsetType = msgspec.UNSET

    @property
    def place(self) -> SourcePosition:
        """Where the update stands among the others: `source`, or where it first stood."""
        return self.origin or self.source


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


class Redecision(msgspec.Struct, frozen=True, kw_only=True):
    """A product whose alert is to be decided anew from its stored score, since calibration or thresholds have changed.

    Key: product id. Whoever owns the product decides, by the release that it runs itself; `release` is the one that the
    asking worker runs, for people.
    """

    schema_version: int = SCHEMA_VERSION
    product_id: str
    release: str


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


def parse_score(value: bytes) -> ProductScore:
    """Return the score that stands in these bytes.

    Raises:
        RejectedEvent: malformed_event.
    """
    try:
        return msgspec.convert(orjson.loads(value), ProductScore)
    except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
        raise RejectedEvent("malformed_event", str(error)[:500]) from error


def parse_redecision(value: bytes) -> Redecision:
    """Return the request that stands in these bytes.

    Raises:
        RejectedEvent: malformed_json, malformed_event, schema_unsupported.
    """
    return parse(value, Redecision)


def parse_release(value: bytes) -> EngineRelease:
    """Return the announcement that stands in these bytes.

    Raises:
        RejectedEvent: malformed_event, schema_unsupported.
    """
    return parse(value, EngineRelease)


def alert_id(score: ProductScore, transition: Transition, order: int, redecided: int = 0) -> str:
    """Return the id of a transition: the same for every redelivery of the score, another for any other score.

    `order` is part of it, so an alert that opens again after its repair, with the same picture and text, is a new
    event to consumers that drop ids they have seen; so is `redecided`, how often the same score was decided anew, for
    an alert that opens again after a release was rolled back.
    """
    facts = [score.product_id, str(order), score.image_sha256, score.text_sha256, score.release, transition]
    facts += [str(redecided)] * bool(redecided)
    return hashlib.sha256(orjson.dumps(facts)).hexdigest()[:32]
