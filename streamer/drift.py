"""Are products, scores, alerts and pictures' hosts still what they were when a release began to judge? Pure.

The first products that a release scores are its reference; the last ones are compared with it. Values (the score, and
statistics of picture and text) by the Kolmogorov-Smirnov statistic: the largest distance between the two cumulative
distributions, 0..1, which needs no bins and no shape. Shares (alerts by category and by host, failed fetches) by their
confidence intervals. With thousands of products any difference is significant, so what counts is how large it is.

Source: scipy.stats.ks_2samp (Hodges 1958, "The significance probability of the Smirnov two-sample test");
scipy.stats.binomtest (Wilson 1927).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from scipy import stats
from yarl import URL

from streamer.events import Features
from streamer.wire import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from streamer.events import DeadLetter, ProductScore

VALUES: Final = ("score", *Features.__struct_fields__)
"""What is compared as a distribution; `score` is the engine's logit, before calibration."""

FETCHES: Final = "failed_fetches"
OTHER: Final = "other"
SHOWN_GROUPS: Final = 20
"""Categories and hosts that are told apart, those with the most products: labels stay bounded, whatever a feed says."""

KEPT: Final = 2000
"""Products of a reference that are kept, drawn evenly: a distance of 0.05 is still told from none."""

CONFIDENCE: Final = 0.99
_FETCH_FAILURES: Final = "image_"  # how their reason codes begin

Kind = Literal["value", "category", "host", "fetches"]


class Seen(NamedTuple):
    """One scored product: its values (the order of VALUES), whether it alerts, and where it belongs."""

    values: tuple[float, ...]
    alerts: bool
    category: str
    host: str


