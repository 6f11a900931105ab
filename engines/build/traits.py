"""What products have in common, as numbers that whole catalogues are compared by. numpy only, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog, Product

UNKNOWN = -1
"""The color of a product whose text names none."""

_CHUNK = 1024


class Traits(NamedTuple):
    """Equal numbers for products that have the same, int64 (N,): `kind` is category and gender together."""

    identity: NDArray[np.int64]
    category: NDArray[np.int64]
    group: NDArray[np.int64]
    kind: NDArray[np.int64]
    color: NDArray[np.int64]

    def alike(self, trait: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of all products have the same as each of these, bool (B, N)."""
        return np.asarray(trait[rows][:, None] == trait[None, :])

    def recolored(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which are of the same kind and another identity, and name another color, bool (B, N)."""
        known = self.color != UNKNOWN
        differ = ~self.alike(self.identity, rows) & ~self.alike(self.color, rows)
        return np.asarray(self.alike(self.kind, rows) & differ & known[None, :] & known[rows][:, None])


def traits(catalog: Catalog) -> Traits:
    """Return the traits of a catalogue's products."""
    products = catalog.products
    colors = [_facet(catalog, product, "color") for product in products]
    return Traits(
        identity=_numbers([str(product.identity) for product in products]),
        category=_numbers([product.category for product in products]),
        group=_numbers([product.group for product in products]),
        kind=_numbers([f"{product.category}\0{_facet(catalog, product, 'gender')}" for product in products]),
        color=np.where(np.array(colors) == "", UNKNOWN, _numbers(colors)),
    )


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the vectors (N, D) at length 1: their products are cosines."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return np.asarray(vectors / lengths, dtype=np.float32)


def chunks(size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of an N x N comparison, so many at a time as fit into memory for any catalogue."""
    for start in range(0, size, _CHUNK):
        yield np.arange(start, min(start + _CHUNK, size))


def _numbers(values: Sequence[str]) -> NDArray[np.int64]:
    return np.asarray(np.unique(values, return_inverse=True)[1], dtype=np.int64)


def _facet(catalog: Catalog, product: Product, name: str) -> str:
    return product.facets[catalog.facet_names.index(name)] if name in catalog.facet_names else ""
