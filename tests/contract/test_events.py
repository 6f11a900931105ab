"""Wire contracts v1: golden files pin each event's bytes; the reader rejects, and never breaks.

A golden file that has to change is a new contract: consumers that run today read what stands in it. `UPDATE_GOLDEN=1`
writes them anew.
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import RejectedEvent
from streamer.events import (
    Contradiction,
    DeadLetter,
    EngineRelease,
    Features,
    MismatchAlert,
    MismatchData,
    ProductScore,
    Redecision,
    alert_id,
    parse_redecision,
    parse_release,
    parse_score,
)
from streamer.reviews import erased_product, parse_label, request_of
from streamer.shadow_events import Opinion, ShadowRelease, ShadowScore, parse_shadow_release, parse_shadow_score
from streamer.updates import ProductUpdate, parse_update, text_digest
from streamer.wire import SourcePosition, claimed_time, encode, encode_bytes
from tests.review import ITEM, LABEL

GOLDEN = Path(__file__).parent / "golden"

PUBLISHED = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SCORED = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
IMAGE_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
RELEASE = "fusion-0123456789ab"

UPDATE = ProductUpdate(
    id="mug-blue",
    updated_at=PUBLISHED,
    title="Becher „Café“, blau",
    description="A blue mug of stoneware.\nHolds 300 ml.",
    brand="Kiln & Co",
    color="blue",
    material="stoneware",
    pattern="plain",
    gender="unisex",
    size="300 ml",
    product_type="Kitchen > Mugs",
    item_group_id="mug",
    price="9.90 EUR",
    attributes={"capacity_ml": 300, "dishwasher": True, "care": ["no oven", "no bleach"], "weight_kg": 0.35},
    image_link="https://cdn.example/mug-blue.jpg",
    additional_image_link=["https://cdn.example/mug-blue-back.jpg"],
)
SCORE = ProductScore(
    product_id="mug-blue",
    order=UPDATE.order,
    outcome="scored",
    source=SourcePosition(topic="product-updates", partition=3, offset=2**40),
    published_at=PUBLISHED,
    scored_at=SCORED,
    title=UPDATE.title,
    category=UPDATE.category,
    image_url=UPDATE.image_link,
    image_sha256=IMAGE_SHA256,
    text_sha256=text_digest("title: Stoneware mug"),
    probability=0.9375,
    threshold=0.5,
    release=RELEASE,
    logit=2.75,
    model="0123456789abcdef",
    features=Features(brightness=0.75, contrast=0.125, saturation=0.5, tokens=12, unknown_share=0.25),
)
ALERT = MismatchAlert(
    id=alert_id(SCORE, "opened", UPDATE.order),
    source="/mismatch-scorer",
    type="catalogue.mismatch.opened",
    subject="mug-blue",
    time=SCORED,
    data=MismatchData(
        alert_id=alert_id(SCORE, "opened", UPDATE.order),
        product_id="mug-blue",
        order=UPDATE.order,
        title=SCORE.title,
        category=SCORE.category,
        image_url=SCORE.image_url,
        image_sha256=SCORE.image_sha256,
        text_sha256=SCORE.text_sha256,
        probability=SCORE.probability,
        threshold=SCORE.threshold,
        release=SCORE.release,
        first_seen=SCORED,
        reason="mismatch",
    ),
)
CONTRADICTS = (
    Contradiction(field="color", value="blue", share=0.875),
    Contradiction(field="title", value="Becher", share=0.125),
)
SHOWN = (msgspec.structs.replace(CONTRADICTS[0], where=((0, 25), (100, 50))), CONTRADICTS[1])
DEAD_LETTER = DeadLetter(
    reason="malformed_json",
    message="not JSON: unexpected end of data: line 1 column 1 (char 0)",
    attempts=1,
    source=SourcePosition(topic="product-updates", partition=0, offset=0),
    product_id=None,
    image_url=None,
    release=None,
    published_at=PUBLISHED,
    rejected_at=SCORED,
    key=encode_bytes(b"mug-blue"),
    value=encode_bytes(b'{"id":\xff'),
    headers=[("trace", encode_bytes(b"abc")), ("empty", None)],
)
TOMBSTONE = ProductUpdate(id="mug-blue", version=7, deleted=True)
SUPERSEDED = ProductScore(
    product_id="mug-blue",
    order=1,
    outcome="superseded",
    source=SourcePosition(topic="product-updates", partition=3, offset=1),
    published_at=PUBLISHED,
    scored_at=SCORED,
    superseded_by=2,
)
EVENTS: dict[str, msgspec.Struct] = {
    "product-update": UPDATE,
    "product-update-tombstone": TOMBSTONE,
    "product-score": SCORE,
    "product-score-superseded": SUPERSEDED,
    "product-score-contradicted": msgspec.structs.replace(SCORE, contradicts=CONTRADICTS),
    "mismatch-alert": ALERT,
    "mismatch-alert-contradicted": msgspec.structs.replace(
        ALERT, data=msgspec.structs.replace(ALERT.data, contradicts=CONTRADICTS)
    ),
    "mismatch-alert-shown": msgspec.structs.replace(ALERT, data=msgspec.structs.replace(ALERT.data, contradicts=SHOWN)),
    "dead-letter": DEAD_LETTER,
    "shadow-release": ShadowRelease(
        release=RELEASE,
        manifest_sha256=IMAGE_SHA256,
        share=0.125,
        announced_at=SCORED,
        announced_by="ana",
        reason="labels of March",
    ),
    "shadow-score": ShadowScore(
        product_id=SCORE.product_id,
        order=SCORE.order,
        category=SCORE.category,
        source=SCORE.source,
        scored_at=SCORED,
        champion=Opinion(release=RELEASE, logit=2.75, probability=0.9375, threshold=0.5),
        challenger=Opinion(release="fusion-ba9876543210", logit=-1.5, probability=0.1875, threshold=0.25),
    ),
    "redecision": Redecision(product_id="mug-blue", release=RELEASE),
    "engine-release": EngineRelease(
        release=RELEASE,
        manifest_sha256=IMAGE_SHA256,
        action="promoted",
        replaces="fusion-ba9876543210",
        previous="fusion-ba9876543210",
        announced_at=SCORED,
        announced_by="ana",
        reason="labels of February",
    ),
    "scored-item": ITEM,
    "review-request": request_of(msgspec.structs.replace(ITEM, sampled="audit", sampling_probability=0.03125), SCORED),
    "confirmed-label": LABEL,
    "confirmed-label-of-an-alert": msgspec.structs.replace(
        LABEL, alert_id=ALERT.id, image_sha256=None, text_sha256=None, release=None, verdict="unsure", field=None
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_event_is_written_byte_for_byte_as_its_golden_file(name: str) -> None:
    """Another version of this project, or of its libraries, writes the same bytes."""
    path = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_bytes(encode(EVENTS[name]) + b"\n")
    assert encode(EVENTS[name]) + b"\n" == path.read_bytes()


@pytest.mark.parametrize("name", EVENTS)
def test_golden_file_reads_back_as_the_event(name: str) -> None:
    """What is written loses nothing."""
    raw = (GOLDEN / f"{name}.json").read_bytes()
    event = EVENTS[name]
    assert msgspec.convert(orjson.loads(raw), type(event)) == event


def test_golden_folder_holds_no_contract_that_nothing_pins() -> None:
    """A golden file without an event is a contract that was dropped by mistake."""
    assert {path.stem for path in GOLDEN.glob("*.json")} == EVENTS.keys()


def test_update_golden_files_are_read_by_the_stream() -> None:
    """The reader of the stream takes its own examples."""
    assert parse_update(b"mug-blue", (GOLDEN / "product-update.json").read_bytes()) == UPDATE
    assert parse_update(b"mug-blue", (GOLDEN / "product-update-tombstone.json").read_bytes()) == TOMBSTONE
    assert parse_score((GOLDEN / "product-score.json").read_bytes()) == SCORE
    assert parse_shadow_release((GOLDEN / "shadow-release.json").read_bytes()) == EVENTS["shadow-release"]
    assert parse_shadow_score((GOLDEN / "shadow-score.json").read_bytes()) == EVENTS["shadow-score"]
    assert parse_redecision((GOLDEN / "redecision.json").read_bytes()) == EVENTS["redecision"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"verdict": "yes"}, "malformed_event"),
        ({"alert_id": "../../secret"}, "malformed_event"),
        ({"image_sha256": "ab"}, "malformed_event"),
        ({"reviewer": ""}, "malformed_event"),
        ({"labeled_at": "2026-03-02T09:00:00"}, "malformed_event"),
        ({"labeled_at": "0001-01-01T00:00:00+23:59"}, "malformed_event"),
        ({"labeled_at": "9999-12-31T23:59:59-23:59"}, "malformed_event"),
        ({"image_sha256": None}, "label_names_no_item"),
        ({"schema_version": 2}, "schema_unsupported"),
    ],
)
def test_label_that_is_none_is_rejected_with_its_code(change: dict[str, Any], code: str) -> None:
    """Whatever review tool wrote it."""
    sound = orjson.loads((GOLDEN / "confirmed-label.json").read_bytes())
    assert parse_label(orjson.dumps(sound)) == LABEL
    with pytest.raises(RejectedEvent) as caught:
        parse_label(orjson.dumps(sound | change))
    assert caught.value.code == code


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"k" * 257])
def test_erasure_without_a_product_is_rejected(key: bytes | None) -> None:
    """A null value names its product by its key."""
    assert erased_product("mug-ü".encode()) == "mug-ü"
    with pytest.raises(RejectedEvent) as caught:
        erased_product(key)
    assert caught.value.code == "key_missing"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"release": "../../etc-000000000000"}, "malformed_event"),
        ({"release": "fusion"}, "malformed_event"),
        ({"manifest_sha256": "ab"}, "malformed_event"),
        ({"action": "deleted"}, "malformed_event"),
        ({"schema_version": 2}, "schema_unsupported"),
    ],
)
def test_announcement_that_is_none_is_rejected_with_its_code(change: dict[str, Any], code: str) -> None:
    """Its release becomes part of a path, its digest decides what is loaded."""
    sound = orjson.loads((GOLDEN / "engine-release.json").read_bytes())
    assert parse_release(orjson.dumps(sound)) == EVENTS["engine-release"]
    with pytest.raises(RejectedEvent) as caught:
        parse_release(orjson.dumps(sound | change))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "value",
    [
        b'{"id":"1"}',
        b'{"id":"1","version":3}',
        b'{"id":"1","updated_at":"2026-01-31T12:00:00Z","price":9.9}',
        b'{"id":"1","version":3,"deleted":true}',
        b'{"id":"1","version":3,"stock":{"warehouse":4},"attributes":{"a":null}}',
        b' {"version":-9223372036854775808,"id":"\xf0\x9f\x8d\xb5","schema_version":1}\n',
    ],
)
def test_update_of_a_catalogue_system_is_read(value: bytes) -> None:
    """Every field but `id` may be missing, and unknown fields are let pass."""
    assert parse_update(None, value).id


def test_update_null_value_is_a_tombstone_of_its_key() -> None:
    """Kafka's own way to delete."""
    assert parse_update("mug-ü".encode(), None) == ProductUpdate(id="mug-ü", deleted=True)


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        (None, None, "key_missing"),
        (b"", None, "key_missing"),
        (b"\xff", None, "key_missing"),
        (b"k" * 257, None, "key_missing"),
        (b"k", b"", "malformed_json"),
        (b"k", b"{", "malformed_json"),
        (b"k", b"\xff", "malformed_json"),
        (b"k", b"NaN", "malformed_json"),
        (b"k", b'{"id":"\\ud800"}', "malformed_json"),
        (b"k", b"null", "malformed_event"),
        (b"k", b"[]", "malformed_event"),
        (b"k", b"{}", "malformed_event"),
        (b"k", b'{"id":""}', "malformed_event"),
        (b"k", b'{"id":1}', "malformed_event"),
        (b"k", b'{"id":"1","version":9223372036854775808}', "malformed_event"),
        (b"k", b'{"id":"1","version":"3"}', "malformed_event"),
        (b"k", b'{"id":"1","updated_at":"yesterday"}', "malformed_event"),
        (b"k", b'{"id":"1","attributes":{"a":{}}}', "malformed_event"),
        (b"k", b'{"id":"1","additional_image_link":"a"}', "malformed_event"),
        (b"k", b'{"id":"1","schema_version":2}', "schema_unsupported"),
        (b"k", b'{"id":"1","schema_version":null}', "schema_unsupported"),
        (b"k", b'{"id":"1","schema_version":' + b"[" * 1000 + b"]" * 1000 + b"}", "schema_unsupported"),
        (b"k", b'{"id":"1","schema_version":' + b'{"a":' * 1000 + b"1" + b"}" * 1001, "schema_unsupported"),
    ],
)
def test_update_that_is_none_is_rejected_with_its_code(key: bytes | None, value: bytes | None, code: str) -> None:
    """The code is what people count and filter dead letters by."""
    with pytest.raises(RejectedEvent) as caught:
        parse_update(key, value)
    assert caught.value.code == code


