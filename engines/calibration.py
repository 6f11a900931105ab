"""Logits → probabilities → decisions: fit a calibration, choose a threshold, and say how sure a figure is.

Labels are 1 for a mismatch, 0 for a match. Pairs for training and evaluation are drawn half and half, catalogues
are wrong far less often: `prevalence` is the share of mismatches that figures are stated for, reached by weighing
the pairs. numpy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engines.contract import Calibration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.floating]
    Labels = NDArray[np.integer]

_NEWTON_STEPS: Final = 50
_TINY: Final = 1e-12  # where neither recall nor precision is above 0
_RIDGE: Final = 1e-6  # keeps the Hessian invertible when all logits are equal


class Interval(NamedTuple):
    """A figure with its bootstrap interval."""

    value: float
    low: float
    high: float


class OperatingPoints(NamedTuple):
    """Every threshold that tells the pairs apart, ascending in recall; three arrays (N,), float64."""

    thresholds: NDArray[np.float64]
    recalls: NDArray[np.float64]
    precisions: NDArray[np.float64]

    def recall_at(self, precision: float) -> float:
        """Return the greatest recall of a threshold whose precision is at least this, 0 if none reaches it."""
        reached = self.recalls[self.precisions >= precision]
        return float(reached.max()) if len(reached) else 0.0

    def average_precision(self) -> float:
        """Return the mean precision over recall: precision at each threshold, weighed by the recall that it adds."""
        return float((np.diff(self.recalls, prepend=0.0) * self.precisions).sum())


class RocCurve(NamedTuple):
    """What share of the mismatches, and of the matches, each threshold that tells pairs apart finds; (N,), float64.

    Of no prevalence: sorting the scores once does for all of them.
    """

    thresholds: NDArray[np.float64]
    recalls: NDArray[np.float64]
    false_alarms: NDArray[np.float64]

    def at(self, prevalence: float) -> OperatingPoints:
        """Return recall and precision of each threshold where this share of the pairs is wrong."""
        found = prevalence * self.recalls
        alerts = found + (1 - prevalence) * self.false_alarms
        some = alerts > 0  # where all is wrong, or nothing, a threshold may alert nothing that counts
        return OperatingPoints(self.thresholds[some], self.recalls[some], found[some] / alerts[some])

    def auc(self) -> float:
        """Return the area under the curve: the probability that a mismatch scores above a match, ties counted half.

        Source: Hanley, McNeil 1982 (the Mann-Whitney statistic).
        """
        widths = np.diff(self.false_alarms, prepend=0.0)
        return float((widths * (self.recalls - np.diff(self.recalls, prepend=0.0) / 2)).sum())


def apply(calibration: Calibration, logits: Floats) -> NDArray[np.float64]:
    """Return P(mismatch), float64, of the shape of `logits`: `sigmoid(scale * logit + shift)`."""
    z = calibration.scale * logits.astype(np.float64) + calibration.shift
    return _sigmoid(z)


def fit_platt(logits: Floats, labels: Labels, *, prevalence: float = 0.5, weights: Floats | None = None) -> Calibration:
    """Return scale and shift that maximise the likelihood of `labels` (N,) given `logits` (N,), by Newton's method.

    Targets are smoothed as Platt did, so perfectly separated pairs still have a finite answer. With another
    `prevalence` than one half, probabilities are those of a catalogue in which that share is wrong. `weights` (N,) say
    how much each pair counts within its class; without, all count the same.

    Raises:
        ValueError: one of the two classes is missing.

    Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines"; Lin, Lin, Weng 2007.
    """
    positives, negatives = _counts(labels)
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    shares = _within_classes(labels, weights)
    counted = np.where(labels == 1, prevalence, 1 - prevalence) * shares
    design = np.stack([logits.astype(np.float64), np.ones(len(logits))], axis=1)  # (N, 2)
    parameters = np.array([1.0, np.log(prevalence / (1 - prevalence))])
    for _ in range(_NEWTON_STEPS):
        parameters = _newton_step(parameters, design, targets, counted)
    return Calibration(scale=float(parameters[0]), shift=float(parameters[1]))


def roc_curve(scores: Floats, labels: Labels, *, weights: Floats | None = None) -> RocCurve:
    """Return what the decision `score >= threshold` finds, for every threshold there is, ascending in recall.

    A threshold stands half way between two neighbouring scores: a new pair near it falls on either side with equal
    reason. `weights` (N,) say how much each pair counts within its class; without, all count the same.

    Raises:
        ValueError: one of the two classes is missing.
    """
    _counts(labels)
    scores = scores.astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    wrong = labels[order] == 1
    counted = np.ones(len(order)) if weights is None else weights[order].astype(np.float64)
    hits, false_alarms = (np.cumsum(np.where(of, counted, 0.0)) for of in (wrong, ~wrong))
    thresholds = (ranked + np.append(ranked[1:], ranked[-1])) / 2
    last = np.append(ranked[1:] != ranked[:-1], True)  # equal scores cannot be told apart
    last &= hits + false_alarms > 0  # what counts nothing decides nothing
    return RocCurve(thresholds[last], hits[last] / hits[-1], false_alarms[last] / false_alarms[-1])


def operating_points(
    scores: Floats, labels: Labels, *, prevalence: float, weights: Floats | None = None
) -> OperatingPoints:
    """Return recall and precision of the decision `score >= threshold`; arguments and errors as `roc_curve`."""
    return roc_curve(scores, labels, weights=weights).at(prevalence)


def threshold_for_precision(
    scores: Floats, labels: Labels, *, prevalence: float, precision: float, weights: Floats | None = None
) -> float | None:
    """Return the threshold of the greatest recall whose precision is at least `precision`, None if none reaches it."""
    points = operating_points(scores, labels, prevalence=prevalence, weights=weights)
    (reached,) = np.nonzero((points.precisions >= precision) & (points.recalls > 0))
    return float(points.thresholds[reached[-1]]) if len(reached) else None


def threshold_for_best_f1(scores: Floats, labels: Labels, *, prevalence: float, weights: Floats | None = None) -> float:
    """Return the threshold with the greatest harmonic mean of recall and precision."""
    points = operating_points(scores, labels, prevalence=prevalence, weights=weights)
    f1 = 2 * points.recalls * points.precisions / np.maximum(points.recalls + points.precisions, _TINY)
    return float(points.thresholds[f1.argmax()])


def recall_at_precision(
    scores: Floats, labels: Labels, *, prevalence: float, precision: float, weights: Floats | None = None
) -> float:
    """Return the greatest recall of a threshold whose precision is at least `precision`, 0 if none reaches it."""
    return operating_points(scores, labels, prevalence=prevalence, weights=weights).recall_at(precision)


def average_precision(scores: Floats, labels: Labels, *, prevalence: float) -> float:
    """Return the mean precision over recall, as `OperatingPoints.average_precision`."""
    return operating_points(scores, labels, prevalence=prevalence).average_precision()


def at_threshold(
    scores: Floats, labels: Labels, *, prevalence: float, threshold: float, weights: Floats | None = None
) -> tuple[float, float]:
    """Return (recall, precision) of the decision `score >= threshold`; precision is 1 when nothing is alerted."""
    _counts(labels)
    counted = np.ones(len(labels)) if weights is None else weights
    alerted = counted * (scores >= threshold)
    recall, false_alarms = (float(alerted[labels == label].sum() / counted[labels == label].sum()) for label in (1, 0))
    share = prevalence * recall + (1 - prevalence) * false_alarms
    return recall, (prevalence * recall / share if share > 0 else 1.0)


def auc(scores: Floats, labels: Labels) -> float:
    """Return the area under the ROC curve, as `RocCurve.auc`."""
    return roc_curve(scores, labels).auc()


def bootstrap(
    statistics: Callable[[Floats, Labels], Sequence[float]],
    scores: Floats,
    labels: Labels,
    *,
    groups: NDArray[np.integer] | None = None,
    samples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Return several statistics of the same draws, each with its percentile bootstrap interval.

    Args:
        statistics: of scores and labels.
        scores: (N,) or (N, K), of whatever the statistic reads.
        labels: (N,).
        groups: (N,), equal for pairs that are not independent of each other, as those of variants of one item: they are
            drawn together. Without, mismatches and matches are drawn apart, each pair for itself.
        samples: how many times is drawn.
        confidence: of the interval.
        seed: of the draws.

    Raises:
        ValueError: one of the two classes is missing.

    Source: Efron, Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; Davison, Hinkley 1997, "Bootstrap
    Methods and their Application", section 3.8 (hierarchical data).
    """
    _counts(labels)
    generator = np.random.default_rng(seed)
    draw = _pairs_apart(labels, generator) if groups is None else _groups_together(groups, labels, generator)
    values = [statistics(scores[drawn], labels[drawn]) for drawn in (draw() for _ in range(samples))]
    tail = (1 - confidence) / 2
    lows, highs = np.quantile(np.array(values), [tail, 1 - tail], axis=0)
    found = zip(statistics(scores, labels), lows, highs, strict=True)
    return [Interval(float(value), float(low), float(high)) for value, low, high in found]


