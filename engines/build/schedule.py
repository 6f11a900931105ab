"""How long a reader of a compact model learns, and how fast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from engines.build.models.compact import Reader
    from engines.build.recipe import AdaptRecipe

HEADS: Final = ("shown.", "stated.")
"""What only this catalogue can teach a reader: the classifiers of its facets."""

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


def groups(reader: Reader, recipe: AdaptRecipe) -> list[dict[str, Any]]:
    """Return optimizer groups: matrices decay, the rest does not; each has its factor on the learning rate."""
    groups: list[dict[str, Any]] = []
    for heads, factor in ((False, 1.0), (True, recipe.head_rate)):
        own = [value for name, value in reader.named_parameters() if name.startswith(HEADS) == heads]
        groups += [
            {"params": [p for p in own if p.ndim > 1], "weight_decay": recipe.weight_decay, "factor": factor},
            {"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0, "factor": factor},
        ]
    return [group for group in groups if group["params"]]