class Tally(msgspec.Struct):
    """Of some products, how many alert; or of some fetches, how many failed."""

    total: int = 0
    positive: int = 0

    def add(self, positive: bool) -> None:
        self.total += 1
        self.positive += positive

    @property
    def share(self) -> float:
        return self.positive / self.total if self.total else 0.0

    def interval(self) -> tuple[float, float]:
        """Return the share's confidence interval."""
        if not self.total:
            return 0.0, 1.0
        found = stats.binomtest(self.positive, self.total).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What a release judged at first.

    values: of KEPT products, by name. categories, hosts: how many products alerted. fetches: how many failed.
    """

    schema_version: int = SCHEMA_VERSION
    release: str
    products: int
    values: dict[str, list[float]]
    categories: dict[str, Tally]
    hosts: dict[str, Tally]
    fetches: Tally


@dataclass(frozen=True)
class Limits:
    """From where on a difference is drift.

    distance: of a value's distribution, 0..1. factor, margin: a share drifts when it is surely above `factor` times
    what it was at most, plus `margin`, or as much below.
    """

    distance: float = 0.2
    factor: float = 2.0
    margin: float = 0.02


@dataclass(frozen=True)
class Statistic:
    """One comparison: `value` against `limit`; `reference` is what a share was, 0 for a distance."""

    kind: Kind
    name: str
    value: float
    limit: float
    reference: float
    drifted: bool

    @property
    def calls_for_retraining(self) -> bool:
        """Whether another engine would help: a host that does not answer needs none."""
        return self.drifted and self.kind != "fetches"


@dataclass
class Window:
    """The last products that one release has judged, and those that it judged first.

    Args:
        release: its name.
        size: products of the reference, and of what is compared with it.
        least: products without which nothing is compared.
        reference: known from an earlier run.
    """

    release: str
    size: int
    least: int
    reference: Reference | None = None
    _products: deque[Seen] = field(init=False)
    _fetches: deque[bool] = field(init=False)
    _first: list[Seen] = field(default_factory=list)
    _first_fetches: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._products = deque(maxlen=self.size)
        self._fetches = deque(maxlen=self.size)

    def add(self, score: ProductScore) -> None:
        """Take in an outcome of the release; of what it has not scored anew, nothing can be told."""
        seen = _seen(score)
        if seen is not None:
            self.take(seen)

    def take(self, seen: Seen) -> None:
        """Take in a scored product, whose picture was fetched."""
        self._fetched(failed=False)
        if self.reference is not None:
            self._products.append(seen)
            return
        self._first.append(seen)
        if len(self._first) >= self.size:
            self.reference = _reference(self.release, self._first, self._first_fetches)
            self._first.clear()

    def reject(self, letter: DeadLetter) -> None:
        """Take in a rejection: of a picture that could not be had, or for a reason that says nothing here."""
        if letter.reason.startswith(_FETCH_FAILURES):
            self._fetched(failed=True)

    def _fetched(self, *, failed: bool) -> None:
        if self.reference is None:
            self._first_fetches.add(failed)
        else:
            self._fetches.append(failed)

    @property
    def products(self) -> int:
        """How many there are to compare."""
        return len(self._products)

    def statistics(self, limits: Limits) -> Iterator[Statistic]:
        """Yield what can be compared now; nothing before there are enough products on both sides."""
        if self.reference is None or len(self._products) < self.least:
            return
        columns = list(zip(*(seen.values for seen in self._products), strict=True))
        for name, current in zip(VALUES, columns, strict=True):
            yield _distance(name, current, self.reference.values[name], limits)
        yield from self._shares("category", self.reference.categories, limits)
        yield from self._shares("host", self.reference.hosts, limits)
        yield _shift("fetches", FETCHES, _tally(self._fetches), self.reference.fetches, limits)

    def _shares(
        self, kind: Literal["category", "host"], known: dict[str, Tally], limits: Limits
    ) -> Iterator[Statistic]:
        current: dict[str, Tally] = {}
        for seen in self._products:
            group = getattr(seen, kind)
            current.setdefault(group if group in known else OTHER, Tally()).add(seen.alerts)
        everything = _sum(known.values())
        for name, tally in current.items():
            yield _shift(kind, name, tally, known.get(name, everything), limits)


def _distance(name: str, current: tuple[float, ...], reference: list[float], limits: Limits) -> Statistic:
    found: Any = stats.ks_2samp(np.array(current), np.array(reference), method="asymp")
    value = float(found.statistic)
    return Statistic("value", name, value, limits.distance, 0.0, value > limits.distance)


def _shift(kind: Kind, name: str, current: Tally, reference: Tally, limits: Limits) -> Statistic:
    """Compare shares by the ends of their intervals that are nearest to each other: few products prove little."""
    low, high = current.interval()
    was_low, was_high = reference.interval()
    above = limits.factor * was_high + limits.margin
    below = was_low / limits.factor - limits.margin
    crossed = below if high < below else above
    return Statistic(kind, name, current.share, crossed, reference.share, low > above or high < below)


def _seen(score: ProductScore) -> Seen | None:
    features = score.features
    if isinstance(features, msgspec.UnsetType) or not isinstance(score.logit, float):
        return None
    values = tuple(float(getattr(features, name)) for name in VALUES[1:])
    alerts = (score.probability or 0.0) >= (score.threshold or 1.0)
    return Seen((score.logit, *values), alerts, score.category or "", _host(score.image_url))


def _host(url: str | None) -> str:
    try:
        return URL(url or "").host or ""
    except Exception:  # noqa: BLE001 - as a feed wrote it: yarl raises ValueError, and IndexError for `http://[]@`
        return ""


def _reference(release: str, first: list[Seen], fetches: Tally) -> Reference:
    chosen = [first[number] for number in np.linspace(0, len(first) - 1, min(KEPT, len(first))).astype(int)]
    columns = zip(*(seen.values for seen in chosen), strict=True)
    return Reference(
        release=release,
        products=len(first),
        values={name: [round(value, 5) for value in column] for name, column in zip(VALUES, columns, strict=True)},
        categories=_groups(first, "category"),
        hosts=_groups(first, "host"),
        fetches=fetches,
    )


def _groups(first: list[Seen], kind: Literal["category", "host"]) -> dict[str, Tally]:
    """Return the tallies of the largest groups, and one of all others."""
    largest = dict(Counter(getattr(seen, kind) for seen in first).most_common(SHOWN_GROUPS))
    groups: dict[str, Tally] = {}
    for seen in first:
        group = getattr(seen, kind)
        groups.setdefault(group if group in largest else OTHER, Tally()).add(seen.alerts)
    return groups


def _tally(positives: deque[bool]) -> Tally:
    return Tally(len(positives), sum(positives))


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.total += tally.total
        total.positive += tally.positive
    return total
