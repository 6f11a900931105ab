"""Whether a challenger may take the champion's place: everything that must hold, and a typed reason for what does not.

Two sets decide, and both must let it through, so neither needs a correction for the other:

* benchmark: recall at the target precision may not be worse by `benchmark_margin`, with a one-sided confidence of
  1 - alpha (a paired bootstrap, items drawn whole: non-inferiority).
* labels: the same, with `labels_margin`. What scorers will run is held to it, too: with its own calibration and
  thresholds the challenger alerts, does not surely miss the target precision, and has the recall that the champion has
  with its own.

Slices (category, brand, language, image size) of both sets guard against harm that an average hides: none may surely
lose, in recall or by false alarms, and lose more than its margin (`paired.harms`). All tests share one `alpha` by
Holm's method, so that a harmless challenger is seldom refused by chance, however many slices there are. What slices are
too small to show is not shown: a slice with fewer than 30 pairs of a class is judged with the other small ones, and the
model card says of each slice what loss would have been noticed.

Labels guard the gate itself: where the challenger that learned from them answers the opposite of those held out, in all
or in a slice, verdicts were exchanged, and nothing that they say of the challenger can be believed (`agreement`).

No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from engines import calibration
from engines.build.retrain import paired
from engines.build.retrain.agreement import Agreement, agreements, contradicted
from engines.build.retrain.frozen import BENCHMARK, LABELS
from engines.build.retrain.paired import Answers, Gain, SliceTest
from engines.calibration import Interval  # noqa: TC001 - msgspec reads the annotations
from engines.contract import top_level

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from engines.build.retrain.frozen import FrozenSet
    from engines.contract import Manifest

_COUNTED: Final = 1e-9
_LOSS: Final = {BENCHMARK: "benchmark_loss", LABELS: "labels_loss"}
_INCONCLUSIVE: Final = {BENCHMARK: "benchmark_inconclusive", LABELS: "labels_inconclusive"}


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """What a challenger is held to.

    precision: at which recalls are compared. alpha: the chance of each wrong refusal, and of passing with a loss of a
    margin. least_labels: mismatches, and matches, among held-out labels without which nothing is shown.
    """

    precision: float = 0.5
    alpha: float = 0.05
    benchmark_margin: float = 0.02
    labels_margin: float = 0.05
    slice_margin: float = 0.1
    false_alarm_margin: float = 0.05
    least_labels: int = 15
    samples: int = paired.SAMPLES

    @property
    def slice_margins(self) -> dict[str, float]:
        """Return what a slice may lose, by `SliceTest.what`."""
        return {"recall": self.slice_margin, "false alarms": self.false_alarm_margin}


class Manifests(NamedTuple):
    """Of champion and challenger."""

    champion: Manifest
    challenger: Manifest


class Reason(msgspec.Struct, frozen=True):
    """Why a challenger is refused: a stable code, and words for people.

    Codes: benchmark_loss, benchmark_inconclusive, labels_loss, labels_inconclusive, labels_too_few, labels_contradict,
    no_alerts, precision_missed, recall_missed, slice_loss; and those of `engines.errors` for a challenger that is not
    whole, does not load or does not answer.
    """

    code: str
    message: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says, and what it was said by.

    gains: by the name of the set. shipped: the recall on labels, of each engine with its own thresholds. harmed,
    contradicted: which of the slices, of the agreements.
    """

    promote: bool
    reasons: tuple[Reason, ...]
    gains: dict[str, Gain] = {}
    shipped: Gain | None = None
    precision: Interval | None = None
    slices: tuple[SliceTest, ...] = ()
    harmed: tuple[str, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    contradicted: tuple[str, ...] = ()


def refuse(code: str, message: str) -> Decision:
    """Return the refusal of a challenger that could not be compared."""
    return Decision(promote=False, reasons=(Reason(code, message),))


def judge(
    sets: Mapping[str, FrozenSet],
    answers: Mapping[str, Answers],
    manifests: Manifests,
    rules: GateRules,
) -> Decision:
    """Return whether the challenger may be promoted.

    Args:
        sets: `BENCHMARK` and `LABELS`.
        answers: of both engines, for each set.
        manifests: of both; with their calibration and thresholds it is decided what alerts.
        rules: what it is held to.
    """
    few = _too_few(sets[LABELS], rules)
    reasons = [few] if few else []
    asked = {name: one for name, one in sets.items() if name == BENCHMARK or not few}
    gains = {
        name: paired.recall_gain(
            one, answers[name], precision=rules.precision, alpha=rules.alpha, samples=rules.samples
        )
        for name, one in asked.items()
    }
    margins = {BENCHMARK: rules.benchmark_margin, LABELS: rules.labels_margin}
    reasons += [reason for name, gain in gains.items() if (reason := _loss(name, gain, margins[name], rules))]
    reached, shipped, agreed = None, None, []
    if LABELS in asked:
        margins_of = _margins(sets[LABELS], answers[LABELS], manifests)
        reached = paired.precision_reached(
            sets[LABELS], margins_of.challenger, alpha=rules.alpha, samples=rules.samples
        )
        shipped = paired.recall_shipped(
            sets[LABELS], margins_of, precision=rules.precision, alpha=rules.alpha, samples=rules.samples
        )
        reasons += _unfit(margins_of.challenger, reached, shipped, rules)
        agreed = agreements(sets[LABELS], answers[LABELS].challenger)
    opposed = [one for one, opposite in zip(agreed, contradicted(agreed, rules.alpha), strict=True) if opposite]
    reasons += [_contradiction(one) for one in opposed]
    slices = [test for name, one in asked.items() for test in _slices(one, answers[name], rules)]
    harmed = paired.harms(slices, rules.slice_margins, rules.alpha)
    reasons += [_harm(test, rules) for test, harms in zip(slices, harmed, strict=True) if harms]
    return Decision(
        promote=not reasons,
        reasons=tuple(reasons),
        gains=gains,
        shipped=shipped,
        precision=reached,
        slices=tuple(slices),
        harmed=tuple(f"{test.name}, {test.what}" for test, harms in zip(slices, harmed, strict=True) if harms),
        agreements=tuple(agreed),
        contradicted=tuple(one.name for one in opposed),
    )


def _too_few(labels: FrozenSet, rules: GateRules) -> Reason | None:
    counted = [float(labels.weights[labels.pairs.label == label].sum()) for label in (1, 0)]
    kinds = [int((labels.pairs.label == label).sum()) for label in (1, 0)]
    if min(kinds) >= rules.least_labels and min(counted) > _COUNTED:
        return None
    return Reason(
        "labels_too_few",
        f"{kinds[0]} mismatches and {kinds[1]} matches are held out of the confirmed labels, {rules.least_labels} of "
        "each are the least: gather more, a larger audit finds more mismatches",
    )


def _loss(name: str, gain: Gain, margin: float, rules: GateRules) -> Reason | None:
    if gain.difference.low >= -margin:
        return None
    lost = gain.difference.high < 0 or gain.difference.value < -margin
    words = (
        f"recall at precision {rules.precision:g} on the {name} is {gain.challenger.value:.3f}, the champion's "
        f"{gain.champion.value:.3f}: a difference of {_signed(gain.difference)}, and {-margin:+.3f} is the margin"
    )
    if lost:
        return Reason(_LOSS[name], words)
    return Reason(_INCONCLUSIVE[name], f"{words}; with so few pairs no loss is not shown")


def _margins(labels: FrozenSet, answers: Answers, manifests: Manifests) -> Answers:
    """Return each engine's probability less its threshold; (M,) each, not below 0 where it alerts."""
    products = [labels.catalog.products[i] for i in labels.pairs.product.tolist()]
    return Answers(
        *(
            calibration.apply(manifest.calibration, logits)
            - np.array([manifest.threshold_of(top_level(product.category)) for product in products])
            for manifest, logits in zip(manifests, answers, strict=True)
        )
    )


def _unfit(margins: NDArray[np.float64], reached: Interval, shipped: Gain, rules: GateRules) -> list[Reason]:
    """Return what is wrong with the challenger's own calibration and thresholds."""
    if not (margins >= 0).any():
        return [Reason("no_alerts", "with its own thresholds the challenger alerts on none of the held-out labels")]
    reasons = [_missed(reached, rules)] if reached.high < rules.precision else []
    if shipped.difference.low < -rules.labels_margin:
        reasons.append(
            Reason(
                "recall_missed",
                f"with its own thresholds the challenger finds {shipped.challenger.value:.3f} of the mismatches among "
                f"held-out labels, the champion {shipped.champion.value:.3f} with its own: a difference of "
                f"{_signed(shipped.difference)}, and {-rules.labels_margin:+.3f} is the margin",
            )
        )
    return reasons


def _missed(reached: Interval, rules: GateRules) -> Reason:
    return Reason(
        "precision_missed",
        f"of the challenger's alerts among held-out labels {reached.value:.3f} [{reached.low:.3f}, {reached.high:.3f}] "
        f"would be right, surely fewer than {rules.precision:g}",
    )


def _slices(asked: FrozenSet, answers: Answers, rules: GateRules) -> list[SliceTest]:
    tests = paired.slice_tests(asked, answers, precision=rules.precision, samples=rules.samples)
    return [test._replace(name=f"{asked.name}, {test.name}") for test in tests]


def _harm(test: SliceTest, rules: GateRules) -> Reason:
    margin = rules.slice_margins[test.what]
    return Reason(
        "slice_loss",
        f"{test.name}: {test.what} went from {test.champion:.3f} to {test.challenger:.3f} on {test.pairs} pairs: "
        f"{test.lost:.3f} worse, and {margin:g} is the margin (p = {test.p_value:.2g} that nothing is lost)",
    )


def _contradiction(one: Agreement) -> Reason:
    return Reason(
        "labels_contradict",
        f"{one.name}: among {one.mismatches} held-out mismatches and {one.matches} matches a mismatch scores above a "
        f"match with a chance of {one.auc:.2f}, surely below one half, though the challenger learned from labels like "
        "these: were verdicts exchanged? Look at these labels, and who gave them",
    )


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
