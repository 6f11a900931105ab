"""`engines.build.dataset`: pictures stay with their products, and a split does not leak."""

from __future__ import annotations

import numpy as np
import pytest

from engines.build.dataset import Catalog, Product, connections, limit, split
from engines.catalogs.groups import connected


def catalog() -> Catalog:
    """Return three products with one, two and three pictures, each filled with its own number."""
    owners = np.array([0, 1, 1, 2, 2, 2])
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), dtype=np.uint8)
    products = tuple(
        Product(fields={"title": str(i)}, facets=(str(i),), identity=i, group="g", category="c") for i in range(3)
    )
    return Catalog(products, ("number",), pixels, owners)


def test_catalog_any_picture_belongs_to_its_product() -> None:
    """A drawn picture is always one of the product's own, and all of them are drawn."""
    subject = catalog()
    drawn = subject.any_picture(np.repeat(np.arange(3), 50), np.random.default_rng(0))
    assert subject.picture_owner[drawn].tolist() == np.repeat(np.arange(3), 50).tolist()
    assert set(drawn.tolist()) == set(range(6))


def test_catalog_subset_keeps_pictures_with_their_products() -> None:
    """A part of a catalogue has the pictures of its products, renumbered."""
    part = catalog().subset([2, 0])
    assert [product.fields["title"] for product in part.products] == ["2", "0"]
    assert part.pixel_values[:, 0, 0, 0].tolist() == [3, 4, 5, 0]
    assert part.picture_owner.tolist() == [0, 0, 0, 1]


def test_connected_joins_through_others() -> None:
    """Items that share a key with a third are connected, even when they share none with each other."""
    assert connected([["a"], ["b"], ["a", "c"], ["c"], []]) == [0, 1, 0, 0, 2]


def test_split_keeps_components_together_and_loses_nothing() -> None:
    """Every item stands in exactly one part, next to all that it is connected with."""
    components = [index // 3 for index in range(300)]
    parts = split(components, (0.7, 0.15, 0.15), seed=1)
    assert sorted(item for part in parts for item in part) == list(range(300))
    assert [len(part) for part in parts] == [210, 45, 45]
    assert not {components[i] for i in parts[0]} & {components[i] for i in parts[1]}
    assert parts == split(components, (0.7, 0.15, 0.15), seed=1)


def test_limit_draws_whole_components_and_leaves_few_products_alone() -> None:
    """Of 300 products in threes about 60 are left, always the same ones, and none without its like."""
    components = [index // 3 for index in range(400)]
    rows = list(range(100, 400))
    kept = limit(rows, components, 60, seed=1)
    assert 57 <= len(kept) <= 63
    assert set(kept) <= set(rows)
    inside = [components[row] for row in rows]
    assert all(sum(components[k] == c for k in kept) == inside.count(c) for c in {components[k] for k in kept})
    assert kept == limit(rows, components, 60, seed=1)
    assert limit(rows, components, 300, seed=1) == rows


@pytest.mark.parametrize("seed", range(20))
def test_split_gives_a_large_component_to_training_and_keeps_the_shares(seed: int) -> None:
    """A title that a third of all products share leaves every part its share, whatever is drawn first."""
    components = [0] * 300 + [1] * 40 + list(range(2, 662))
    parts = split(components, (0.7, 0.15, 0.15), seed=seed)
    assert [len(part) for part in parts] == [700, 150, 150]
    assert set(range(300)) <= set(parts[0])
    assert parts == split(components, (0.7, 0.15, 0.15), seed=seed)


def test_split_deals_groups_of_usual_size_to_all_parts() -> None:
    """Parts that measure must not be left with single products."""
    components = [index // 5 for index in range(500)] + list(range(1000, 1500))
    for part in split(components, (0.7, 0.15, 0.15), seed=1):
        assert 0.4 < np.mean([components[i] < 1000 for i in part]) < 0.6


def test_limit_of_one_large_component_is_a_part_of_it() -> None:
    """Where all products share a title, some of them are drawn all the same."""
    assert len(limit(range(300), [0] * 300, 60, seed=1)) == 60


def test_connections_say_how_many_products_must_stay_together() -> None:
    """The words that a message about a split needs."""
    assert connections([0, 0, 0, 1, 1, 2, 7]).startswith("5 of 7 products share")
    assert connections([0, 0, 0, 1, 1, 2, 7]).endswith("up to 3 together")
