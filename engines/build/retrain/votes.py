"""How likely an item is a mismatch, given that people err, and how many products are wrong, given whom they were shown.

People disagree, and items that two or more judge tell how often one errs. A verdict moves the odds by that, from the
share of mismatches among items that were sampled alike: an audit finds few, so a single "mismatch" there is more often
an error than among alerts. Errors, shares and odds are found together, by expectation maximization. That is right also
where a third person is asked only about what two disagree on: whom one asks depends on verdicts alone. The share of
pairs that agree is not.

Source: Dawid, Skene 1979, "Maximum likelihood estimation of observer error-rates using the EM algorithm", with one rate
for all; Horvitz, Thompson 1952; Hájek 1971 (the ratio of two of their estimates), and its linearized variance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engines.calibration import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engines.catalogs.judged import Judged

DEFAULT_ERROR: Final = 0.05
"""Of a verdict, where too few items were judged twice to tell."""

LEAST_TWICE: Final = 50
"""Items with two verdicts or more, from which how often one is wrong is found."""

_ERROR_RANGE: Final = (0.005, 0.3)
_EM_STEPS: Final = 30
_SURE: Final = 0.02
"""Nearer to 0 or 1 than this is taken for certain."""

_LEAST_SHARE: Final = 1e-3
CONFIDENCE: Final = 0.95
_Z: Final = 1.959964
_STRENGTH: Final = 20.0
"""Of how many items the overall share is worth in a category's estimate."""


class Reviewed(NamedTuple):
    """The share of alerts, and of the audit's requests, that people judge, in no other order than chance."""

    alerts: float = 1.0
    audit: float = 1.0


EVERYTHING: Final = Reviewed()


class Votes(NamedTuple):
    """What is known of N items; float64 arrays (N,).

    mismatch: how likely each is one. weight: how many scored products it stands for, 1 / sampling probability.
    error: how often a verdict is wrong; measured: whether that was found, not assumed.
    """

    mismatch: NDArray[np.float64]
    weight: NDArray[np.float64]
    error: float
    measured: bool


class Prevalence(NamedTuple):
    """The share of scored products that are wrong, with its 95 % interval, and that of each top-level category."""

    overall: Interval
    by_category: dict[str, Interval]


def count(judged: Sequence[Judged], *, reviewed: Reviewed = EVERYTHING) -> Votes:
    """Return what the verdicts say.

    Args:
        judged: the items.
        reviewed: how much people judge of what they are shown.
    """
    mismatches = np.array([item.mismatches for item in judged], dtype=np.float64)
    matches = np.array([item.matches for item in judged], dtype=np.float64)
    alerts = np.array([item.sampled == "alert" for item in judged])
    chance = np.array([item.sampling_probability for item in judged]) * np.where(
        alerts, reviewed.alerts, reviewed.audit
    )
    error, measured = error_rate(mismatches, matches, alerts)
    likely = _likely(mismatches, matches, alerts, error)
    likely = np.where(likely < _SURE, 0.0, np.where(likely > 1 - _SURE, 1.0, likely))
    return Votes(likely, 1 / chance, error, measured)


def error_rate(
    mismatches: NDArray[np.float64], matches: NDArray[np.float64], alerts: NDArray[np.bool_]
) -> tuple[float, bool]:
    """Return how often a verdict is wrong, and whether enough items were judged twice to tell."""
    twice = mismatches + matches >= 2  # noqa: PLR2004 - one verdict contradicts nobody
    if twice.sum() < LEAST_TWICE:
        return DEFAULT_ERROR, False
    said, denied, alerted = mismatches[twice], matches[twice], alerts[twice]
    error = DEFAULT_ERROR
    for _ in range(_EM_STEPS):
        likely = _likely(said, denied, alerted, error)
        wrong = (likely * denied + (1 - likely) * said).sum()
        error = min(max(float(wrong / (said + denied).sum()), _ERROR_RANGE[0]), _ERROR_RANGE[1])
    return error, True


def prevalence(votes: Votes, categories: NDArray[np.str_]) -> Prevalence:
    """Return the share of mismatches among all that was scored; that of a category leans on the overall one.

    Raises:
        ValueError: there are no items.
    """
    overall = _share(votes.mismatch, votes.weight)
    by_category: dict[str, Interval] = {}
    for name in np.unique(categories[categories != ""]):
        rows = categories == name
        by_category[str(name)] = _leaning(votes.mismatch[rows], votes.weight[rows], overall.value)
    return Prevalence(overall, by_category)


def _likely(
    mismatches: NDArray[np.float64], matches: NDArray[np.float64], alerts: NDArray[np.bool_], error: float
) -> NDArray[np.float64]:
    """Return how likely each item is a mismatch, given how often a verdict is wrong."""
    told = (mismatches - matches) * math.log((1 - error) / error)
    likely = np.empty(len(told))
    for stratum in (alerts, ~alerts):
        if stratum.any():
            likely[stratum] = _likely_alike(told[stratum])
    return likely


def _likely_alike(told: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how likely items that were sampled alike are mismatches, by the log-odds that verdicts tell of each."""
    share = 0.5
    likely = told
    for _ in range(_EM_STEPS):
        likely = 1 / (1 + np.exp(-(told + math.log(share / (1 - share)))))
        share = min(max(float(likely.mean()), _LEAST_SHARE), 1 - _LEAST_SHARE)
    return likely


def _share(mismatch: NDArray[np.float64], weight: NDArray[np.float64]) -> Interval:
    if not len(mismatch):
        raise ValueError("no items were judged: there is no share of mismatches to tell")
    value = float(np.average(mismatch, weights=weight))
    spread = math.sqrt(float((weight**2 * (mismatch - value) ** 2).sum())) / float(weight.sum())
    return _interval(value, spread, _effective(weight))


def _leaning(mismatch: NDArray[np.float64], weight: NDArray[np.float64], overall: float) -> Interval:
    """Return a category's share, drawn toward the overall one as by so many more items."""
    effective = _effective(weight)
    own = float(np.average(mismatch, weights=weight))
    value = (own * effective + overall * _STRENGTH) / (effective + _STRENGTH)
    return _interval(value, 0.0, effective + _STRENGTH)


def _effective(weight: NDArray[np.float64]) -> float:
    """Return of how many items with equal weights these say as much. Source: Kish 1965, "Survey Sampling"."""
    return float(weight.sum() ** 2 / (weight**2).sum())


def _interval(value: float, spread: float, effective: float) -> Interval:
    """Return the interval on the log-odds, where it is nearly normal and stays between 0 and 1.

    None seen is not none there: the share is taken for that of half an item at least, and no surer than so many items
    that are drawn alike can be.
    """
    value = min(max(value, 0.5 / effective), 1 - 0.5 / effective)
    spread = max(spread, math.sqrt(value * (1 - value) / effective))
    odds, width = math.log(value / (1 - value)), _Z * spread / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(odds + side * width))) for side in (-1, 1))
    return Interval(value, low, high)
