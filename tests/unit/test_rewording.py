"""`engines.build.rewording`: texts that are wrong in one attribute."""

from __future__ import annotations

import numpy as np
import pytest

from engines.build.dataset import Catalog, Product
from engines.build.rewording import Reworder, Rewording


def reworder(*products: Product) -> Reworder:
    """Return what rewords these products."""
    return Reworder(
        Catalog(products, (), np.zeros((len(products), 3, 1, 1), np.uint8), np.arange(len(products))), seed=0
    )


def product(number: int, category: str = "tees", identity: int | None = None, **fields: str) -> Product:
    """Return a product that says this."""
    return Product(fields, (), number if identity is None else identity, str(number), category)


def reworded(*products: Product) -> Rewording:
    """Return a wrong text of the first one."""
    found = reworder(*products).reword(0)
    assert found is not None
    return found


def test_reword_exchanges_every_mention_of_the_value() -> None:
    """Field, title and description say the new color, each in its own case."""
    found = reworded(
        product(0, title="RED tee, Red", color="Red", description="A red tee, not a redder one."),
        product(1, title="Navy tee", color="Navy"),
    )
    assert (found.attribute, found.old, found.new) == ("color", "Red", "Navy")
    assert found.fields == {
        "title": "NAVY tee, Navy",
        "color": "Navy",
        "description": "A navy tee, not a redder one.",
    }


def test_reword_prefers_values_of_the_same_category() -> None:
    """Tees are red or navy; only rugs are terracotta."""
    seen = {
        reworded(product(0, color="Red"), product(1, color="Navy"), product(2, "rugs", color="Terracotta")).new
        for _ in range(20)
    }
    assert seen == {"Navy"}


def test_reword_takes_no_value_that_may_be_right() -> None:
    """A shared word, or another product with the same picture that says it, rules a value out."""
    same_picture = product(1, identity=0, color="Crimson")
    wordy = product(2, color="Dark red")
    assert reworder(product(0, identity=0, color="Red"), same_picture, wordy).reword(0) is None
    assert reworded(product(0, identity=0, color="Red"), same_picture, wordy, product(3, color="Green")).new == "Green"


@pytest.mark.parametrize(
    ("title", "other", "expected"),
    [
        ("Set of 4 mugs", "Set of 6 mugs", "Set of 6 mugs"),
        ("Mugs, 2-pack", "Mugs, 3-pack", "Mugs, 3-pack"),
        ("Box of four, 24 cm", "Box of Six", "Box of six, 24 cm"),
    ],
)
def test_reword_exchanges_quantities_of_the_title(title: str, other: str, expected: str) -> None:
    """Numbers that count, never those that measure."""
    found = reworded(product(0, title=title), product(1, title=other))
    assert found.attribute == "count"
    assert found.fields["title"] == expected


def test_reword_gender_keeps_the_rest_of_the_word() -> None:
    """`Men's` becomes `Women's`; nothing is exchanged inside other words."""
    found = reworded(product(0, title="Men's menthol tee", gender="Men"), product(1, gender="Women"))
    assert found.fields["title"] == "Women's menthol tee"


def test_reword_product_without_attributes_gets_no_text() -> None:
    """There is nothing to exchange in a bare title."""
    assert reworder(product(0, title="Mug"), product(1, title="Cup", color="Red")).reword(0) is None


def test_reword_same_seed_gives_the_same_texts() -> None:
    """Draws are repeatable."""
    products = tuple(product(i, color=color) for i, color in enumerate(("Red", "Blue", "Green", "Black")))
    one, other = ([drawing.reword(i % 4) for i in range(20)] for drawing in (reworder(*products), reworder(*products)))
    assert one == other
    assert len({found.new for found in one if found}) > 2


def test_applied_changes_columns_with_the_text() -> None:
    """An engine that reads both must not tell a wrong text by their difference; the price is no part of the text."""
    columns: dict[str, object] = {"title": "Red tee", "color": "Red", "price": "5"}
    said = Product({"title": "Red tee", "color": "Red"}, (), 0, "0", "tees", columns=columns)
    found = reworded(said, product(1, color="Navy")).applied(said)
    assert found.fields == {"title": "Navy tee", "color": "Navy"}
    assert found.columns == {"title": "Navy tee", "color": "Navy", "price": "5"}
