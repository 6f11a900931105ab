"""Feeds that call things otherwise: usual other names, what their owner says, what exports make of values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from streamer.columns import Columns
from streamer.errors import FatalError, RejectedEvent
from streamer.feed_rows import product_update
from streamer.feeds import Row, open_feed
from streamer.publish import check
from streamer.publish_state import PublishOptions

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.feeds import Feed
    from streamer.publish import Published
    from streamer.updates import ProductUpdate


class Nobody:
    """Looks on and says nothing."""

    def advanced(self, feed: Feed, published: Published) -> None:
        """Take no notice."""

    def rejected(self, line: int, error: RejectedEvent) -> None:
        """Take no notice."""


def update(fields: dict[str, Any], *options: str, ordered: bool = True) -> ProductUpdate:
    """Return the update of one row, its columns as `--column` says."""
    row = Row(1, 1, Columns.of(options).read(fields))
    return product_update(row, base_url=None, feed_time=datetime(2026, 3, 1, tzinfo=UTC), ordered=ordered)


def read_as(fields: dict[str, Any], *options: str) -> dict[str, Any]:
    """Return what a row says under our names, without what is empty."""
    return Columns.of(options).read(fields)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("Name", "title"),
        ("productDisplayName", "title"),
        ("colour", "color"),
        ("baseColour", "color"),
        ("Category", "product_type"),
        ("productTypes", "product_type"),
        ("g:google_product_category", "product_type"),
        ("imageLink", "image_link"),
        ("IMAGE URL", "image_link"),
        ("img", "image_link"),
        ("Product-ID", "id"),
        ("offerId", "id"),
        ("SKU", "id"),
        ("additionalImageLinks", "additional_image_link"),
        ("itemGroupId", "item_group_id"),
    ],
)
def test_column_under_a_usual_other_name_is_found(name: str, field: str) -> None:
    """Shops, exports and APIs have names of their own for the same thing."""
    assert read_as({name: "a word"}) == {field: "a word"}


def test_column_of_ours_wins_over_other_names() -> None:
    """What is not needed keeps its own name; an empty column of ours is as if it were not there."""
    assert read_as({"title": "A", "name": "B"}) == {"title": "A", "name": "B"}
    assert read_as({"title": " ", "name": "B", "product_name": "C"}) == {"title": "B", "product_name": "C"}


@pytest.mark.parametrize("value", [{"en": "Mug"}, True])
def test_column_whose_value_does_not_fit_keeps_its_name(value: object) -> None:
    """An object is no title, and a number no category."""
    assert read_as({"name": value, "category": "17"}) == {"name": value, "category": "17"}


def test_column_option_wins_over_what_is_found() -> None:
    """The owner of a feed knows it; what stood under our name is then something else, and left out."""
    fields = {"id": "1", "title": "x", "name": "y", "Headline": "Blue mug"}
    assert read_as(fields, "title=headline") == {"id": "1", "name": "y", "title": "Blue mug"}
    both = read_as({"nr": "1", "text": "Mug"}, "id=nr", "item_group_id=nr", "title=Text")
    assert both == {"id": "1", "item_group_id": "1", "title": "Mug"}


@pytest.mark.parametrize("option", ["title", "title=", "titel=name", "=name", "deleted=gone"])
def test_column_option_that_says_nothing_is_explained(option: str) -> None:
    """The message names the form and the fields."""
    with pytest.raises(FatalError, match=r"write FIELD=COLUMN, as in title=name.*image_link") as caught:
        Columns.of([option])
    assert caught.value.code == "settings_invalid"


def test_column_option_twice_for_a_field_is_refused() -> None:
    """Which of them should win is not guessed."""
    with pytest.raises(FatalError, match="once for a field"):
        Columns.of(["title=a", "title=b"])


def test_table_without_the_column_of_an_option_says_which_it_has(tmp_path: Path) -> None:
    """A misspelt column would be a column that no product has."""
    (tmp_path / "feed.csv").write_text("id,headline\n1,Mug\n")
    with open_feed(tmp_path / "feed.csv", Columns.of(["title=headlin"])) as feed, pytest.raises(FatalError) as caught:
        list(feed.rows)
    assert "title" not in caught.value.code
    assert "=headlin: " in str(caught.value)
    assert "headline" in str(caught.value)


def test_table_without_an_id_says_what_its_columns_are_read_as(tmp_path: Path) -> None:
    """What is missing is named with the option that helps."""
    (tmp_path / "feed.csv").write_text("nr;name;Bild\n1;Mug;m.jpg\n")
    with open_feed(tmp_path / "feed.csv") as feed, pytest.raises(FatalError) as caught:
        list(feed.rows)
    assert "nr, name (read as title), Bild" in str(caught.value)
    assert "--column id=COLUMN" in str(caught.value)


@pytest.mark.parametrize(
    ("header", "found"),
    [("id,title,a|b|c", ["id", "title", "a|b|c"]), ('"id";"a, b"', ["id", "a,_b"]), ("sku\tname", ["id", "title"])],
)
def test_table_is_read_between_what_divides_its_ids(tmp_path: Path, header: str, found: list[str]) -> None:
    """What stands inside a name divides nothing."""
    (tmp_path / "feed.csv").write_text(f"{header}\n" + header.replace("id", "1") + "\n")
    with open_feed(tmp_path / "feed.csv") as feed:
        (row,) = feed.rows
    assert isinstance(row.fields, dict)
    assert sorted(row.fields) == sorted(found)


def test_publish_of_rows_that_say_nothing_names_columns_and_option(tmp_path: Path) -> None:
    """JSONL without ids ends after a hundred rows with what was found in them."""
    path = tmp_path / "feed.jsonl"
    path.write_bytes(b"".join(orjson.dumps({"nr": n, "name": "Mug"}) + b"\n" for n in range(200)))
    with pytest.raises(FatalError, match=r"none of the first 100.*name \(read as title\).*--column id=COLUMN"):
        check(PublishOptions(feed=path, topic="t"), Nobody())


@pytest.mark.parametrize(
    ("given", "category"),
    [
        (["Home > Mugs", "Gifts > Mugs"], "Home > Mugs"),
        (["Home", "Mugs"], "Home > Mugs"),
        ('["Home >> Mugs"]', "Home >> Mugs"),
        ("[Sale] Mugs", "[Sale] Mugs"),
    ],
)
def test_category_as_a_list_is_one_path(given: object, category: str) -> None:
    """Google's API repeats whole paths, others list the parts of one."""
    assert update({"id": "1", "product_type": given}).product_type == category


