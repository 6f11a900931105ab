"""Labels and catalogue hold the same shop: what one holds out, the other may not teach. numpy only, no torch.

Each is split by a rule of its own, labels by a hash of the group, the catalogue by what the champion holds out. So one
product may stand in two parts. It stays in the one that measures, else in the one that thresholds are chosen with:

    label, catalogue    training              validation            test
    training            stays in both         label left out        label left out
    validation          not replayed          stays in both         label left out
    test                not replayed          pairs left out        stays in both
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engines.build.evaluate import Pairs
from engines.build.retrain.confirmed import TEST, TRAINING, VALIDATION
from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog
    from engines.build.retrain.catalogue import Parts
    from engines.build.retrain.confirmed import Confirmed

    _Known = frozenset[tuple[str, str]]


class Apart(NamedTuple):
    """Labels and catalogue that teach nothing of each other's held-out products.

    confirmed: those that are left out have the part "". parts: their pairs that thresholds are chosen with are fewer.
    replayed: rows of the training products that may be.
    """

    confirmed: Confirmed
    parts: Parts
    replayed: list[int]


def keep_apart(parts: Parts, confirmed: Confirmed) -> Apart:
    """Return both without what shares a product, a group or a picture with what the other one holds out.

    Raises:
        CatalogInvalid: nothing of the catalogue is left to be replayed, or to choose thresholds with.
    """
    chosen, measured = _of_products(parts.validation), _of_products(parts.test)
    taken = {TRAINING: _all(chosen) | _all(measured), VALIDATION: _all(measured), TEST: frozenset[tuple[str, str]]()}
    own = list(zip(confirmed.part.tolist(), _of_judged(confirmed), strict=True))
    kept = ["" if keys & taken.get(part, frozenset()) else part for part, keys in own]
    tested, held = (_all(keys for part, keys in own if part in among) for among in ({TEST}, {VALIDATION, TEST}))
    replayed = [number for number, keys in enumerate(_of_products(parts.training)) if not keys & held]
    pairs = _without(parts.validation, parts.validation_pairs, np.array([bool(keys & tested) for keys in chosen]))
    if not replayed or len(set(pairs.label.tolist())) < 2:  # noqa: PLR2004 - mismatches and matches
        raise CatalogInvalid(
            f"all products of {parts.name} that may be trained on, or that thresholds may be chosen with, have labels "
            "that are held out"
        )
    return Apart(
        replace(confirmed, part=np.array(kept, dtype=np.str_)), parts._replace(validation_pairs=pairs), replayed
    )


def _all(known: Iterable[_Known]) -> _Known:
    return frozenset(key for keys in known for key in keys)


def _without(catalog: Catalog, pairs: Pairs, products: NDArray[np.bool_]) -> Pairs:
    """Return the pairs that have neither text nor picture of these products, (N,)."""
    rows = ~(products[pairs.product] | products[catalog.picture_owner[pairs.picture]])
    return Pairs(pairs.product[rows], pairs.picture[rows], pairs.label[rows], pairs.difference[rows])


def _of_products(catalog: Catalog) -> list[_Known]:
    """Return by what each product would be known again."""
    shown = _pictures(catalog)
    return [
        frozenset({("id", product.id), ("group", product.group), *own})
        for product, own in zip(catalog.products, shown, strict=True)
    ]


def _of_judged(confirmed: Confirmed) -> list[_Known]:
    shown = _pictures(confirmed.catalog)
    return [
        frozenset({("id", item.product_id), ("group", item.group), *own})
        for item, own in zip(confirmed.judged, shown, strict=True)
    ]


def _pictures(catalog: Catalog) -> list[list[tuple[str, str]]]:
    """Return digests of each product's pictures as an engine sees them: drawn products have no files."""
    found: list[list[tuple[str, str]]] = [[] for _ in catalog.products]
    for owner, pixels in zip(catalog.picture_owner.tolist(), catalog.pixel_values, strict=True):
        found[owner].append(("picture", hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()))
    return found
