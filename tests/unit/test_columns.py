"""`engines.build.columns`: which columns of a catalogue are attributes."""

from __future__ import annotations

from engines.build.columns import HISTORY_LENGTH, MAX_VALUES, find_columns
from engines.build.models.attributes import attribute_spec


def rows(count: int = 100) -> list[dict[str, object]]:
    """Return products with columns of every kind."""
    return [
        {
            "id": str(i),
            "title": f"Mug {i % 3}",
            "image_link": f"{i}.jpg",
            "price": f"{i}.50 USD",
            "weight": i,
            "color": ("Red", "Blue")[i % 2],
            "sku": f"sku-{i}",
            **({"lining": "Silk"} if i < 4 else {}),
        }
        for i in range(count)
    ]


def test_find_columns_takes_numbers_and_repeated_values() -> None:
    """Ids, titles, links, values that never come again and columns that few products have are left out."""
    columns = find_columns(rows())
    assert columns.numbers == ("price", "weight")
    assert columns.categories == {"color": ("red", "blue")}
    assert (columns.history, columns.history_length) == (None, 0)


def test_find_columns_takes_a_price_history() -> None:
    """Past prices are read where any product has them."""
    columns = find_columns([*rows(), {"id": "x", "price_history": ["5", "4"]}])
    assert (columns.history, columns.history_length) == ("price_history", HISTORY_LENGTH)
    assert columns.count == 3 + HISTORY_LENGTH


def test_find_columns_keeps_the_most_frequent_values() -> None:
    """A long tail is one value, `other`; a column that is all tail is none."""
    values = [f"shade {min(i, 70)}" for i in range(71) for _ in range(3 if i else 30)]
    columns = find_columns([{"color": value, "note": f"note {i // 2}"} for i, value in enumerate(values)])
    assert set(columns.categories) == {"color"}
    assert len(columns.categories["color"]) == MAX_VALUES
    assert columns.categories["color"][0] == "shade 0"
    assert attribute_spec(columns).categories == (MAX_VALUES + 1,)


def test_find_columns_of_products_that_have_none_is_none() -> None:
    """Where nothing is known beside the text, no graph takes attributes."""
    assert find_columns([{"id": str(i), "title": f"mug {i}", "image_link": "a.jpg"} for i in range(50)]) is None
