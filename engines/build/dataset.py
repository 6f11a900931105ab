"""Products and their pictures in memory, and a split of them that does not leak. numpy only, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


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

    A component that shares a picture, a title or an item group across parts would let the test set leak.
    """
    members: dict[int, list[int]] = {}
    for item, component in enumerate(components):
        members.setdefault(component, []).append(item)
    order = np.random.default_rng(seed).permutation(len(members))
    shuffled = [list(members.values())[i] for i in order]
    parts: list[list[int]] = [[] for _ in shares]
    for component_items in shuffled:
        lacking = [share * len(components) - len(part) for share, part in zip(shares, parts, strict=True)]
        parts[int(np.argmax(lacking))].extend(component_items)
    return [sorted(part) for part in parts]


def limit(rows: Sequence[int], components: Sequence[int], most: int, *, seed: int) -> list[int]:
    """Return all rows, or about `most` of them, whole components together, drawn at random.

    Args:
        rows: Items, ascending.
        components: Of every item, not of these only.
        most: How many.
        seed: Of the draw.
    """
    if len(rows) <= most:
        return list(rows)
    share = most / len(rows)
    drawn, _ = split([components[row] for row in rows], (share, 1 - share), seed=seed)
    return [rows[place] for place in drawn]
