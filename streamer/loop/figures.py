"""What the loop was good for: recall at precision 0.5 of both engines on the same updates, and what the swap lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engines import calibration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from engines.calibration import Interval
    from streamer.loop.ledger import Judged
    from streamer.loop.season import Kind, Offer

PRECISION: Final = 0.5
PREVALENCE: Final = 0.05
LEAST_GAIN: Final = 0.15
MOST_LOSS: Final = 0.01
_SAMPLES: Final = 500


@dataclass(frozen=True)
class Scored:
    """One kind of product, scored by both engines; arrays (M,)."""

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    wrong: NDArray[np.int64]
    groups: NDArray[np.int64]


@dataclass(frozen=True)
class Recall:
    """At precision 0.5, with 95 % intervals; `gain` is of the same draws."""

    before: Interval
    after: Interval
    gain: Interval


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a loop ended.

    `superseded` updates were overtaken by a newer one of their product, `rejected` ones are dead letters, as of
    pictures that a busy host is late with.
    """

    recalls: dict[Kind, Recall]
    published: int
    lost: int
    doubled: int
    rejected: int
    superseded: int
    champion: str
    challenger: str | None
    labels: int
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]

    @property
    def kept(self) -> bool:
        """Whether each update had exactly one outcome."""
        return not self.lost and not self.doubled

    @property
    def reached(self) -> bool:
        """Whether the loop did what it is for."""
        new, old = self.recalls.get("new"), self.recalls.get("old")
        if new is None or old is None:
            return False
        return self.kept and new.gain.value >= LEAST_GAIN and old.gain.value >= -MOST_LOSS

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain numbers."""
        return {
            "recall_at_precision": PRECISION,
            "prevalence": PREVALENCE,
            "recalls": {
                kind: {"before": list(recall.before), "after": list(recall.after), "gain": list(recall.gain)}
                for kind, recall in self.recalls.items()
            },
            "published": self.published,
            "lost": self.lost,
            "doubled": self.doubled,
            "rejected": self.rejected,
            "superseded": self.superseded,
            "champion": self.champion,
            "challenger": self.challenger,
            "labels": self.labels,
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "cpu_seconds": {name: round(value, 1) for name, value in self.cpu_seconds.items()},
            "reached": self.reached,
        }


def scored(
    offers: Sequence[Offer], before: Mapping[str, Judged], after: Mapping[str, Judged], kind: Kind
) -> Scored | None:
    """Return what both engines made of the offers of a kind, None where one of them judged none."""
    rows = [
        (old.probability, new.probability, offer)
        for offer in offers
        if offer.kind == kind and (old := before.get(offer.id)) and (new := after.get(offer.id))
        if old.probability is not None and new.probability is not None
    ]
    if len({offer.wrong for _, _, offer in rows}) < 2:  # noqa: PLR2004 - right and wrong ones
        return None
    groups = {group: number for number, group in enumerate(sorted({offer.group for _, _, offer in rows}))}
    return Scored(
        before=np.array([row[0] for row in rows], dtype=np.float64),
        after=np.array([row[1] for row in rows], dtype=np.float64),
        wrong=np.array([row[2].wrong for row in rows], dtype=np.int64),
        groups=np.array([groups[row[2].group] for row in rows], dtype=np.int64),
    )


def recall(measured: Scored) -> Recall:
    """Return the recalls, with intervals that draw the products of one item together."""

    def statistics(rows: NDArray[np.floating], labels: NDArray[np.integer]) -> list[float]:
        before, after = (
            calibration.recall_at_precision(rows[:, way], labels, prevalence=PREVALENCE, precision=PRECISION)
            for way in (0, 1)
        )
        return [before, after, after - before]

    columns = np.stack([measured.before, measured.after], axis=1)
    found = calibration.bootstrap(statistics, columns, measured.wrong, groups=measured.groups, samples=_SAMPLES)
    return Recall(*found)
