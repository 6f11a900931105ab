"""Weights of signals are chosen on some items, calibration and thresholds on others."""

from __future__ import annotations

import numpy as np

from engines.build import evaluate
from engines.build.dataset import Catalog, Product


def catalog(count: int) -> Catalog:
    """Return products in pairs of variants."""
    products = tuple(Product({}, (), i, str(i // 2), "mugs") for i in range(count))
    return Catalog(products, (), np.zeros((count, 3, 1, 1), np.uint8), np.arange(count))


def test_halves_share_no_item() -> None:
    """No variant of what weights were chosen on is among what thresholds are chosen on."""
    data = catalog(600)
    one, other = evaluate.halves(data, seed=1)
    assert (one ^ other).all()
    assert one.sum() == other.sum() == 300
    assert not {p.group for p, own in zip(data.products, one, strict=True) if own} & {
        p.group for p, own in zip(data.products, other, strict=True) if own
    }
    assert (one == evaluate.halves(data, seed=1)[0]).all()


def test_halves_of_few_products_are_all_of_them() -> None:
    """Thirty products would tell less of a threshold than all sixty that weights were chosen on."""
    one, other = evaluate.halves(catalog(60), seed=1)
    assert one.all()
    assert other.all()


def test_pairs_of_products_are_those_of_their_texts() -> None:
    """Pictures of the other half may be wrong pictures of this one."""
    pairs = evaluate.Pairs(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([0, 0, 1]), np.array(["a", "b", "c"]))
    found = evaluate.of_products(pairs, np.array([False, True]))
    assert [column.tolist() for column in found] == [[1, 1], [1, 0], [0, 1], ["b", "c"]]


def test_halves_of_a_catalogue_that_is_mostly_one_item_are_all_of_it() -> None:
    """An item group that holds a whole brand is in one half; the other would have nothing to choose with."""
    products = tuple(Product({}, (), i, "brand" if i < 480 else str(i), "mugs") for i in range(500))
    one, other = evaluate.halves(Catalog(products, (), np.zeros((500, 3, 1, 1), np.uint8), np.arange(500)), seed=1)
    assert one.all()
    assert other.all()
