"""What a shadow has said against what the champion said → how far they agree, over all and by category. Pure.

Two models may agree in order and not in scale, so their logits are compared by rank (Spearman) as well as by value
(Pearson). What matters to people is which alerts would open and which would close.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamer.shadow_events import AGREEMENTS, Agreement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from streamer.shadow_events import ShadowScore

NO_CATEGORY = "(none)"
_TINY = 1e-12  # a probability is never taken for 0 or 1


@dataclass
class Group:
    """Products that were compared.

    champion, challenger: logits. champion_margins, challenger_margins: how far the calibrated log-odds are above the
    threshold; from 0 on it alerts.
    """

    champion: list[float] = field(default_factory=list)
    challenger: list[float] = field(default_factory=list)
    champion_margins: list[float] = field(default_factory=list)
    challenger_margins: list[float] = field(default_factory=list)
    agreements: Counter[Agreement] = field(default_factory=Counter[Agreement])

    def add(self, score: ShadowScore) -> None:
        """Take in one product."""
        for logits, margins, one in (
            (self.champion, self.champion_margins, score.champion),
            (self.challenger, self.challenger_margins, score.challenger),
        ):
            logits.append(one.logit)
            margins.append(_log_odds(one.probability) - _log_odds(one.threshold))
        self.agreements[score.agreement] += 1

    @property
    def products(self) -> int:
        """How many there are."""
        return len(self.champion)

    @property
    def spearman(self) -> float | None:
        """Correlation of the logits' ranks, None where it is not defined."""
        return _correlation(_ranks(np.array(self.champion)), _ranks(np.array(self.challenger)))

    @property
    def pearson(self) -> float | None:
        """Correlation of the logits, None where it is not defined."""
        return _correlation(np.array(self.champion), np.array(self.challenger))

    @property
    def agreeing(self) -> float:
        """The share of products on which both alert, or neither does."""
        return (self.agreements["both"] + self.agreements["neither"]) / self.products

    @property
    def agreeing_interval(self) -> tuple[float, float]:
        """That share's 95 % interval. Source: Wilson 1927, "Probable inference, the law of succession"."""
        z, n, p = 1.96, self.products, self.agreeing
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        reach = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        return middle - reach, middle + reach

    def facts(self) -> dict[str, object]:
        """Return the figures by name, for programs."""
        low, high = self.agreeing_interval
        return {
            "products": self.products,
            "agreement": self.agreeing,
            "agreement_low": low,
            "agreement_high": high,
            "spearman": self.spearman,
            "pearson": self.pearson,
            **{name: self.agreements[name] for name in AGREEMENTS},
        }


@dataclass(frozen=True)
class Comparison:
    """One challenger against one champion."""

    champion: str
    challenger: str
    all: Group
    categories: dict[str, Group]

    def largest(self, count: int) -> list[tuple[str, Group]]:
        """Return the categories with the most products."""
        return sorted(self.categories.items(), key=lambda item: (-item[1].products, item[0]))[:count]


def compare(scores: Iterable[ShadowScore]) -> list[Comparison]:
    """Return a comparison for each pair of releases, the one with the most products first.

    An update that was delivered again, and compared again, counts once.
    """
    by_pair: defaultdict[tuple[str, str], dict[tuple[str, int, int], ShadowScore]] = defaultdict(dict)
    for score in scores:
        place = (score.source.topic, score.source.partition, score.source.offset)
        by_pair[score.champion.release, score.challenger.release][place] = score
    compared = [_comparison(*pair, told.values()) for pair, told in by_pair.items()]
    return sorted(compared, key=lambda one: -one.all.products)


def _comparison(champion: str, challenger: str, scores: Iterable[ShadowScore]) -> Comparison:
    everything, categories = Group(), defaultdict[str, Group](Group)
    for score in scores:
        everything.add(score)
        categories[score.category or NO_CATEGORY].add(score)
    return Comparison(champion, challenger, everything, dict(categories))


def _log_odds(probability: float) -> float:
    bounded = min(max(probability, _TINY), 1 - _TINY)
    return math.log(bounded / (1 - bounded))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the place of each value among all, equal ones sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return means[inverse]


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    if len(one) < 2 or not one.std() or not other.std():  # noqa: PLR2004 - of a single product there is none
        return None
    return float(np.corrcoef(one, other)[0, 1])
