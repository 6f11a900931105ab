"""`engines.build.grades`: each grade's wrong picture is what it says, and really wrong."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from engines.build import grades
from engines.build.dataset import Catalog, Product
from engines.build.evaluate import MATCH
from engines.build.traits import traits
from engines.errors import CatalogInvalid

COLORS = ("red", "blue", "green", "")
N = 48


def catalog() -> Catalog:
    """Return 48 products of 3 categories and 4 colors, two pictures each; every third copies the one before it."""
    products = tuple(
        Product(
            fields={"title": f"thing {i}", "brand": ("", "Anvil", "Bolt")[i // 4 % 3]},
            facets=(f"kind {i % 3}", COLORS[i // 3 % 4], "men" if i % 2 else "women"),
            identity=i - (i % 3 == 1),
            group=f"group {i // 4}",
            category=f"kind {i % 3}",
        )
        for i in range(N)
    )
    pixels = np.zeros((2 * N, 3, 1, 1), dtype=np.uint8)
    return Catalog(products, ("product_type", "color", "gender"), pixels, np.repeat(np.arange(N), 2))


def graded() -> tuple[Catalog, dict[str, list[tuple[int, int]]]]:
    """Return the catalogue, and the (text, shown product) pairs of each grade."""
    data = catalog()
    looks = np.random.default_rng(0).normal(size=(N, 8))
    pairs = grades.graded_pairs(data, looks, seed=0)
    shown = data.picture_owner[pairs.picture]
    found: dict[str, list[tuple[int, int]]] = {}
    for grade, text, other in zip(pairs.difference, pairs.product, shown, strict=True):
        found.setdefault(str(grade), []).append((int(text), int(other)))
    assert [str(d) == MATCH for d in pairs.difference] == [label == 0 for label in pairs.label]
    return data, found


def test_graded_pairs_have_every_grade_and_one_match_of_each_product() -> None:
    """All grades stand beside the true pairs."""
    _, found = graded()
    assert set(found) == {MATCH, *grades.MEANINGS}
    assert found[MATCH] == [(i, i) for i in range(N)]


def test_graded_pairs_never_show_the_same_identity() -> None:
    """A copy of a product is not a wrong picture of it."""
    data, found = graded()
    for grade in grades.MEANINGS:
        assert all(data.products[i].identity != data.products[j].identity for i, j in found[grade])


def test_graded_pairs_are_of_their_grade() -> None:
    """Medium stays in the category, brand in the brand, too, hard in category and gender, a variant in its group."""
    data, found = graded()
    for i, j in found[grades.BRAND]:
        one, other = data.products[i], data.products[j]
        assert (one.category, one.fields["brand"]) == (other.category, other.fields["brand"])
        assert one.fields["brand"]
    for i, j in found[grades.MEDIUM]:
        assert data.products[i].category == data.products[j].category
    for i, j in found[grades.HARD] + found[grades.HARD_RULE]:
        one, other = data.products[i].facets, data.products[j].facets
        assert (one[0], one[2]) == (other[0], other[2])
        assert one[1] != other[1]
        assert one[1]
        assert other[1]
    for i, j in found[grades.VARIANT]:
        assert data.products[i].group == data.products[j].group


def test_nearest_shows_the_product_that_looks_most_alike() -> None:
    """The nearest of another identity, by cosine."""
    data = catalog()
    looks = np.random.default_rng(0).normal(size=(N, 8))
    pairs = grades.graded_pairs(data, looks, seed=0)
    unit = looks / np.linalg.norm(looks, axis=1, keepdims=True)
    nearest = pairs.difference == grades.NEAREST
    for text, picture in zip(pairs.product[nearest], pairs.picture[nearest], strict=True):
        others = [j for j in range(N) if data.products[j].identity != data.products[text].identity]
        assert data.picture_owner[picture] == max(others, key=lambda j: float(unit[text] @ unit[j]))


def test_products_that_may_all_show_the_same_are_refused() -> None:
    """Of one title there is no wrong picture, and no threshold could be chosen: that is said before hours are spent."""
    data, looks = catalog(), np.random.default_rng(0).normal(size=(N, 8))
    grades.require_mismatches(data, looks)
    same = replace(data, products=tuple(replace(product, identity=0) for product in data.products))
    with pytest.raises(CatalogInvalid, match="no wrong picture"):
        grades.require_mismatches(same, looks)


def test_traits_of_a_value_that_is_a_whole_page_cost_its_length() -> None:
    """A page of HTML in one product's brand is not kept as often as there are products."""
    data = catalog()
    page = replace(data.products[0], fields=data.products[0].fields | {"brand": "x" * 1_000_000})
    data = replace(data, products=(page, *data.products[1:]))
    tracemalloc.start()
    found = traits(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 1_000_000
    assert (
        len(set(found.brand.tolist()))
        == len({(p.category, p.fields["brand"]) for p in data.products if p.fields["brand"]}) + 1
    )
