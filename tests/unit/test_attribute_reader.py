"""`engines.attributes`: what a product's columns become."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.attributes import AttributeReader, category, number
from engines.contract import AttributeColumns

COLUMNS = AttributeColumns(
    numbers=("price", "weight"),
    categories={"color": ("red", "navy blue"), "gender": ("women",)},
    history="price_history",
    history_length=3,
)
READER = AttributeReader(COLUMNS)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4),
)


def test_read_gives_value_and_known_of_each_column() -> None:
    """Numbers, then categories, then the history behind what is not known of it."""
    read = READER.read(
        {"price": "52.00 USD", "color": "Navy  Blue", "gender": "Men", "price_history": ["60", "52"], "brand": "Ours"}
    )
    values = [math.log1p(52), 0, 1, 1, 0, math.log1p(60), math.log1p(52)]
    assert read.dtype == np.float32
    assert read[:, 0].tolist() == pytest.approx(values)
    assert read[:, 1].tolist() == [1, 0, 1, 1, 0, 1, 1]


def test_read_history_keeps_the_last_values() -> None:
    """The oldest are dropped; one that cannot be read is not known; a string holds a history, too."""
    for past in (["1", "2", "cheap", "4"], "1 2 cheap 4", "1;2|cheap;4"):
        read = READER.read({"price_history": past})[-3:]
        assert read[:, 1].tolist() == [1, 0, 1]
        assert read[::2, 0].tolist() == pytest.approx([math.log1p(2), math.log1p(4)])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (52, 52),
        ("52", 52),
        ("1,299.00 USD", 1299),
        ("EUR 12.50", 12.5),
        ("€12,50", 12.5),
        ("1.299,00 €", 1299),
        ("1 299,00", 1299),
        ("1'299.50", 1299.5),
        ("1.299.000", 1_299_000),
        ("Rs. 499", 499),
        ("kr 100", 100),
        ("1.299", 1.299),
        ("1.2.3", 1.2),
        ("-3", -3),
        (".5", 0.5),
        (True, 1),
        ("about 5", None),
        ("sku-5", None),
        ("", None),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (["5"], None),
    ],
)
def test_number_reads_what_a_feed_writes(value: object, expected: float | None) -> None:
    """With or without a currency; what is no number is not known."""
    assert number(value) == expected


def test_category_is_one_spelling() -> None:
    """Case, width and spaces do not tell values apart; a list is one value."""
    assert category("  \uff32ed ") == category("RED") == "red"
    assert category(["Cotton", "Wool"]) == "cotton, wool"
    assert category(7) == "7"
    assert category(None) == category("") == category({}) == ""


def test_without_leaves_out_every_place_of_a_column() -> None:
    """A column that is not there changes nothing; a history goes whole."""
    read = READER.read({"price": 5, "color": "red", "price_history": ["1", "2", "3"]})
    assert np.array_equal(READER.without(read, "title"), read)
    assert READER.without(read, "color")[2].tolist() == [0, 0]
    assert READER.without(read, "price_history")[:, 1].tolist() == [1, 0, 1, 0, 0, 0, 0]


@given(values=st.dictionaries(st.sampled_from(["price", "weight", "color", "gender", "price_history"]), anything))
def test_read_any_value_is_finite_or_unknown(values: dict[str, object]) -> None:
    """Whatever a feed holds, the tensor has its shape and holds finite numbers."""
    read = READER.read(values)
    assert read.shape == (COLUMNS.count, 2)
    assert np.isfinite(read).all()
    assert set(read[:, 1].tolist()) <= {0.0, 1.0}
    assert (read[read[:, 1] == 0] == 0).all()
