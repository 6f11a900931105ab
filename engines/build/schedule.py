"""How long a reader of a compact model learns, and how fast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from engines.build.recipe import AdaptRecipe

_WARM_UP_STEPS: Final = 100
_CONSTANT_UNTIL: Final = 0.3  # of the steps; then half a cosine


def rate(number: int, progress: float) -> float:
    """Return the factor on the learning rates: a linear warm-up, constant, half a cosine down to 2 %."""
    warm = min(1.0, (number + 1) / _WARM_UP_STEPS)
    decayed = max(0.0, progress - _CONSTANT_UNTIL) / (1 - _CONSTANT_UNTIL)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * decayed)))


def steps(products: int, recipe: AdaptRecipe) -> int:
    """Return how many steps one reader takes."""
    each = steps_per_epoch(products, recipe)
    if recipe.epochs is None:
        return max(recipe.least_steps, math.ceil(recipe.EPOCHS * each))
    return math.ceil(recipe.epochs * each)


def steps_per_epoch(products: int, recipe: AdaptRecipe) -> int:
    """Return how many steps a reader takes until each product has been an anchor."""
    return math.ceil(products / recipe.anchors_per_step)
