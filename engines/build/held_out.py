"""Which products of a catalogue a release was not trained on: `held-out.json`, a file of the release.

Who goes on from a release measures on the same products, so that neither the release nor its successor has learned from
what they are compared on. Products stand there by a digest: a release tells nothing of a catalogue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from engines import releases
from engines.catalogs import erased
from engines.errors import ReleaseCorrupt

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from engines.build.dataset import Catalog
    from engines.contract import Manifest


_MARK_DIGITS: Final = 12


class HeldOutProducts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`held-out.json`: products that thresholds were chosen with, and that figures were measured on."""

    validation: frozenset[str]
    test: frozenset[str]


def of(validation: Iterable[Catalog], test: Catalog) -> HeldOutProducts:
    """Return the products of these parts."""
    return HeldOutProducts(
        validation=frozenset(mark(product.id) for part in validation for product in part.products),
        test=frozenset(mark(product.id) for product in test.products),
    )


def mark(product_id: str) -> str:
    """Return what a product is called there: 12 hex digits, which a million products hardly share."""
    return erased.digest(product_id)[:_MARK_DIGITS]


def share_erased(products: HeldOutProducts, digests: Collection[str]) -> float:
    """Return the share of held-out products that are among the digests of erased ones.

    What is held out is drawn at random, so of what was learned from it is about the same share.
    """
    held = products.validation | products.test
    return len(held & {digest[:_MARK_DIGITS] for digest in digests}) / max(len(held), 1)


def encode(products: HeldOutProducts) -> bytes:
    """Return the bytes of `held-out.json`, the same for the same products."""
    return msgspec.json.encode({"validation": sorted(products.validation), "test": sorted(products.test)}) + b"\n"


def read(directory: Path, manifest: Manifest) -> HeldOutProducts | None:
    """Return the held-out products of the release in `directory`, None where it was made without.

    Raises:
        ReleaseCorrupt: the file cannot be read.
    """
    if releases.HELD_OUT_FILE not in manifest.files:
        return None
    path = directory / releases.HELD_OUT_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=HeldOutProducts)
    except (OSError, msgspec.DecodeError) as error:
        raise ReleaseCorrupt(f"{path}: {error}") from error
