"""What the gate holds a challenger to, and what it says. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engines.build.retrain import paired
from engines.build.retrain.agreement import Agreement  # noqa: TC001 - msgspec reads the annotations
from engines.build.retrain.paired import Gain, SliceTest  # noqa: TC001 - as above
from engines.calibration import Interval  # noqa: TC001 - as above

if TYPE_CHECKING:
    from engines.build.retrain.votes import Prevalence
    from engines.contract import Manifest


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """What a challenger is held to.

    precision: at which recalls are compared. alpha: the chance of each wrong refusal, and of passing with a loss of a
    margin. least_labels: mismatches, and matches, among held-out labels without which nothing is shown. least_audited:
    labels of the audit without which nobody knows how many products are wrong. alarm_margin: by how much the share of
    right products that alert with the thresholds that are shipped may rise above what the precision allows where so
    many products are wrong as labels tell, most_wrong at most. implausible: the share of wrong products from which
    labels are not believed, all or those of a category; None: the precision.
    """

    precision: float = 0.5
    alpha: float = 0.05
    benchmark_margin: float = 0.02
    labels_margin: float = 0.05
    slice_margin: float = 0.1
    false_alarm_margin: float = 0.05
    alarm_margin: float = 0.05
    most_wrong: float = 0.2
    implausible: float | None = None
    least_labels: int = 15
    least_audited: int = 30
    samples: int = paired.SAMPLES

    def slice_margins(self, prevalence: float) -> dict[str, float]:
        """Return what a slice may lose, by `SliceTest.what`, where this share of the products is wrong."""
        wrong = min(prevalence, self.most_wrong)
        allowed = wrong / (1 - wrong) * (1 - self.precision) / self.precision
        return {
            paired.RECALL: self.slice_margin,
            paired.FALSE_ALARMS: self.false_alarm_margin,
            paired.ALARMS: allowed + self.alarm_margin,
        }


class Manifests(NamedTuple):
    """Of champion and challenger."""

    champion: Manifest
    challenger: Manifest


class Observed(NamedTuple):
    """How many products are wrong, and how many labels of the audit say so."""

    prevalence: Prevalence
    audited: int


class Reason(msgspec.Struct, frozen=True):
    """Why a challenger is refused: a stable code, and words for people.

    Codes: benchmark_loss, benchmark_inconclusive, labels_loss, labels_inconclusive, labels_too_few, labels_contradict,
    audit_missing, prevalence_implausible, no_alerts, precision_missed, recall_missed, alarms_risen, slice_loss; and
    those of `engines.errors` for a challenger that is not whole, does not load or does not answer.
    """

    code: str
    message: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says, and what it was said by.

    gains: by the name of the set. shipped: the recall on labels, of each engine with its own thresholds. alarms: right
    products of the benchmark that alert by those. harmed, contradicted: which of slices and alarms, of the agreements.
    """

    promote: bool
    reasons: tuple[Reason, ...]
    gains: dict[str, Gain] = {}
    shipped: Gain | None = None
    precision: Interval | None = None
    slices: tuple[SliceTest, ...] = ()
    alarms: tuple[SliceTest, ...] = ()
    harmed: tuple[str, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    contradicted: tuple[str, ...] = ()


def refuse(code: str, message: str) -> Decision:
    """Return the refusal of a challenger that could not be compared."""
    return Decision(promote=False, reasons=(Reason(code, message),))


def signed(interval: Interval) -> str:
    """Return a difference with its interval, for people."""
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