def _within_classes(labels: Labels, weights: Floats | None) -> NDArray[np.float64]:
    """Return how much each pair counts (N,), the sum of each class 1.

    Raises:
        ValueError: one of the two classes is missing, or counts nothing.
    """
    _counts(labels)
    counted = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    totals = [float(counted[labels == label].sum()) for label in (0, 1)]
    if min(totals) <= 0:
        raise ValueError("all pairs of one class have the weight 0: both are needed")
    return counted / np.where(labels == 1, totals[1], totals[0])


def _pairs_apart(labels: Labels, generator: np.random.Generator) -> Callable[[], NDArray[np.int64]]:
    classes = [np.nonzero(labels == label)[0] for label in (0, 1)]
    return lambda: np.concatenate([generator.choice(members, size=len(members)) for members in classes])


def _groups_together(
    groups: NDArray[np.integer], labels: Labels, generator: np.random.Generator
) -> Callable[[], NDArray[np.int64]]:
    """Return what draws as many groups as there are, again where one of the classes is not among them."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.nonzero(np.diff(groups[order]))[0] + 1)

    def draw() -> NDArray[np.int64]:
        while True:
            drawn = np.concatenate([members[i] for i in generator.integers(len(members), size=len(members))])
            if 0 < labels[drawn].sum() < len(drawn):
                return drawn

    return draw


def _newton_step(
    parameters: NDArray[np.float64],
    design: NDArray[np.float64],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the parameters (2,) after one step, halved until the loss does not grow."""
    z = design @ parameters
    probabilities = _sigmoid(z)
    gradient = design.T @ (weights * (probabilities - targets))
    curvature = weights * probabilities * (1 - probabilities)
    hessian = (design * curvature[:, None]).T @ design + _RIDGE * np.eye(2)
    step = np.linalg.solve(hessian, gradient)
    before = _loss(z, targets, weights)
    for _ in range(30):
        if _loss(design @ (parameters - step), targets, weights) <= before:
            return parameters - step
        step = step / 2
    return parameters


def _loss(z: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float((weights * (np.logaddexp(0, z) - targets * z)).sum())


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -z))  # never overflows


def _counts(labels: Labels) -> tuple[int, int]:
    positives = int((labels == 1).sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise ValueError(f"{positives} mismatches and {negatives} matches: both are needed")
    return positives, negatives
