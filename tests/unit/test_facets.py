"""`engines.build.facets`: which values are learned, and what a product's label is."""

from __future__ import annotations

import numpy as np

from engines.build.dataset import Catalog, Product
from engines.build.facets import Facets


def catalog(*values: tuple[str, str]) -> Catalog:
    """Return products with these colors and materials."""
    products = tuple(Product({}, facets, i, str(i), "") for i, facets in enumerate(values))
    return Catalog(products, ("color", "material"), np.zeros((len(values), 3, 1, 1), np.uint8), np.arange(len(values)))


def test_facets_hold_values_that_five_products_have() -> None:
    """Rarer values are not learned, nor is a facet with a single one that is frequent."""
    known = Facets.of(catalog(*[("red", "wool")] * 5, *[("blue", "")] * 6, ("teal", "silk")))
    assert known == Facets(("color",), (("blue", "red"),))
    assert known.sizes == (2,)


def test_labels_tell_values_others_and_none_apart() -> None:
    """A value that was not learned is another one; an empty field is none."""
    known = Facets(("material", "color"), (("silk", "wool"), ("blue", "red")))
    labels = known.labels(catalog(("red", "silk"), ("teal", "wool"), ("", "felt")))
    assert labels.tolist() == [[0, 1], [1, 2], [2, 3]]


def test_catalog_without_facets_has_none() -> None:
    """Its products still have a row each."""
    assert Facets((), ()).labels(catalog(("", ""), ("", ""))).shape == (2, 0)
