"""Which alert thresholds a release gets: one for all, and one per category where that keeps its promise better.

A target precision holds for the catalogue as a whole; in a category whose right pictures score higher, more alerts are
wrong. A category's own threshold is chosen on its own pairs and, beside them, all pairs of the catalogue, which count
together as `strength` pairs of each class: a large category goes its own way, a small one keeps near the overall
threshold. The strength is the one of empirical Bayes. Own thresholds are shipped only where, on pairs that they were
not chosen on, they bring the categories nearer to the target. Where people have confirmed pairs, those lead (`led`). No
torch.

Source: Efron, Morris 1975, "Data Analysis Using Stein's Estimator"; Kleinman 1973 (the beta-binomial's moments);
DerSimonian, Laird 1986, "Meta-analysis in clinical trials" (the variance between groups of unlike sizes).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from engines import calibration
from engines.build.dataset import split
from engines.build.evaluate import related
from engines.contract import top_level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog
    from engines.build.evaluate import Pairs
    from engines.calibration import Interval

LEAST_PAIRS: Final = 30
"""Of each class: a category with fewer gets the overall threshold, and its precision is not judged."""

_FOLDS: Final = 5
_SAMPLES: Final = 200
_LEAST_BESIDE: Final = 10.0  # pairs of each class that exchanged ones count beside confirmed ones
_RECALL_GIVEN_UP: Final = 0.02
"""Own thresholds may cost this much of the recall over all categories, no more."""


class Scored(NamedTuple):
    """Pairs with their scores, which thresholds are of; arrays (M,). `groups` are equal for pairs of the same item.

    `weights` say how much each pair counts within its class.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    categories: NDArray[np.str_]
    groups: NDArray[np.int64]
    weights: NDArray[np.float64]

    def rows(self, chosen: NDArray[Any]) -> Scored:
        """Return some of the pairs."""
        return Scored(
            scores=self.scores[chosen],
            labels=self.labels[chosen],
            categories=self.categories[chosen],
            groups=self.groups[chosen],
            weights=self.weights[chosen],
        )


@dataclass(frozen=True)
class Target:
    """What thresholds are chosen for: the share of alerts that are right, where a share `prevalence` is wrong.

    `by_category` is that share in categories where it is known to be another one.
    """

    precision: float
    prevalence: float
    by_category: dict[str, float] = field(default_factory=dict[str, float])

    def of(self, category: str) -> Target:
        """Return what is aimed at in one category."""
        return Target(self.precision, self.by_category.get(category, self.prevalence))


@dataclass(frozen=True)
class Thresholds:
    """The overall threshold, and those of categories that have their own, each with its bootstrap interval."""

    overall: Interval
    by_category: dict[str, Interval]

    def alone(self) -> Thresholds:
        """Return the overall threshold for all."""
        return Thresholds(self.overall, {})

    def of(self, categories: NDArray[np.str_]) -> NDArray[np.float64]:
        """Return the threshold of each category, float64 (M,)."""
        own = {name: interval.value for name, interval in self.by_category.items()}
        return np.array([own.get(name, self.overall.value) for name in categories.tolist()])


class Comparison(NamedTuple):
    """One threshold for all against thresholds per category, on the same pairs.

    `gap` is how far a category's precision is from the target, the mean over categories weighed by their matches.
    """

    gap: tuple[Interval, Interval]
    recall: tuple[Interval, Interval]
    precision: tuple[Interval, Interval]
    gap_closed: Interval
    recall_gained: Interval

    @property
    def helps(self) -> bool:
        """Whether the categories are surely nearer to the target, at next to no cost of recall."""
        return self.gap_closed.low > 0 and self.recall_gained.value >= -_RECALL_GIVEN_UP


