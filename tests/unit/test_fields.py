"""Which columns are text: what no picture shows is left out by name and by value, in training as in scoring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engines.build.dataset import Catalog, Product
from engines.build.recipe import TEXT_FIELDS
from engines.build.texts import data_digest, fields_to_read
from engines.contract import AttributeColumns, TextSpec
from engines.fields import CodeColumns, column, is_text, text_fields
from engines.text import compose
from streamer.updates import ProductUpdate, text_digest

SPEC = TextSpec(max_tokens=64, fields=TEXT_FIELDS)


@pytest.mark.parametrize(
    "name",
    [
        "link", "g:mobile_link", "canonicalLink", "lifestyleImageLink", "product_url", "gtin", "GTIN", "ean", "mpn",
        "sku", "identifierExists", "availability", "availabilityDate", "in stock", "condition", "shipping",
        "g:shipping_weight", "shippingLabel", "tax", "taxes", "tax_rate", "sale_price", "salePriceEffectiveDate",
        "unit_pricing_measure", "cost_of_goods_sold", "customLabel0", "custom_label_4", "promotionIds", "adult",
        "ads_redirect", "includedDestination", "quantity", "list_price", "price_history", "item_group_id", "updated_at",
    ],
)  # fmt: skip
def test_is_text_no_column_that_a_picture_cannot_show(name: str) -> None:
    """In the file's spelling and in the API's."""
    assert not is_text(name)


@pytest.mark.parametrize(
    "name",
    ["title", "description", "color", "size", "sizeType", "age_group", "multipack", "product_highlight", "taxonomy",
     "climate", "heel", "g:material", "discounted look", "valid"],
)  # fmt: skip
def test_is_text_every_column_that_may_describe(name: str) -> None:
    """A name that only begins or ends like another is its own."""
    assert is_text(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Image Link", "image_link"), ("g:imageLink", "image_link"), ("Heel-Height", "heel-height"), ("ID", "id")],
)
def test_column_spellings_of_known_names_are_one(name: str, expected: str) -> None:
    """What Google does not know keeps its name, in lower case."""
    assert column(name) == expected


def test_text_fields_leave_out_links_and_bare_numbers_of_categories() -> None:
    """A value that is nothing but links says nothing; one that has a link in it does."""
    said = {
        "title": "Mug",
        "manual": "https://h/a.pdf, //h/b.pdf",
        "shop": "www.mugs.example",
        "swatch": "images/blue.JPG",
        "note": "see https://h/a",
        "google_product_category": "2169",
    }
    assert text_fields(said) == {"title": "Mug", "note": "see https://h/a"}


def test_update_says_the_same_whatever_changes_beside_its_text() -> None:
    """Stock, prices and campaigns change all day: none of it is scored anew."""
    before = {"season": "Summer", "availability": "in stock", "salePrice": "5 EUR", "custom_label_0": "hot"}
    after = {"season": "Summer", "availability": "out of stock", "salePrice": "4 EUR", "gtin": "4006381333931"}
    updates = [ProductUpdate(id="1", title="Mug", attributes=said) for said in (before, after)]
    texts = [compose(update.text_fields(), SPEC) for update in updates]
    assert texts == ["title: Mug\nseason: Summer"] * 2
    assert text_digest(texts[0]) == text_digest(texts[1])


def test_code_columns_are_codes_that_hardly_ever_come_again() -> None:
    """Words, measures that repeat, few products and named fields are no codes."""
    judged = CodeColumns()
    for n in range(100):
        codes = {
            "style": f"AB-{n:04}",
            "slug": "-".join(["blue"] * (n + 1)),
            "weight": f"{n % 5}.125",
            "size": f"S{n:04}",
        }
        judged.add(codes | ({"batch": f"B{n:04}"} if n < 10 else {}))
    assert judged.found() == {"style"}


def test_fields_to_read_name_the_others_where_there_are_codes() -> None:
    """An engine does not learn codes, and its scorer, which sees one product at a time, does not read them."""
    said = [{"title": f"Mug {n}", "style": f"AB-{n:04}", "season": "Summer", "brand": "Ace"} for n in range(30)]
    fields = fields_to_read(said)
    assert fields == (*TEXT_FIELDS[:7], "season", "description", "brand")
    spec = TextSpec(max_tokens=64, fields=fields)
    assert compose({"title": "Mug", "style": "AB-9999", "season": "Winter"}, spec) == "title: Mug\nseason: Winter"


def test_fields_to_read_without_codes_are_all() -> None:
    """A column that comes later is read, too."""
    assert fields_to_read([{"title": f"Mug {n}", "season": "Summer"} for n in range(30)]) == TEXT_FIELDS


def test_data_digest_changes_with_a_price_only_where_it_is_read() -> None:
    """A feed a week later, with other prices: an engine that reads them is another one."""
    columns = AttributeColumns(numbers=("price",), categories={}, history_length=0)
    spec = TextSpec(max_tokens=8, fields=("title",))
    mug = Product({"title": "Mug"}, (), 0, "0", "", "0")
    pixels = np.zeros((1, 3, 2, 2), np.uint8)
    week, next_week = (
        Catalog((replace(mug, columns={"price": price}),), (), pixels, np.arange(1))
        for price in ("9.90 EUR", "12.90 EUR")
    )
    assert data_digest(week, spec) == data_digest(next_week, spec)
    assert data_digest(week, spec, columns) != data_digest(next_week, spec, columns)
