"""Products and their pictures in memory, and a split of them that does not leak. numpy only, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


_LARGE: Final = 0.2
"""Of the smallest part: a larger component could leave a part without room for it far too full."""


@dataclass(frozen=True)
class Product:
    """What training must know of one product.

    Attributes:
        fields: What its text says, by field.
        facets: Its values of `Catalog.facet_names`: what a picture can contradict; empty where unknown.
        identity: Products of one identity show and say the same, so they are never negatives of each other.
        group: Variants of one item have one group.
        category: Where it stands in the shop.
        id: By which the shop knows it.
        columns: What else is known of it, as it stands in the catalogue; see `engines.attributes`.
        shorter_side_px: Of its first picture, as it came.
    """

    fields: Mapping[str, str]
    facets: tuple[str, ...]
    identity: int
    group: str
    category: str
    id: str = ""
    columns: Mapping[str, object] = field(default_factory=dict[str, object])
    shorter_side_px: int = 0


@dataclass(frozen=True)
class Catalog:
    """Products with at least one picture each.

    Attributes:
        products: N of them.
        facet_names: What `Product.facets` hold.
        pixel_values: uint8 (P, 3, H, W), the pictures of the first product first.
        picture_owner: int64 (P,), ascending: the product that a picture belongs to.
    """

    products: tuple[Product, ...]
    facet_names: tuple[str, ...]
    pixel_values: NDArray[np.uint8]
    picture_owner: NDArray[np.int64]

    @cached_property
    def first_picture(self) -> NDArray[np.int64]:
        """int64 (N + 1,): the pictures of product i are `first_picture[i]` up to `first_picture[i + 1]`."""
        return np.searchsorted(self.picture_owner, np.arange(len(self.products) + 1))

    def any_picture(self, products: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Return one picture of each product, int64 of the same shape, drawn evenly."""
        first, end = self.first_picture[products], self.first_picture[products + 1]
        return first + (generator.random(products.shape) * (end - first)).astype(np.int64)

    def joined(self, other: Catalog) -> Catalog:
        """Return the products of both, none of which is taken for the same as one of the other catalogue.

        Raises:
            ValueError: their facets or their pictures' sizes differ.
        """
        if other.facet_names != self.facet_names:
            raise ValueError(f"facets {other.facet_names} are not {self.facet_names}")
        count, identities = len(self.products), max((product.identity for product in self.products), default=-1) + 1
        moved = tuple(replace(product, identity=product.identity + identities) for product in other.products)
        return Catalog(
            products=self.products + moved,
            facet_names=self.facet_names,
            pixel_values=np.concatenate([self.pixel_values, other.pixel_values]),
            picture_owner=np.concatenate([self.picture_owner, other.picture_owner + count]),
        )

    def subset(self, indices: Sequence[int]) -> Catalog:
        """Return the catalogue of these products only."""
        spans = [np.arange(self.first_picture[i], self.first_picture[i + 1]) for i in indices]
        owners = np.repeat(np.arange(len(indices)), [len(span) for span in spans])
        return replace(
            self,
            products=tuple(self.products[i] for i in indices),
            pixel_values=self.pixel_values[np.concatenate(spans)] if spans else self.pixel_values[:0],
            picture_owner=owners,
        )


def split(components: Sequence[int], shares: Sequence[float], *, seed: int) -> list[list[int]]:
    """Return the items of each part, whole components together, the parts as near to `shares` as they allow.

    A component that shares a picture, a title or an item group across parts would let the test set leak. Components are
    dealt at random, but first those that are large beside the smallest part, the largest of all before: to the part
    that lacks most, which is the one with the largest share.
    """
    shuffled = _shuffled(components, seed)
    large = _LARGE * min(shares) * len(components)
    shuffled.sort(key=lambda items: -len(items) if len(items) > large else 0)
    parts: list[list[int]] = [[] for _ in shares]
    for component_items in shuffled:
        lacking = [share * len(components) - len(part) for share, part in zip(shares, parts, strict=True)]
        parts[int(np.argmax(lacking))].extend(component_items)
    return [sorted(part) for part in parts]


def limit(rows: Sequence[int], components: Sequence[int], most: int, *, seed: int) -> list[int]:
    """Return all rows, or `most` of them, drawn at random, whole components together but for the last.

    Args:
        rows: Items, ascending.
        components: Of every item, not of these only.
        most: How many.
        seed: Of the draw.
    """
    if len(rows) <= most:
        return list(rows)
    drawn = [place for items in _shuffled([components[row] for row in rows], seed) for place in items][:most]
    return [rows[place] for place in sorted(drawn)]


def connections(components: Sequence[int]) -> str:
    """Return in words how many items have to stay in one part with others."""
    sizes = np.bincount(np.unique(components, return_inverse=True)[1])
    together, largest = int(sizes[sizes > 1].sum()), int(sizes.max(initial=0))
    return (
        f"{together} of {len(components)} products share a picture, a title or an item group with another and stay in "
        f"one part with it, up to {largest} together"
    )


def _shuffled(components: Sequence[int], seed: int) -> list[list[int]]:
    """Return the items of each component, the components in an order drawn at random."""
    members: dict[int, list[int]] = {}
    for item, component in enumerate(components):
        members.setdefault(component, []).append(item)
    each = list(members.values())
    return [each[i] for i in np.random.default_rng(seed).permutation(len(each))]
