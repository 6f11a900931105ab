"""Hard partners for a model as it trains: the products whose picture it would most easily take for the right one.

Unlike `engines.build.negatives`, which reads only what the catalogue says, this looks: neighbours are found in the
space of picture vectors, and found again whenever the model has learned better ones (as ALBEF does by its contrastive
scores, Li et al. 2021). Products of one identity are never partners. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engines.build.negatives import Sampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog, Product

_NEIGHBOURS: Final = 12
_CHUNK: Final = 1024  # rows of the similarity matrix held at a time
_NONE: Final = -1
_DIFFERENT_ENOUGH: Final = -2.0  # below any cosine


class Miner(Sampler):
    """Chooses by what the pictures look like, too: they contradict the text and look as if they might not."""

    kinds = ("random", "category", "nearest", "recolored", "variant")

    def __init__(self, catalog: Catalog, looks: NDArray[np.floating], *, seed: int) -> None:
        super().__init__(seed=seed)
        products = catalog.products
        self._identity = _numbers([str(product.identity) for product in products])
        self._category = _numbers([product.category for product in products])
        self._group = _numbers([product.group for product in products])
        self._kind = _numbers([f"{product.category}\0{_facet(catalog, product, 'gender')}" for product in products])
        self._color = _numbers([_facet(catalog, product, "color") for product in products])
        self._by_category = _members(self._category)
        self._by_group = _members(self._group)
        self.look(looks)

    def look(self, vectors: NDArray[np.floating]) -> None:
        """Find the neighbours anew, by these picture vectors (N, D)."""
        unit = vectors.astype(np.float32) / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        size = len(unit)
        self._nearest = np.full((size, _NEIGHBOURS), _NONE)
        self._recolored = np.full((size, _NEIGHBOURS), _NONE)
        for start in range(0, size, _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, size))
            similarity = unit[rows] @ unit.T
            other = self._identity[rows][:, None] != self._identity[None, :]
            recolored = other & (self._kind[rows][:, None] == self._kind[None, :])
            recolored &= self._color[rows][:, None] != self._color[None, :]
            self._nearest[rows] = _top(similarity, other)
            self._recolored[rows] = _top(similarity, recolored)

    @property
    def state(self) -> dict[str, Any]:
        """Where the draws stand, to go on from after an interruption."""
        return dict(self._generator.bit_generator.state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = state

    def _candidates(self, anchor: int, kind: str) -> NDArray[np.int64]:
        match kind:
            case "variant":
                pool = self._by_group[self._group[anchor]]
            case "recolored":
                pool = self._recolored[anchor]
            case "nearest":
                pool = self._nearest[anchor]
            case "category":
                pool = self._by_category[self._category[anchor]]
            case _:
                pool = self._generator.integers(len(self._identity), size=8)
        pool = pool[pool != _NONE]
        return np.asarray(pool[self._identity[pool] != self._identity[anchor]])


def _top(similarity: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the most similar of those allowed in each row, int64 (B, K), -1 where there are fewer."""
    scores = np.where(allowed, similarity, _DIFFERENT_ENOUGH)
    count = min(_NEIGHBOURS, scores.shape[1])
    found = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    found = np.where(np.take_along_axis(scores, found, axis=1) > _DIFFERENT_ENOUGH, found, _NONE)
    return np.pad(found, ((0, 0), (0, _NEIGHBOURS - count)), constant_values=_NONE)


def _numbers(values: Sequence[str]) -> NDArray[np.int64]:
    return np.asarray(np.unique(values, return_inverse=True)[1], dtype=np.int64)


def _members(numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.cumsum(np.bincount(numbers))[:-1])


def _facet(catalog: Catalog, product: Product, name: str) -> str:
    return product.facets[catalog.facet_names.index(name)] if name in catalog.facet_names else ""
