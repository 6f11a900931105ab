"""What a retraining learns from: the catalogue's own products, confirmed matches, and what people doubt.

A confirmed match is worth more than itself: its text may be compared with the pictures of all others that are
confirmed, so labels of a kind of product that the catalogue does not hold teach that kind. numpy only, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engines.build.retrain.confirmed import SURELY_RIGHT, TRAINING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog
    from engines.build.recipe import RetrainRecipe
    from engines.build.retrain.confirmed import Confirmed


@dataclass(frozen=True)
class Weighted:
    """Items, and how likely each is the next that is drawn, float64 (N,), the sum 1."""

    catalog: Catalog
    chance: NDArray[np.float64]

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return so many of them, int64 (count,)."""
        return generator.choice(len(self.chance), size=count, p=self.chance)


@dataclass(frozen=True)
class Taught:
    """What there is to learn.

    Attributes:
        replayed: products of the catalogue, taken to be right.
        matches: confirmed matches.
        doubted: items that may be mismatches.
        mismatch: how likely each of those is one, float64 (D,).
        clipped: the share of items that count less than they stand for.
    """

    replayed: Weighted
    matches: Weighted
    doubted: Weighted
    mismatch: NDArray[np.float64]
    clipped: float


def teach(
    catalog: Catalog, confirmed: Confirmed, recipe: RetrainRecipe, *, replayed: Sequence[int] | None = None
) -> Taught:
    """Return what is learned from a catalogue's training products and the confirmed items that are for training.

    `replayed` are the rows of the catalogue that may be; all without.
    """
    mine = confirmed.rows(confirmed.part == TRAINING)
    right = mine.votes.mismatch <= SURELY_RIGHT
    matches, doubted = mine.rows(right), mine.rows(~right)
    sampled = _sampled(catalog, range(len(catalog.products)) if replayed is None else replayed, recipe)
    limit = recipe.largest_weight * (np.median(mine.votes.weight) if len(mine.judged) else 1.0)
    return Taught(
        replayed=Weighted(sampled, _even(len(sampled.products))),
        matches=Weighted(matches.catalog, _clipped(matches.votes.weight, limit)),
        doubted=Weighted(doubted.catalog, _clipped(doubted.votes.weight, limit)),
        mismatch=doubted.votes.mismatch,
        clipped=float((mine.votes.weight > limit).mean()) if len(mine.judged) else 0.0,
    )


def _sampled(catalog: Catalog, rows: Sequence[int], recipe: RetrainRecipe) -> Catalog:
    """Return whole groups of these rows, up to so many products: variants are each other's partners."""
    groups: dict[str, list[int]] = {}
    for row in rows:
        groups.setdefault(catalog.products[row].group, []).append(row)
    names = list(groups)
    chosen: list[int] = []
    for index in np.random.default_rng(recipe.seed).permutation(len(names)).tolist():
        if len(chosen) < recipe.replay_products:
            chosen += groups[names[index]]
    return catalog.subset(sorted(chosen))


def _clipped(weight: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    clipped = np.minimum(weight, limit)
    return clipped / clipped.sum() if len(clipped) else clipped


def _even(count: int) -> NDArray[np.float64]:
    return np.full(count, 1 / count)
