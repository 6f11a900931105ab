"""`engines.build.negatives`: a partner's picture really contradicts the text."""

from __future__ import annotations

import numpy as np
import pytest

from engines.build.dataset import Product
from engines.build.negatives import PartnerSampler, single_difference
from engines.errors import CatalogInvalid

NAMES = ("kind", "color")


def product(kind: str, color: str, group: str, identity: int) -> Product:
    """Return a product of two facets."""
    return Product(fields={"title": kind}, facets=(kind, color), identity=identity, group=group, category=kind)


PRODUCTS = (
    product("mug", "red", "a", 0),
    product("mug", "blue", "a", 1),
    product("mug", "red", "b", 0),  # shows and says the same as the first
    product("bowl", "red", "c", 2),
    product("bowl", "green", "d", 3),
)


@pytest.mark.parametrize(
    ("kind", "anchor", "expected"),
    [
        ("random", 0, {1, 3, 4}),
        ("category", 0, {1}),
        ("category", 3, {4}),
        ("sibling", 0, {1}),
        ("neighbour", 0, {1, 3}),
        ("sibling", 2, {1}),  # alone in its group: falls back to its category
    ],
)
def test_partners_of_a_kind_are_the_products_that_fit(kind: str, anchor: int, expected: set[int]) -> None:
    """Each kind draws all that fit, never a product of the same identity."""
    drawn = PartnerSampler(PRODUCTS, seed=0).partners(np.full(200, anchor), {kind: 1.0})
    assert set(drawn.tolist()) == expected


def test_partners_same_seed_repeats() -> None:
    """Everything random takes a seed."""
    mix = dict.fromkeys(PartnerSampler.kinds, 0.25)
    first, second = (PartnerSampler(PRODUCTS, seed=3).partners(np.arange(5), mix) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_partners_nothing_to_exchange_is_an_error() -> None:
    """A catalogue in which all is the same teaches nothing, and says so."""
    with pytest.raises(CatalogInvalid, match="nothing to exchange"):
        PartnerSampler([PRODUCTS[0], PRODUCTS[2]], seed=0).partners(np.array([0]), {"sibling": 1.0})


def test_single_difference_names_the_only_facet() -> None:
    """One facet apart has a name; none or two have not."""
    assert single_difference(PRODUCTS[0], PRODUCTS[1], NAMES) == "color"
    assert single_difference(PRODUCTS[0], PRODUCTS[2], NAMES) is None
    assert single_difference(PRODUCTS[0], PRODUCTS[4], NAMES) is None
