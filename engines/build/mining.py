"""Hard partners for a model as it trains: the products whose picture it would most easily take for the right one.

Unlike `engines.build.negatives`, which reads only what the catalogue says, this looks: neighbours are found in the
space of picture vectors, and found again whenever the model has learned better ones (as ALBEF does by its contrastive
scores, Li et al. 2021). Products of one identity are never partners. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from engines.build.negatives import Sampler
from engines.build.traits import chunks, traits, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.build.dataset import Catalog

_NEIGHBOURS: Final = 12
_NONE: Final = -1
_DIFFERENT_ENOUGH: Final = -2.0  # below any cosine


class Miner(Sampler):
    """Chooses by what the pictures look like, too: they contradict the text and look as if they might not."""

    kinds = ("random", "category", "nearest", "recolored", "variant")

    def __init__(self, catalog: Catalog, looks: NDArray[np.floating], *, seed: int) -> None:
        super().__init__(seed=seed)
        self._traits = traits(catalog)
        self._by_category = _members(self._traits.category)
        self._by_group = _members(self._traits.group)
        self.look(looks)

    def look(self, vectors: NDArray[np.floating]) -> None:
        """Find the neighbours anew, by these picture vectors (N, D)."""
        directions, known = unit(vectors), self._traits
        self._nearest, self._recolored = (np.full((len(directions), _NEIGHBOURS), _NONE) for _ in range(2))
        for rows in chunks(len(directions)):
            similarity = directions[rows] @ directions.T
            self._nearest[rows] = _top(similarity, ~known.alike(known.identity, rows))
            self._recolored[rows] = _top(similarity, known.recolored(rows))

    def _candidates(self, anchor: int, kind: str) -> NDArray[np.int64]:
        match kind:
            case "variant":
                pool = self._by_group[self._traits.group[anchor]]
            case "recolored":
                pool = self._recolored[anchor]
            case "nearest":
                pool = self._nearest[anchor]
            case "category":
                pool = self._by_category[self._traits.category[anchor]]
            case _:
                pool = self._generator.integers(len(self._traits.identity), size=8)
        pool = pool[pool != _NONE]
        identity = self._traits.identity
        return np.asarray(pool[identity[pool] != identity[anchor]])


def _top(similarity: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the most similar of those allowed in each row, int64 (B, K), -1 where there are fewer."""
    scores = np.where(allowed, similarity, _DIFFERENT_ENOUGH)
    count = min(_NEIGHBOURS, scores.shape[1])
    found = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    found = np.where(np.take_along_axis(scores, found, axis=1) > _DIFFERENT_ENOUGH, found, _NONE)
    return np.pad(found, ((0, 0), (0, _NEIGHBOURS - count)), constant_values=_NONE)


def _members(numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.cumsum(np.bincount(numbers))[:-1])
