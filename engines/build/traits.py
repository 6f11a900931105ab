"""What products have in common, as numbers that whole catalogues are compared by. numpy only, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engines.build.values import Values, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog, Product

UNKNOWN: Final = -1
"""The category, brand or kind of a product whose text names none: like that of no other."""

NEAR_DUPLICATE: Final = 0.98
"""Pictures whose looks have a greater cosine may be copies of one.

Source: `benchmarks/near_duplicates.py`. Photos of a megapixel (`outdoor`, 120 products), saved again in another quality
or at half the size: 97 % and more are above it; of the nearest other products, none is, and at 0.95 six in a hundred.
Of pictures smaller than what an engine reads (`fashion`, 200 products of 224 pixels) fewer are: all at quality 85, 46 %
at quality 40, 58 % at three quarters of the size, none at half.
"""

_CHUNK: Final = 1024


class Traits(NamedTuple):
    """Equal numbers for products that have the same, int64 (N,).

    `brand` is category and brand together, `kind` category and gender. `color` numbers the values of `colors`.
    """

    identity: NDArray[np.int64]
    category: NDArray[np.int64]
    brand: NDArray[np.int64]
    group: NDArray[np.int64]
    kind: NDArray[np.int64]
    color: NDArray[np.int64]
    colors: Values

    def alike(self, trait: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of all products have the same as each of these, bool (B, N); what is unknown, none has."""
        mine = trait[rows][:, None]
        return np.asarray((mine == trait[None, :]) & (mine != UNKNOWN))

    def contradicts(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which name a color that contradicts the one that each of these names, bool (B, N)."""
        numbers, place = np.unique(self.color[rows], return_inverse=True)
        others = [self.colors.contradicting(words(self.colors.names[number])) for number in numbers]
        return np.stack(others)[place][:, self.color]

    def recolored(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which are of the same kind and another identity, and name another color, bool (B, N)."""
        return self.alike(self.kind, rows) & ~self.alike(self.identity, rows) & self.contradicts(rows)

    def alike_in_all(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which are of the same kind and name no other color, where these name one, bool (B, N)."""
        named = np.array([bool(name) for name in self.colors.names])[self.color[rows]]
        return np.asarray(self.alike(self.kind, rows) & ~self.contradicts(rows) & named[:, None])

    def same(self, rows: NDArray[np.int64], similarity: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return whose pictures may be right for each of these and are never its mismatches, bool (B, N).

        Those of one identity, and near-duplicates of its picture whose colors do not contradict.

        Args:
            rows: some of the products.
            similarity: (B, N), cosines of their looks with those of all, to a model that was trained on no catalogue.
        """
        return self.alike(self.identity, rows) | ((similarity > NEAR_DUPLICATE) & ~self.contradicts(rows))


def traits(catalog: Catalog) -> Traits:
    """Return the traits of a catalogue's products."""
    products = catalog.products
    colors = [_facet(catalog, product, "color") for product in products]
    categories = [product.category for product in products]
    genders = [_facet(catalog, product, "gender") for product in products]
    brands = [product.fields.get("brand", "").casefold() for product in products]
    return Traits(
        identity=_numbers([str(product.identity) for product in products]),
        category=_known(_numbers(categories), categories),
        brand=_known(_numbers(_both(categories, brands)), categories, brands),
        group=_numbers([product.group for product in products]),
        kind=_known(_numbers(_both(categories, genders)), categories),
        color=_numbers(colors),
        colors=Values(colors, colors=True),
    )


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the vectors (N, D) at length 1: their products are cosines."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return np.asarray(vectors / lengths, dtype=np.float32)


def chunks(size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of an N x N comparison, so many at a time as fit into memory for any catalogue."""
    for start in range(0, size, _CHUNK):
        yield np.arange(start, min(start + _CHUNK, size))


def _both(one: Sequence[str], other: Sequence[str]) -> list[str]:
    return [f"{a}\0{b}" for a, b in zip(one, other, strict=True)]


def _numbers(values: Sequence[str]) -> NDArray[np.int64]:
    """Return the place of each in the sorted values."""
    places = {value: place for place, value in enumerate(sorted(set(values)))}  # an array takes N times the longest
    return np.array([places[value] for value in values], dtype=np.int64)


def _known(numbers: NDArray[np.int64], *needed: Sequence[str]) -> NDArray[np.int64]:
    """Return the numbers, UNKNOWN where one of what they stand for is empty."""
    missing = np.any([[not value for value in values] for values in needed], axis=0)
    return np.where(missing, UNKNOWN, numbers)


def _facet(catalog: Catalog, product: Product, name: str) -> str:
    return product.facets[catalog.facet_names.index(name)] if name in catalog.facet_names else ""
