"""Labels and catalogue hold the same shop: what one holds out, the other may not teach. numpy only, no torch.

Each is split by a rule of its own, labels by a hash of the group, the catalogue by what the champion holds out. So a
product that the benchmark is measured with may have a label that is for training, and a product whose label is held out
may stand among those that are replayed as right. Both are left out of training.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from engines.build.retrain.confirmed import TEST, TRAINING, VALIDATION
from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from engines.build.dataset import Catalog
    from engines.build.retrain.catalogue import Parts
    from engines.build.retrain.confirmed import Confirmed

    _Known = frozenset[tuple[str, str]]


def keep_apart(parts: Parts, confirmed: Confirmed) -> tuple[list[int], Confirmed]:
    """Return which training products may be replayed, and the labels, those that are left out with the part "".

    What shares a product, a group or a picture with what is held out is left out.

    Raises:
        CatalogInvalid: nothing of the catalogue is left to be replayed.
    """
    measured = {key for part in (parts.validation, parts.test) for keys in _of_products(part) for key in keys}
    own = list(zip(confirmed.part.tolist(), _of_judged(confirmed), strict=True))
    held = {key for part, keys in own if part in {VALIDATION, TEST} for key in keys}
    taught = ["" if part == TRAINING and keys & measured else part for part, keys in own]
    replayed = [number for number, keys in enumerate(_of_products(parts.training)) if not keys & held]
    if not replayed:
        raise CatalogInvalid(f"all products of {parts.name} that may be trained on have labels that are held out")
    return replayed, replace(confirmed, part=np.array(taught, dtype=np.str_))


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
