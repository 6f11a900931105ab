"""`engines.build.mining`: a partner looks alike, and its picture contradicts the text all the same."""

from __future__ import annotations

import numpy as np
import pytest

from engines.build.dataset import Catalog, Product
from engines.build.mining import Miner
from engines.errors import CatalogInvalid


def product(kind: str, color: str, group: str, identity: int) -> Product:
    """Return a product of two facets."""
    return Product(fields={"title": kind}, facets=(kind, color), identity=identity, group=group, category=kind)


PRODUCTS = (
    product("mug", "red", "a", 0),
    product("mug", "blue", "a", 1),
    product("mug", "red", "b", 0),  # shows and says the same as the first
    product("bowl", "red", "c", 2),
    product("bowl", "green", "d", 3),
    product("mug", "red", "e", 4),
)
ANGLES = 3 * np.array([0.0, 1.0, 0.0, 0.2, 0.6, 0.1])
LOOKS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def catalog() -> Catalog:
    """Return the products, one picture each."""
    return Catalog(PRODUCTS, ("kind", "color"), np.zeros((6, 3, 1, 1), dtype=np.uint8), np.arange(6))


@pytest.mark.parametrize(
    ("kind", "anchor", "expected"),
    [
        ("category", 0, {1, 5}),
        ("nearest", 0, {1, 3, 4, 5}),
        ("recolored", 0, {1}),
        ("variant", 0, {1}),
        ("recolored", 3, {4}),
        ("variant", 5, {0, 1, 2}),  # alone in its group: falls back to another color of its category, the blue mug
    ],
)
def test_partners_are_of_their_kind_and_never_of_the_same_identity(kind: str, anchor: int, expected: set[int]) -> None:
    """Sixty draws find partners of the kind only."""
    drawn = Miner(catalog(), LOOKS, seed=0).partners(np.full(60, anchor), {kind: 1.0})
    assert set(drawn.tolist()) <= expected
    assert all(PRODUCTS[j].identity != PRODUCTS[anchor].identity for j in drawn)


def test_look_again_finds_other_neighbours() -> None:
    """With other vectors, other products are the nearest."""
    many = tuple(product("mug", "red", str(i), i) for i in range(40))
    data = Catalog(many, ("kind", "color"), np.zeros((40, 3, 1, 1), dtype=np.uint8), np.arange(40))
    angles = np.arange(40) * 0.01
    miner = Miner(data, np.eye(40), seed=0)
    miner.look(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    before = set(miner.partners(np.zeros(99, dtype=np.int64), {"nearest": 1.0}).tolist())
    turned = np.random.default_rng(0).permutation(angles)
    miner.look(np.stack([np.cos(turned), np.sin(turned)], axis=1))
    after = set(miner.partners(np.zeros(99, dtype=np.int64), {"nearest": 1.0}).tolist())
    assert before == set(range(1, 13))
    assert before != after


def test_state_restored_goes_on_with_the_same_draws() -> None:
    """What an interrupted run would have drawn next is drawn."""
    miner = Miner(catalog(), LOOKS, seed=3)
    mix = dict.fromkeys(Miner.kinds, 1 / len(Miner.kinds))
    anchors = np.arange(6)
    miner.partners(anchors, mix)
    state = miner.state
    expected = miner.partners(anchors, mix)
    other = Miner(catalog(), LOOKS, seed=4)
    other.state = state
    assert other.partners(anchors, mix).tolist() == expected.tolist()


def test_partners_where_all_show_the_same_say_so() -> None:
    """A catalogue of one identity has no mismatches."""
    same = tuple(product("mug", "red", "a", 0) for _ in range(3))
    data = Catalog(same, ("kind", "color"), np.zeros((3, 3, 1, 1), dtype=np.uint8), np.arange(3))
    with pytest.raises(CatalogInvalid, match="nothing to exchange"):
        Miner(data, LOOKS[:3], seed=0).partners(np.array([0]), {"variant": 1.0})
