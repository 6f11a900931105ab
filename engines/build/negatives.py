"""Self-supervised mismatches: a catalogue is taken to be right, and pictures are exchanged between its products.

From easy to hard: any other product, one of the same category, one that differs in a single facet (the same mug in
another colour: a sibling variant, or any other product that happens to be alike).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    from engines.build.dataset import Product


class Sampler(ABC):
    """Draws, for a product, another one whose picture contradicts its text."""

    kinds: ClassVar[tuple[str, ...]]
    """How a partner is chosen; a kind that a product has no partner of falls back to the one before it."""

    def __init__(self, *, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    @property
    def state(self) -> dict[str, Any]:
        """Where the draws stand, to go on from after an interruption."""
        return dict(self._generator.bit_generator.state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = state

    def partners(self, anchors: NDArray[np.int64], mix: Mapping[str, float]) -> NDArray[np.int64]:
        """Return a partner for each anchor, int64 (B,); `mix` gives the probability of each of `kinds`.

        Raises:
            CatalogInvalid: every product shows the same.
        """
        kinds = self._generator.choice(self.kinds, size=len(anchors), p=[mix.get(kind, 0.0) for kind in self.kinds])
        return np.array([self._partner(int(anchor), str(kind)) for anchor, kind in zip(anchors, kinds, strict=True)])

    def _partner(self, anchor: int, kind: str) -> int:
        for fallback in reversed(self.kinds[: self.kinds.index(kind) + 1]):
            candidates = self._candidates(anchor, fallback)
            if len(candidates):
                return int(candidates[int(self._generator.integers(len(candidates)))])
        raise CatalogInvalid("every product of this catalogue shows the same: there is nothing to exchange")

    @abstractmethod
    def _candidates(self, anchor: int, kind: str) -> Sequence[int] | NDArray[np.int64]:
        """Return the partners of this kind, none of the anchor's identity."""


class PartnerSampler(Sampler):
    """Chooses by what the catalogue says."""

    kinds = ("random", "category", "sibling", "neighbour")

    def __init__(self, products: Sequence[Product], *, seed: int) -> None:
        super().__init__(seed=seed)
        self._products = products
        self._categories = _grouped(products, lambda product: product.category)
        self._groups = _grouped(products, lambda product: product.group)
        self._alike = [_grouped(products, partial(_without, facet)) for facet in range(len(products[0].facets))]

    def _candidates(self, anchor: int, kind: str) -> list[int]:
        product = self._products[anchor]
        match kind:
            case "neighbour":
                facet = int(self._generator.integers(len(self._alike))) if self._alike else 0
                pool = self._alike[facet][_without(facet, product)] if self._alike else []
            case "sibling":
                pool = self._groups[product.group]
            case "category":
                pool = self._categories[product.category]
            case _:
                pool = [int(i) for i in self._generator.integers(len(self._products), size=8)]
        return [other for other in pool if self._products[other].identity != product.identity]


def single_difference(one: Product, other: Product, names: Sequence[str]) -> str | None:
    """Return the name of the only facet in which two products differ, None if there is not exactly one."""
    different = [n for n, a, b in zip(names, one.facets, other.facets, strict=True) if a != b]
    return different[0] if len(different) == 1 else None


def _without(facet: int, product: Product) -> Hashable:
    return product.facets[:facet], product.facets[facet + 1 :]


def _grouped(products: Sequence[Product], key: Callable[[Product], Hashable]) -> dict[Hashable, list[int]]:
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, product in enumerate(products):
        groups[key(product)].append(index)
    return dict(groups)
