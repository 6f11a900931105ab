"""Which weight each signal has in a compact model's logit, for each of the two ways in which a picture is wrong.

A regression on held-out pairs in which all grades count the same: logistic, with the soft maximum of two weighted sums
in place of one sum, as what finds pictures of something else altogether is noise where one color was exchanged. No
weight is below 0, and the fewer the products, the nearer weights stay to fixed ones.

Source: Jordan, Jacobs 1994 (mixtures of experts), here with a fixed gate, the maximum; Hastie, Tibshirani, Friedman
2009, "The Elements of Statistical Learning", section 4.4.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines import calibration
from engines.build import evaluate
from engines.build.models.compact import either
from engines.build.recipe import PREVALENCE
from engines.build.signals import all_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from engines.build.models import compact
    from engines.build.signals import Evidence, Part

DRAWS: Final = 3
"""Of validation pairs, so that no weight hangs on what one draw happened to show."""

_DRAWN_TO: Final = (1.3, 0.0), (0.0, 1.2), (0.1, 0.0), (0.0, 0.1), (0.0, 0.0)
_BIASES: Final = (-1.8, -5.0)
"""What weights of fusion, similarity, surprises, denials and novelty are drawn to, in both ways, and biases.

Where every signal has mean 0 and deviation 1.
"""

_STRENGTH: Final = 0.15  # of the pull on weights, of so many products as one, at the usual prevalence
_OF_BIASES: Final = 0.2  # of that: where pairs teach nothing of one way, it stays within reach
_MOST: Final = (4.0, 40.0, 1.0, 0.4, 40.0)
"""What fusion's logit, a cosine, a nat of surprise, one of denial, and novelty weigh at most, if they hardly vary."""

_STEPS: Final = 300
_LEARNING_RATE: Final = 0.05
_SILENT: Final = 1e-3  # deviation of a signal of which these pairs teach nothing


class Weights(NamedTuple):
    """`weights` (2, S) of the columns of `compact.Signals.columns`, and `biases` (2,), float64."""

    weights: NDArray[np.float64]
    biases: NDArray[np.float64]


def weigh(
    model: compact.CompactFusion,
    part: Part,
    *,
    seed: int,
    prevalence: float = PREVALENCE,
    products: NDArray[np.bool_] | None = None,
) -> None:
    """Give the model the weights with which several draws of the part's pairs are told best, at this prevalence.

    Of these `products`, (N,), only; of all where that is None.
    """
    pairs = several(part, range(seed, seed + DRAWS))
    pairs = pairs if products is None else evaluate.of_products(pairs, products)
    if model.novelty is not None:
        model.novelty.bounds.copy_(torch.tensor([0.0, 1.0]))
    signals = all_signals(model.signals, part, pairs)
    if model.novelty is not None:
        model.novelty.bounds.copy_(torch.tensor([signals.novelty.min(), signals.novelty.max()]))
    found = fit(signals, pairs, prevalence)
    model.signal_weights.copy_(torch.from_numpy(found.weights))
    model.signal_biases.copy_(torch.from_numpy(found.biases))


def fit(signals: Evidence, pairs: evaluate.Pairs, prevalence: float = PREVALENCE) -> Weights:
    """Return weights of great likelihood, where all grades count the same, less the pull.

    A signal that is the same for all pairs, as the surprise of a facet that none of their texts states, has no weight.
    """
    columns = torch.from_numpy(signals.columns().astype(np.float64))
    center, deviation = columns.mean(dim=0), columns.std(dim=0)
    heard, deviation = deviation > _SILENT, deviation.clamp(min=_SILENT)
    standardised = (columns - center) / deviation
    label, counted = torch.from_numpy(pairs.label.astype(np.float64)), torch.from_numpy(_counted(pairs, prevalence))
    counts = [1, 1, *(of.shape[1] for of in (signals.surprise, signals.denial, signals.novelty))]
    kinds = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    most = deviation * torch.tensor(_MOST, dtype=torch.float64)[kinds]
    drawn_to = torch.minimum(torch.tensor(_DRAWN_TO, dtype=torch.float64)[kinds].T * heard, most)
    drawn_biases = torch.tensor(_BIASES, dtype=torch.float64)
    pull = _STRENGTH / len(np.unique(pairs.product)) * min(prevalence, 1 - prevalence) / PREVALENCE
    weights = drawn_to.clone().requires_grad_()
    biases = drawn_biases.clone().requires_grad_()
    optimizer = torch.optim.Adam([weights, biases], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        logits = either(standardised @ weights.T + biases)
        misfit: Tensor = F.binary_cross_entropy_with_logits(logits, label, weight=counted, reduction="sum")
        away = (weights - drawn_to).square().sum() + _OF_BIASES * (biases - drawn_biases).square().sum()
        torch.autograd.backward(misfit + pull * away)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            weights.copy_(torch.minimum(weights.clamp(min=0), most))
    with torch.no_grad():
        raw = weights / deviation
        return Weights(raw.numpy(), (biases - raw @ center).numpy())


def keep_balance(model: compact.CompactFusion, before: NDArray[np.floating], after: NDArray[np.floating]) -> None:
    """Take it that signals which are (S,) on average of matches were `before` when the model's weights were fitted.

    Readers that go on learning may come to say more, or less, of everything. Of one sum a calibration takes care; of
    two, one would be heard more than the other: the second is shifted as the first is.
    """
    first, second = model.signal_weights @ torch.from_numpy(after - before).float()
    model.signal_biases[1] += first - second


def several(part: Part, seeds: Iterable[int]) -> evaluate.Pairs:
    """Return the part's graded pairs of each seed, one behind the other."""
    drawn = [part.pairs(seed) for seed in seeds]
    return evaluate.Pairs(*(np.concatenate(column) for column in zip(*drawn, strict=True)))


def combined(signals: Evidence, weights: Weights) -> NDArray[np.float64]:
    """Return the logits (M,) of signals."""
    ways = torch.from_numpy(signals.columns() @ weights.weights.T + weights.biases)
    return np.asarray(either(ways).numpy())


def weights_of(model: compact.CompactFusion) -> Weights:
    """Return the weights that `weigh` gave."""
    return Weights(model.signal_weights.double().numpy(), model.signal_biases.double().numpy())


def mean_recall(scores: NDArray[np.floating], pairs: evaluate.Pairs, prevalence: float = PREVALENCE) -> float:
    """Return the recall at precision 0.5 at the stated prevalence, on average over the grades."""
    recall = partial(calibration.recall_at_precision, prevalence=prevalence, precision=0.5)
    return _over_grades(recall, scores, pairs)


def _counted(pairs: evaluate.Pairs, prevalence: float) -> NDArray[np.float64]:
    """Return what each pair counts, (M,): matches together 1 - prevalence, and every grade as much as another."""
    kinds, kind, sizes = np.unique(
        np.where(pairs.label == 1, pairs.difference, ""), return_inverse=True, return_counts=True
    )
    each = np.where(kinds == "", 1 - prevalence, prevalence / max(1, int((kinds != "").sum())))
    return np.asarray((each / sizes)[kind])


def _over_grades(statistic: Callable[..., float], scores: NDArray[np.floating], pairs: evaluate.Pairs) -> float:
    matches = pairs.label == 0
    chosen = (matches | (pairs.difference == grade) for grade in sorted(set(pairs.difference[~matches].tolist())))
    return float(np.mean([statistic(scores[rows], pairs.label[rows]) for rows in chosen]))