def read(key: bytes | None, value: bytes | None) -> None:
    """Read as the score agent does; only RejectedEvent may come of it."""
    with contextlib.suppress(RejectedEvent):
        update = parse_update(key, value)
        text_digest(str(update.text_fields()))
        assert encode(update)
        _ = update.order


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
field_values = (
    json_values
    | st.sampled_from(["2026-01-31T12:00:00Z", "2026-01-31T12:00:00", "0001-01-01T00:00:00+23:59", "9" * 400])
    | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
)
field_names = st.sampled_from(ProductUpdate.__struct_fields__) | st.text(max_size=5)


@given(key=st.none() | st.binary(max_size=300), value=st.none() | st.binary())
def test_update_of_arbitrary_bytes_is_read_or_rejected(key: bytes | None, value: bytes | None) -> None:
    """No bytes break the stream."""
    read(key, value)


@given(value=json_values)
def test_update_of_arbitrary_json_is_read_or_rejected(value: Any) -> None:  # noqa: ANN401 - any JSON
    """No JSON breaks the stream."""
    read(b"k", orjson.dumps(value))


@given(fields=st.dictionaries(field_names, field_values, max_size=8))
def test_update_of_arbitrary_fields_is_read_or_rejected(fields: dict[str, Any]) -> None:
    """No value of a known field breaks the stream."""
    read(b"k", orjson.dumps({"id": "1"} | fields))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"id":"1","attributes":'])
def test_update_nested_without_end_is_rejected(opening: bytes) -> None:
    """Depth is bounded by the parser, not by the stack."""
    with pytest.raises(RejectedEvent):
        parse_update(b"k", opening * 100_000)


@pytest.mark.parametrize("claimed", [None, 0.0, -0.001, -(2.0**63) / 1000, 2.0**63 / 1000, float("nan"), float("inf")])
def test_claimed_time_of_any_record_is_a_time_that_can_be_written(claimed: float | None) -> None:
    """A producer may put any 64-bit number there; no record stops the worker by it."""
    moment = claimed_time(claimed)
    assert moment.tzinfo is not None
    assert encode(msgspec.structs.replace(SCORE, published_at=moment))
