"""Whether people and the challenger that learned from them agree at all: verdicts that were exchanged are found so.

Flipped labels that are learned show on the benchmark. Those that are not, because catalogue and champion outweigh them,
do no harm and would pass. But then the challenger answers the opposite of what the held-out ones say, in all of them or
in the slice that was flipped. The champion is not asked: of a new kind of product it may well know less than chance. Of
alerts alone nothing is said: all of them score high, and right products that are surest to alert stand above true ones.
So a slice is asked that the audit has seen. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engines.build.retrain import paired

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engines.build.retrain.frozen import FrozenSet

ALL: Final = "all"

LEAST_OF_EACH: Final = 10
"""Mismatches, and matches: as few as that are the opposite throughout by chance once in 184,756 times (20 over 10)."""

_CHANCE: Final = 0.5


class Agreement(NamedTuple):
    """How an engine ranks the labels of a slice.

    auc: the probability that a confirmed mismatch scores above a confirmed match; `spread` is its standard error.
    p_value: how likely an AUC of at most this is where engine and people know nothing of each other.
    """

    name: str
    mismatches: int
    matches: int
    auc: float
    spread: float
    p_value: float


def agreements(labels: FrozenSet, logits: NDArray[np.float64]) -> list[Agreement]:
    """Return how an engine with these logits (M,) agrees with all labels, and with those of each slice."""
    plain, audited = labels.plain, labels.plain if labels.audited is None else labels.plain & labels.audited
    slices = {ALL: np.ones(len(logits), dtype=np.bool_)} | labels.slices(least=LEAST_OF_EACH)
    return [
        _agreement(name, labels, logits, plain & rows)
        for name, rows in slices.items()
        if (audited & rows).sum() >= LEAST_OF_EACH
    ]


def contradicted(found: Sequence[Agreement], alpha: float) -> list[bool]:
    """Return where the engine surely answers the opposite; `alpha` is the chance of any wrong one (Holm's method)."""
    return paired.holm([one.p_value for one in found], alpha)


def _agreement(name: str, labels: FrozenSet, logits: NDArray[np.float64], rows: NDArray[np.bool_]) -> Agreement:
    """Return the weighted AUC of these rows; the pairs of one item are one observation.

    Sources: Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data" (DeLong's components, by cluster);
    that of an engine that knows nothing varies as Mann, Whitney 1947 have it, with items in place of observations.
    """
    scores, weights, wrong = logits[rows], labels.weights[rows], labels.pairs.label[rows] == 1
    shares = weights / np.where(wrong, weights[wrong].sum(), weights[~wrong].sum())
    placed = np.empty(len(scores))
    placed[wrong] = _above(scores[wrong], scores[~wrong], shares[~wrong])
    placed[~wrong] = 1 - _above(scores[~wrong], scores[wrong], shares[wrong])
    auc, items = float((shares * placed)[wrong].sum()), labels.groups[rows]
    spread = float(np.linalg.norm(np.bincount(items, shares * (placed - auc))))
    by_chance = np.linalg.norm([np.linalg.norm(np.bincount(items, shares * one)) for one in (wrong, ~wrong)]) / 12**0.5
    p_value = paired.p_value(_CHANCE - auc, max(spread, float(by_chance)))
    return Agreement(name, int(wrong.sum()), int((~wrong).sum()), auc, spread, p_value)


def _above(
    scores: NDArray[np.float64], others: NDArray[np.float64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the share of the others that each score stands above, ties counted half."""
    order = np.argsort(others)
    summed = np.concatenate([[0.0], np.cumsum(shares[order])])
    below, upto = (summed[np.searchsorted(others[order], scores, side)] for side in ("left", "right"))
    placed: NDArray[np.float64] = (below + upto) / 2
    return placed
