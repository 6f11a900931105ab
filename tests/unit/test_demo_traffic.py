"""The demo's traffic."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.demo.traffic import BAD_INPUT, FOLLOW_UPS, PlannedEvent, plan
from streamer.errors import RejectedEvent
from streamer.updates import parse_update
from tests.unit.demo_records import products

BASE_URL = "http://127.0.0.1:8080"


def _planned(events: int = 1000, *, count: int = 1000, seed: int = 1) -> list[PlannedEvent]:
    return plan(products(count), events=events, seed=seed, image_url=lambda name: f"{BASE_URL}/{name}")


def test_plan_default_size_holds_every_kind() -> None:
    """One in twenty is swapped, and each rare kind is there."""
    kinds = Counter(event.truth.kind for event in _planned())
    assert kinds["swapped"] == 50
    assert {kind: kinds[kind] for kind in BAD_INPUT + FOLLOW_UPS} == dict.fromkeys(BAD_INPUT + FOLLOW_UPS, 5)
    assert kinds.total() == 1000


def test_plan_same_seed_gives_same_bytes() -> None:
    """A run can be repeated, and another seed is another run."""
    assert _planned(seed=3) == _planned(seed=3)
    assert _planned(seed=3) != _planned(seed=4)


@settings(deadline=None, max_examples=40)
@given(events=st.integers(1, 400), groups=st.integers(1, 60), seed=st.integers(0, 1000))
def test_plan_any_size_has_that_many_events(events: int, groups: int, seed: int) -> None:
    """Whatever the catalogue, there are as many events as asked for, and follow-ups come after what they follow."""
    seen: set[str] = set()
    stream = _planned(events, count=groups * 4, seed=seed)
    for event in stream:
        assert event.truth.kind not in FOLLOW_UPS or event.truth.product_id in seen
        seen.add(event.truth.product_id)
    assert len(stream) == events


def test_plan_readable_events_carry_the_version_and_picture_of_their_truth() -> None:
    """What the truth says of an event stands in its bytes."""
    for event in _planned():
        if event.truth.kind in {"malformed_json", "tombstone"}:
            continue
        update = parse_update(event.key, event.value)
        assert (update.id, update.order) == (event.truth.product_id, event.truth.order)
        assert update.image_link == f"{BASE_URL}/{event.truth.picture}"


def test_plan_swapped_event_shows_a_sibling() -> None:
    """A wrong picture is another product's, of the same item."""
    for event in _planned():
        if event.truth.kind == "swapped":
            assert event.truth.swapped
            assert event.truth.shown_id is not None
            assert event.truth.shown_id != event.truth.product_id
            assert event.truth.shown_id.split("-")[1] == event.truth.product_id.split("-")[1]


def test_plan_malformed_event_is_rejected_by_the_contract() -> None:
    """Cut-off JSON is not an update."""
    cut = next(event for event in _planned() if event.truth.kind == "malformed_json")
    with pytest.raises(RejectedEvent) as caught:
        parse_update(cut.key, cut.value)
    assert caught.value.code == "malformed_json"


def test_plan_tombstones_come_as_null_and_as_a_record() -> None:
    """Both ways to delete a product are there."""
    values = [event.value for event in _planned() if event.truth.kind == "tombstone"]
    assert None in values
    assert any(value is not None and orjson.loads(value)["deleted"] for value in values)


def test_plan_redelivery_repeats_the_bytes() -> None:
    """A redelivered event is the one before, byte for byte."""
    stream = _planned()
    for index, event in enumerate(stream):
        if event.truth.kind == "redelivery":
            earlier = [e for e in stream[:index] if e.key == event.key]
            assert earlier[-1].value == event.value
            assert earlier[-1].truth.swapped == event.truth.swapped


def test_plan_older_version_comes_after_a_newer_right_one() -> None:
    """Were it taken for news, it would open an alert on a product that is right."""
    stream = _planned()
    for index, event in enumerate(stream):
        if event.truth.kind == "older_version":
            newest = [e for e in stream[:index] if e.key == event.key][-1]
            assert event.truth.swapped
            assert not newest.truth.swapped
            assert (event.truth.order or 0) < (newest.truth.order or 0)


def test_plan_repairs_put_swapped_products_right() -> None:
    """A repair is a newer version with the right picture, of a product that had a wrong one."""
    stream = _planned()
    for index, event in enumerate(stream):
        if event.truth.kind == "repair":
            before = [e for e in stream[:index] if e.key == event.key][-1]
            assert before.truth.swapped
            assert not event.truth.swapped


def test_plan_small_catalogue_sends_products_again_with_newer_versions() -> None:
    """With fewer products than events, versions grow."""
    orders = [e.truth.order for e in _planned(20, count=4) if e.truth.product_id == "mug-0-red"]
    assert orders == sorted(orders, key=lambda order: order or 0)
    assert len(orders) == 5


@pytest.mark.parametrize(("events", "count"), [(0, 8), (5, 0)])
def test_plan_impossible_request_is_refused(events: int, count: int) -> None:
    """No events, or nothing to mix up, is an error that says so."""
    with pytest.raises(ValueError, match="at least"):
        _planned(events, count=count)