@pytest.mark.parametrize(
    ("given", "price"),
    [
        ({"value": "9.90", "currency": "EUR"}, "9.90 EUR"),
        ({"amountMicros": "9900000", "currencyCode": "EUR"}, "9.9 EUR"),
        (9.9, "9.9"),
    ],
)
def test_price_as_an_object_is_text(given: object, price: str) -> None:
    """The objects of Google's two APIs say what the file says in one cell."""
    assert update({"id": "1", "price": given}).price == price


def test_texts_as_lists_are_joined() -> None:
    """A product of two colors has two colors; a list of objects is still refused."""
    assert update({"id": "1", "sizes": ["S", 38], "colour": ["Red", "Blue"]}).color == "Red, Blue"
    with pytest.raises(RejectedEvent):
        update({"id": "1", "title": [{"en": "Mug"}]})


@pytest.mark.parametrize(
    "given",
    [
        {"images": [{"src": "https://h/1.jpg"}, {"src": "https://h/2.jpg"}]},
        {"image": '["https://h/1.jpg", "https://h/2.jpg"]'},
        {"image": {"url": "https://h/1.jpg"}, "additional_images": "https://h/2.jpg"},
    ],
)
def test_pictures_as_lists_and_objects_are_links(given: dict[str, Any]) -> None:
    """The first is the main one, the others are additional."""
    found = update({"id": "1", **given})
    assert (found.image_link, found.additional_image_link) == ("https://h/1.jpg", ["https://h/2.jpg"])


def test_more_pictures_than_the_contract_takes_do_not_refuse_the_row() -> None:
    """The first ones are kept."""
    assert len(update({"id": "1", "images": [f"https://h/{n}.jpg" for n in range(50)]}).additional_image_link) == 32


@pytest.mark.parametrize("order", [{"version": "2.1"}, {"updated_at": "yesterday"}, {"updated_at": "2026-01-01"}])
def test_order_that_cannot_be_read_refuses_a_row_only_where_it_matters(order: dict[str, str]) -> None:
    """A stream must not mix up what came first; a catalogue has no use for it."""
    with pytest.raises(RejectedEvent):
        update({"id": "1", **order})
    assert update({"id": "1", **order}, ordered=False).version is None
