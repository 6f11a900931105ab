"""Whether a threshold can keep the promise of a precision, and what most likely stands in the way where none can.

The catalogue's own pairs are taken for right. Those that are wrong, and look so, alert as swaps do, and count against
the engine: where a share p are swaps, and a share e of the other pairs is wrong, measured precision is at most
p / (p + (1 - p) e), however good the engine is. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from engines import calibration

if TYPE_CHECKING:
    from engines.build.thresholds import Scored, Target

_BELIEVABLE: Final = 0.25
"""More own pairs than this are hardly wrong in any catalogue: then it is the engine that cannot tell."""

_LEAST_RECALL: Final = 0.05
"""A threshold that finds less than this share of the wrong pictures reaches a precision by chance, or in vain."""


class Shortfall(NamedTuple):
    """The greatest precision of a threshold that finds anything, where that is not the precision that is aimed at."""

    precision: float
    prevalence: float
    best: float

    @property
    def wrong_share(self) -> float:
        """The share e of own pairs that are wrong, if that is what keeps the best precision down: 0..1."""
        return self.prevalence * (1 - self.best) / ((1 - self.prevalence) * self.best)

    def as_dict(self) -> dict[str, Any]:
        """Return it for the manifest, in numbers and in words."""
        return {
            "best_precision": round(self.best, 4),
            "wrong_share": round(self.wrong_share, 4),
            "words": self.words(),
        }

    def words(self) -> str:
        """Return what is out of reach, why, and what to do."""
        reach = (
            f"precision {self.precision:.2f} is out of reach where {self.prevalence:.1%} of the pictures are wrong: on "
            f"validation pairs no threshold that finds {_LEAST_RECALL:.0%} of the wrong ones has more than "
            f"{self.best:.2f}, so alerts will be next to none, or right less often."
        )
        if self.wrong_share > _BELIEVABLE:
            return (
                f"{reach} The likely reason: the engine hardly tells right pictures from wrong ones. More products or "
                "more epochs help, or texts that say what a picture shows."
            )
        return (
            f"{reach} The likely reason: some of the catalogue's own pairs, which are taken for right, are wrong. "
            f"Where a share e of them is, measured precision is at most p / (p + (1 - p) e): {self.best:.2f} is what "
            f"e = {self.wrong_share:.1%} allows. Correct or remove what the report shows as suspicious and train "
            "again, or state another --prevalence or --precision."
        )


def shortfall(pairs: Scored, target: Target) -> Shortfall | None:
    """Return how far the target is out of reach of one threshold for all; None where it is not."""
    points = calibration.operating_points(
        pairs.scores, pairs.labels, prevalence=target.prevalence, weights=pairs.weights
    )
    best = float(points.precisions[points.recalls >= _LEAST_RECALL].max())
    return None if best >= target.precision else Shortfall(target.precision, target.prevalence, best)
