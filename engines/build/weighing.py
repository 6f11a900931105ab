"""Which weight each signal that needs no attention has beside the fusion's, in the logit of a compact model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from engines import calibration
from engines.build import evaluate
from engines.build.recipe import PREVALENCE
from engines.build.signals import all_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from engines.build.models import compact
    from engines.build.signals import Evidence, Part

_SIMILARITY_WEIGHTS: Final = tuple(np.arange(0.0, 24.1, 2.0))
_FACET_WEIGHTS: Final = (0.0, 0.1, 0.25, 0.5, 1.0)
_DENIAL_WEIGHTS: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
DRAWS: Final = 3
"""Of validation pairs, so that no weight hangs on what one draw happened to show."""
_ROUNDS: Final = 2  # over all weights, one after the other


def weigh(
    model: compact.CompactFusion,
    part: Part,
    *,
    seed: int,
    prevalence: float = PREVALENCE,
    products: NDArray[np.bool_] | None = None,
) -> None:
    """Give all signals but the fusion's the weights in the logit with which the grades are found best, on average.

    Best: by recall at precision 0.5 and average precision alike, at this prevalence. One weight after the other is
    tried, twice, on several draws of the part's pairs, or of those of these `products`, (N,), only.
    """
    pairs = several(part, range(seed, seed + DRAWS))
    pairs = pairs if products is None else evaluate.of_products(pairs, products)
    signals = all_signals(model.signals, part, pairs)
    facets = model.facet_weights.numel()
    tried = (_SIMILARITY_WEIGHTS, *(_FACET_WEIGHTS,) * facets, *(_DENIAL_WEIGHTS,) * signals.denial.shape[1])
    weights = np.zeros(len(tried))

    def quality(place: int, weight: float) -> float:
        changed = weights.copy()
        changed[place] = weight
        return _mean_quality(combined(signals, changed), pairs, prevalence)

    for _ in range(_ROUNDS):
        for place, choices in enumerate(tried):
            weights[place] = max(choices, key=partial(quality, place))
    model.similarity_weight.fill_(weights[0])
    model.facet_weights.copy_(torch.from_numpy(weights[1 : 1 + facets]))
    if len(model.taggers):
        model.denial_weights.copy_(torch.from_numpy(weights[1 + facets :]))


def several(part: Part, seeds: Iterable[int]) -> evaluate.Pairs:
    """Return the part's graded pairs of each seed, one behind the other."""
    drawn = [part.pairs(seed) for seed in seeds]
    return evaluate.Pairs(*(np.concatenate(column) for column in zip(*drawn, strict=True)))


def combined(signals: Evidence, weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return logits (M,) of signals; weights (1 + F + 2,), of the similarity, each facet's surprise, the denials."""
    beside = np.concatenate([signals.surprise, signals.denial], axis=1)
    return np.asarray(signals.fusion - weights[0] * signals.similarity + beside @ weights[1:])


def weights_of(model: compact.CompactFusion) -> NDArray[np.float64]:
    """Return the weights that `weigh` gave, as `combined` takes them."""
    denials = model.denial_weights.tolist() if len(model.taggers) else []
    return np.array([float(model.similarity_weight), *model.facet_weights.tolist(), *denials])


def mean_recall(scores: NDArray[np.floating], pairs: evaluate.Pairs, prevalence: float = PREVALENCE) -> float:
    """Return the recall at precision 0.5 at the stated prevalence, on average over the grades."""
    recall = partial(calibration.recall_at_precision, prevalence=prevalence, precision=0.5)
    return _over_grades(recall, scores, pairs)


def _mean_quality(scores: NDArray[np.floating], pairs: evaluate.Pairs, prevalence: float) -> float:
    precision = partial(calibration.average_precision, prevalence=prevalence)
    return (mean_recall(scores, pairs, prevalence) + _over_grades(precision, scores, pairs)) / 2


def _over_grades(statistic: Callable[..., float], scores: NDArray[np.floating], pairs: evaluate.Pairs) -> float:
    matches = pairs.label == 0
    chosen = (matches | (pairs.difference == grade) for grade in sorted(set(pairs.difference[~matches].tolist())))
    return float(np.mean([statistic(scores[rows], pairs.label[rows]) for rows in chosen]))
