"""Pairs of made-up products with made-up scores, as `benchmarks/quality.py` leaves them: grades easy and hard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from quality_figures import ALONE, DUALS, FUSION, UNATTENDED
from quality_scores import ScoredPairs, Scores

from engines.build import grades
from engines.build.evaluate import MATCH

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRODUCTS = 200
NOISE = {FUSION: 0.5, ALONE: 0.6, DUALS[0]: 1.0, DUALS[1]: 1.1, UNATTENDED: 0.8}


def pairs(seed: int, *, draws: int = 1, products: int = PRODUCTS) -> ScoredPairs:
    """Return each product with its own picture, and with a wrong one of each grade, in each draw; no scores yet."""
    generator = np.random.default_rng(seed)
    own = np.arange(products)
    shown = [own, *((own + generator.integers(1, products, products)) % products for _ in range(2))]
    return ScoredPairs(
        ids=np.array([f"product-{number}" for number in own]),
        items=own // 2,
        text=np.tile(own, 3 * draws),
        shown=np.tile(np.concatenate(shown), draws),
        label=np.tile(np.repeat([0, 1, 1], products), draws),
        difference=np.tile(np.repeat([MATCH, grades.EASY, grades.HARD], products), draws),
        draw=np.repeat(np.arange(draws), 3 * products),
        choosing=np.repeat(np.arange(draws) == 0, 3 * products),
    )


def noisy(of: ScoredPairs, noise: float, seed: int) -> NDArray[np.floating]:
    """Return scores that are right but for noise."""
    return np.asarray(of.label + noise * np.random.default_rng(seed).normal(size=len(of.label)))


def scores() -> Scores:
    """Return both parts with every method that tables need, the better ones with less noise."""
    parts = (pairs(0, draws=2), pairs(1))
    for part in parts:
        part.methods.update({name: noisy(part, noise, seed) for seed, (name, noise) in enumerate(NOISE.items())})
    return Scores(*parts)


def facts() -> dict[str, object]:
    """Return what a run says of itself beside its figures."""
    return {
        "catalog": "shop",
        "recipe": {"seed": 3},
        "products": {"training": 500, "validation": PRODUCTS, "test": PRODUCTS},
        "seconds": {"features": 60.0, FUSION: 120.0},
        "seconds_whole": True,
        "threads": 1,
    }
