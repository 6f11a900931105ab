"""Hard partners for a model as it trains: the products whose picture it would most easily take for the right one.

Unlike `engines.build.negatives`, which reads only what the catalogue says, this looks: neighbours are found in the
space that pictures and texts share, and found again whenever the model has learned better ones (as ALBEF does by its
contrastive scores, Li et al. 2021). Products of one identity are never partners, nor are those whose pictures may be
copies of one: a picture that was saved again would be the nearest of all, and right. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from engines.build.negatives import Sampler
from engines.build.traits import UNKNOWN, chunks, traits, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.build.dataset import Catalog

_NEIGHBOURS: Final = 12
_NONE: Final = -1
_DIFFERENT_ENOUGH: Final = -2.0  # below any cosine


class Miner(Sampler):
    """Chooses by what pictures look like and texts say to a model, too: they contradict, and hardly seem to.

    Args:
        catalog: N products.
        looks: (N, D), what each looks like to a model that was trained on no catalogue; by them copies are known.
        seed: of the draws.
    """

    kinds = ("random", "category", "brand", "nearest", "recolored", "variant")

    def __init__(self, catalog: Catalog, looks: NDArray[np.floating], *, seed: int) -> None:
        super().__init__(seed=seed)
        self._traits = known = traits(catalog)
        self._members = {
            "category": (known.category, _members(known.category)),
            "brand": (known.brand, _members(known.brand)),
            "variant": (known.group, _members(known.group)),
        }
        directions = unit(looks)
        alike = (known.same(rows, directions[rows] @ directions.T) for rows in chunks(len(directions)))
        self._same = np.concatenate([np.packbits(part, axis=1) for part in alike])  # (N, N / 8): 50 MB for 20,000
        self.look(looks)

    def look(self, pictures: NDArray[np.floating], texts: NDArray[np.floating] | None = None) -> None:
        """Find the neighbours anew: by vectors of the pictures (N, D), and by those of the texts, too, in one space.

        A text's nearest pictures are those that fit it best. Of the same category, gender and color they may well be
        right, so these are left out.
        """
        seen = unit(pictures)
        count = len(seen)
        asked = (seen, None if texts is None else unit(texts))
        spaces = [vectors for vectors in asked if vectors is not None]
        self._nearest = np.full((count, _NEIGHBOURS * len(spaces)), _NONE)
        self._recolored = np.full((count, _NEIGHBOURS), _NONE)
        for rows in chunks(count):
            each, others = [space[rows] @ seen.T for space in spaces], ~self.same(rows)
            allowed = (others, others & ~self._traits.alike_in_all(rows))
            self._nearest[rows] = np.concatenate(list(map(_top, each, allowed)), axis=1)
            self._recolored[rows] = _top(each[0], self._traits.recolored(rows))

    def same(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whose pictures are never mismatches of each of these, bool (B, N); see `Traits.same`."""
        return np.unpackbits(self._same[rows], axis=-1, count=len(self._same)).astype(np.bool_)

    def _candidates(self, anchor: int, kind: str) -> NDArray[np.int64]:
        match kind:
            case "recolored":
                pool = self._recolored[anchor]
            case "nearest":
                pool = self._nearest[anchor]
            case "random":
                pool = np.arange(len(self._same))
            case _:
                numbers, members = self._members[kind]
                pool = members[numbers[anchor]]
        pool = pool[pool != _NONE]
        (same,) = self.same(np.array([anchor]))
        return np.asarray(pool[~same[pool]])


def _top(similarity: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the most similar of those allowed in each row, int64 (B, K), -1 where there are fewer."""
    scores = np.where(allowed, similarity, _DIFFERENT_ENOUGH)
    count = min(_NEIGHBOURS, scores.shape[1])
    found = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    found = np.where(np.take_along_axis(scores, found, axis=1) > _DIFFERENT_ENOUGH, found, _NONE)
    return np.pad(found, ((0, 0), (0, _NEIGHBOURS - count)), constant_values=_NONE)


def _members(numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the products of each number; at `UNKNOWN`, the last place, there are none."""
    order = np.argsort(numbers, kind="stable")[int((numbers == UNKNOWN).sum()) :]
    return [*np.split(order, np.cumsum(np.bincount(numbers[order]))[:-1]), np.empty(0, np.int64)]