def scored(
    catalog: Catalog, pairs: Pairs, scores: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> Scored:
    """Return the pairs by the top-level category of their text's product; all count the same without `weights`."""
    counted = np.ones(len(pairs.label)) if weights is None else weights
    categories = np.array([top_level(catalog.products[i].category) for i in pairs.product.tolist()])
    return Scored(scores, pairs.label, categories, related(catalog, pairs), counted)


def joined(parts: Sequence[Scored]) -> Scored:
    """Return the pairs of several catalogues, none of which shares an item with another."""
    shifts = np.cumsum([0, *(int(part.groups.max(initial=-1)) + 1 for part in parts)])
    return Scored(
        scores=np.concatenate([part.scores for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        categories=np.concatenate([part.categories for part in parts]),
        groups=np.concatenate([part.groups + shift for part, shift in zip(parts, shifts[:-1], strict=True)]),
        weights=np.concatenate([part.weights for part in parts]),
    )


def led(pairs: Scored, confirmed: NDArray[np.bool_], target: Target) -> Scored:
    """Return the pairs, weighed as `confirmed` ones, (M,), show what is scored, of which they are a sample.

    Of pictures that were exchanged nobody knows that they are like what is scored. A threshold that was chosen on many
    of them, and a few that people have confirmed, keeps its promise on the former alone. So they are to the latter what
    all pairs are to a category: beside them they count as many as empirical Bayes says, but no fewer than some, since
    two groups tell little of how far groups differ. Where that would lower the threshold, or put the target out of
    reach, the pairs are returned as they are.
    """
    if any(not (pairs.labels[rows] == label).any() for rows in (confirmed, ~confirmed) for label in (0, 1)):
        return pairs
    groups = pairs._replace(
        categories=np.where(confirmed, "confirmed", "exchanged"),
        weights=np.sum([_as_effective(pairs, rows, n) for rows in (confirmed, ~confirmed) for n in (0, 1)], axis=0),
    )
    pooled = _reached(groups, target)
    if pooled is None:
        return pairs
    strengths = _strengths(groups, pooled, ["confirmed", "exchanged"])
    strengths = {label: max(strength, _LEAST_BESIDE) for label, strength in strengths.items()}
    leading = pairs._replace(weights=_leaning(groups, confirmed, strengths))
    reached = _reached(leading, target)
    return leading if reached is not None and reached > pooled else pairs


def choose(pairs: Scored, target: Target, *, seed: int = 0) -> tuple[Thresholds, Comparison | None]:
    """Return the overall and the categories' thresholds, and how the latter did on pairs they were not chosen on.

    Only where `Comparison.helps` should they be shipped; else `Thresholds.alone`. None instead of a comparison: no
    category has its own, because there are too few pairs, categories do not differ beyond chance, or the target is out
    of reach.
    """
    names = list(_own(pairs, target))

    def thresholds(rows: NDArray[np.floating], _: NDArray[np.integer]) -> list[float]:
        drawn = pairs.rows(rows.astype(np.int64))
        overall, own = _overall(drawn, target), _own(drawn, target)
        return [overall, *(own.get(name, overall) for name in names)]

    rows = np.arange(len(pairs.labels), dtype=np.float64)
    overall, *own = calibration.bootstrap(
        thresholds, rows, pairs.labels, groups=pairs.groups, samples=_SAMPLES, seed=seed
    )
    chosen = Thresholds(overall, dict(zip(names, own, strict=True)))
    return chosen, _cross_fit(pairs, target, seed) if names else None


def compare(
    pairs: Scored, overall: NDArray[np.float64], own: NDArray[np.float64], target: Target, *, seed: int = 0
) -> Comparison | None:
    """Return what the two thresholds of each pair (M,) decide; None where no category has enough pairs to judge.

    Intervals are 95 % bootstrap intervals; pairs of one item are drawn together.
    """
    names = _judged(pairs)
    if not names:
        return None
    margins = np.stack([pairs.scores - overall, pairs.scores - own], axis=1)
    numbers = {name: number for number, name in enumerate(names)}
    category = np.array([numbers.get(name, -1) for name in pairs.categories.tolist()], dtype=np.float64)
    columns = np.column_stack([margins, category, pairs.weights])

    def statistics(table: NDArray[np.floating], labels: NDArray[np.integer]) -> list[float]:
        gaps = [_gap(table[:, way], labels, table[:, 2:], names, target) for way in (0, 1)]
        decided = [
            calibration.at_threshold(
                table[:, way], labels, prevalence=target.prevalence, threshold=0.0, weights=table[:, 3]
            )
            for way in (0, 1)
        ]
        recalls, precisions = zip(*decided, strict=True)
        return [*gaps, *recalls, *precisions, gaps[0] - gaps[1], recalls[1] - recalls[0]]

    found = calibration.bootstrap(statistics, columns, pairs.labels, groups=pairs.groups, samples=_SAMPLES, seed=seed)
    return Comparison((found[0], found[1]), (found[2], found[3]), (found[4], found[5]), found[6], found[7])


def summary(thresholds: Thresholds, validation: Comparison | None, test: Comparison | None) -> dict[str, Any]:
    """Return the thresholds' intervals and both comparisons as plain numbers, for the manifest."""
    return {
        "overall": _rounded(thresholds.overall),
        "by_category": {name: _rounded(interval) for name, interval in thresholds.by_category.items()},
        "cross_fitted": _plain(validation),
        "test": _plain(test),
    }


def _cross_fit(pairs: Scored, target: Target, seed: int) -> Comparison | None:
    """Compare on every pair, each judged by thresholds that were chosen without its item; None: there is one alone."""
    overall, own = np.empty(len(pairs.labels)), np.empty(len(pairs.labels))
    for part in split(pairs.groups.tolist(), [1 / _FOLDS] * _FOLDS, seed=seed):
        held = np.zeros(len(pairs.labels), dtype=np.bool_)
        held[part] = True
        rest = pairs.rows(~held)
        if len(np.unique(rest.labels)) < 2:  # noqa: PLR2004 - matches and mismatches
            return None
        overall[held] = _overall(rest, target)
        found = _own(rest, target)
        own[held] = [found.get(name, _overall(rest, target)) for name in pairs.categories[held].tolist()]
    return compare(pairs, overall, own, target, seed=seed)


def _overall(pairs: Scored, target: Target) -> float:
    """Return the threshold of greatest recall at the target, or, where none reaches it, that of the best F1."""
    reached = _reached(pairs, target)
    if reached is not None:
        return reached
    return calibration.threshold_for_best_f1(
        pairs.scores, pairs.labels, prevalence=target.prevalence, weights=pairs.weights
    )


def _own(pairs: Scored, target: Target) -> dict[str, float]:
    """Return the shrunk thresholds of categories with enough pairs; none where nothing tells them apart."""
    overall = _reached(pairs, target)
    names = _judged(pairs)
    if overall is None or len(names) < 2:  # noqa: PLR2004 - one category is the catalogue
        return {}
    strengths = _strengths(pairs, overall, names)
    if not np.isfinite(list(strengths.values())).any():
        return {}
    found = {
        name: _reached(pairs._replace(weights=_leaning(pairs, pairs.categories == name, strengths)), target.of(name))
        for name in names
    }
    return {name: threshold for name, threshold in found.items() if threshold is not None}


def _leaning(pairs: Scored, own: NDArray[np.bool_], strengths: dict[int, float]) -> NDArray[np.float64]:
    """Return weights (M,): `own` pairs count as many as they say as much as, all together the strength of their class.

    Where the strength is infinite, own pairs count no more than the others of their class.
    """
    weights = np.zeros(len(own))
    for label, strength in strengths.items():
        prior = pairs.weights * (pairs.labels == label)
        finite = np.isfinite(strength)
        weights += prior / prior.sum() * (strength if finite else 1.0)
        weights += _as_effective(pairs, own, label) * finite
    return weights


def _as_effective(pairs: Scored, rows: NDArray[np.bool_], label: int) -> NDArray[np.float64]:
    """Return weights (M,) of these pairs of one class, as many together as they say as much as, and of others none."""
    mine = pairs.weights * (rows & (pairs.labels == label))
    return np.asarray(mine / mine.sum() * _effective(mine))


def _strengths(pairs: Scored, threshold: float, names: list[str]) -> dict[int, float]:
    """Return for each class of how many pairs the share of alerts of all is worth for one of these groups."""
    return {label: _strength(pairs, label, threshold, names) for label in (0, 1)}


def _strength(pairs: Scored, label: int, threshold: float, names: list[str]) -> float:
    """Return of how many pairs the share of alerts of all in a class is worth for a group; inf: of any number.

    The share of alerts varies from group to group as a beta distribution; its two moments give the strength.
    """
    of_class = pairs.labels == label
    alerts = pairs.scores >= threshold
    rows = [of_class & (pairs.categories == name) for name in names]
    counts = np.array([_effective(pairs.weights[row]) for row in rows])
    shares = np.array([np.average(alerts[row], weights=pairs.weights[row]) for row in rows])
    mean = float((counts * shares).sum() / counts.sum())
    chance = mean * (1 - mean)
    spread = float((counts * (shares - mean) ** 2).sum()) - (len(names) - 1) * chance
    between = spread / float(counts.sum() - (counts**2).sum() / counts.sum())
    return max(1.0, chance / between - 1) if between > 0 else np.inf  # at 0 the others would weigh nothing


def _effective(weights: NDArray[np.float64]) -> float:
    """Return of how many pairs with equal weights these say as much. Source: Kish 1965, "Survey Sampling"."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _reached(pairs: Scored, target: Target) -> float | None:
    return calibration.threshold_for_precision(
        pairs.scores,
        pairs.labels,
        prevalence=target.prevalence,
        precision=target.precision,
        weights=pairs.weights,
    )


def _judged(pairs: Scored) -> list[str]:
    """Return the named categories with enough pairs of each class."""
    names = np.unique(pairs.categories[pairs.categories != ""])
    classes = [pairs.categories[pairs.labels == label] for label in (0, 1)]
    return [str(name) for name in names if min((of == name).sum() for of in classes) >= LEAST_PAIRS]


def _gap(
    margins: NDArray[np.floating],
    labels: NDArray[np.integer],
    placed: NDArray[np.floating],
    names: list[str],
    target: Target,
) -> float:
    """Return the mean gap over categories; `placed` (M, 2): the number of each pair's category, and its weight."""
    gaps, sizes = [0.0], [0.0]
    for number, name in enumerate(names):
        rows = placed[:, 0] == number
        matches = int((labels[rows] == 0).sum())
        if 0 < matches < rows.sum():
            _, precision = calibration.at_threshold(
                margins[rows],
                labels[rows],
                prevalence=target.of(name).prevalence,
                threshold=0.0,
                weights=placed[rows, 1],
            )
            gaps.append(abs(precision - target.precision))
            sizes.append(matches)
    return float(np.average(gaps, weights=sizes)) if sum(sizes) else 0.0


def _plain(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    both = {
        name: {"overall": _rounded(pair[0]), "by_category": _rounded(pair[1])}
        for name, pair in (("gap", comparison.gap), ("recall", comparison.recall), ("precision", comparison.precision))
    }
    ends = {"gap_closed": _rounded(comparison.gap_closed), "recall_gained": _rounded(comparison.recall_gained)}
    return both | ends | {"helps": comparison.helps}


def _rounded(interval: Interval) -> list[float]:
    return [round(number, 4) for number in interval]
