"""Whether a challenger may take the champion's place: everything that must hold, and a typed reason for what does not.

Two sets decide, and both must let it through, so neither needs a correction for the other:

* benchmark: recall at the target precision may not be worse by `benchmark_margin`, with a one-sided confidence of
  1 - alpha (a paired bootstrap, items drawn whole: non-inferiority).
* labels: the same, with `labels_margin`. What scorers will run is held to it, too: with its own calibration and
  thresholds the challenger alerts, does not surely miss the target precision, and has the recall that the champion has
  with its own; and it does not alert much more often on right products of the benchmark (`shipped`).

Slices (category, brand, language, image size) of both sets guard against harm that an average hides: none may surely
lose, in recall or by false alarms, and lose more than its margin (`paired.harms`). All tests share one `alpha` by
Holm's method, so that a harmless challenger is seldom refused by chance, however many slices there are. What slices are
too small to show is not shown: a slice with fewer than 30 pairs of a class, or of fewer than 5 items, is judged with
the other small ones, and the model card says of each slice what loss would have been noticed.

Labels guard the gate itself: where the challenger that learned from them answers the opposite of those held out, in all
or in a slice, verdicts were exchanged, and nothing that they say of the challenger can be believed (`agreement`).

No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from engines.build.retrain import paired, shipped
from engines.build.retrain.agreement import agreements, contradicted
from engines.build.retrain.decision import Decision, Reason, signed
from engines.build.retrain.frozen import BENCHMARK, LABELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engines.build.retrain.agreement import Agreement
    from engines.build.retrain.decision import GateRules, Manifests, Observed
    from engines.build.retrain.frozen import FrozenSet
    from engines.build.retrain.paired import Answers, Gain, SliceTest
    from engines.calibration import Interval

    T = TypeVar("T")

_LOSS: Final = {BENCHMARK: "benchmark_loss", LABELS: "labels_loss"}
_INCONCLUSIVE: Final = {BENCHMARK: "benchmark_inconclusive", LABELS: "labels_inconclusive"}


def judge(
    sets: Mapping[str, FrozenSet],
    answers: Mapping[str, Answers],
    manifests: Manifests,
    observed: Observed,
    rules: GateRules,
) -> Decision:
    """Return whether the challenger may be promoted.

    Args:
        sets: `BENCHMARK` and `LABELS`.
        answers: of both engines, for each set.
        manifests: of both; with their calibration and thresholds it is decided what alerts.
        observed: what the challenger's thresholds were chosen by.
        rules: what it is held to.
    """
    few = _too_few(sets[LABELS], rules)
    reasons = ([few] if few else []) + shipped.implausible(observed, rules)
    asked = {name: one for name, one in sets.items() if name == BENCHMARK or not few}
    gains = {
        name: paired.recall_gain(
            one, answers[name], precision=rules.precision, alpha=rules.alpha, samples=rules.samples
        )
        for name, one in asked.items()
    }
    allowed = {BENCHMARK: rules.benchmark_margin, LABELS: rules.labels_margin}
    reasons += [reason for name, gain in gains.items() if (reason := _loss(name, gain, allowed[name], rules))]
    over = {name: shipped.margins(one, answers[name], manifests) for name, one in asked.items()}
    reached, gain, agreed = None, None, []
    if LABELS in asked:
        reached, gain = _shipped_on_labels(asked[LABELS], over[LABELS], rules)
        reasons += shipped.unfit(over[LABELS].challenger, reached, gain, rules)
        agreed = agreements(asked[LABELS], answers[LABELS].challenger)
    opposed = _where(agreed, contradicted(agreed, rules.alpha))
    slices = [test for name, one in asked.items() for test in _slices(one, answers[name], rules)]
    alarms = shipped.alarms(sets[BENCHMARK], over[BENCHMARK], rules)
    may_lose = rules.slice_margins(observed.prevalence.overall.value)
    harmed, risen = (_where(tests, paired.harms(tests, may_lose, rules.alpha)) for tests in (slices, alarms))
    reasons += [_contradiction(one) for one in opposed]
    reasons += [_harm(test, may_lose[test.what]) for test in harmed]
    reasons += [shipped.risen(test, may_lose[test.what]) for test in risen]
    return Decision(
        promote=not reasons,
        reasons=tuple(reasons),
        gains=gains,
        shipped=gain,
        precision=reached,
        slices=tuple(slices),
        alarms=tuple(alarms),
        harmed=tuple(f"{test.name}, {test.what}" for test in (*harmed, *risen)),
        agreements=tuple(agreed),
        contradicted=tuple(one.name for one in opposed),
    )


def _where(tests: Sequence[T], found: Sequence[bool]) -> list[T]:
    return [test for test, chosen in zip(tests, found, strict=True) if chosen]


def _shipped_on_labels(labels: FrozenSet, over: Answers, rules: GateRules) -> tuple[Interval, Gain]:
    """Return the precision of the challenger's own decisions, and the recall of both engines' own."""
    return (
        paired.precision_reached(labels, over.challenger, alpha=rules.alpha, samples=rules.samples),
        paired.recall_shipped(labels, over, precision=rules.precision, alpha=rules.alpha, samples=rules.samples),
    )


def _too_few(labels: FrozenSet, rules: GateRules) -> Reason | None:
    kinds = [int((labels.plain & (labels.pairs.label == label)).sum()) for label in (1, 0)]
    if min(kinds) >= rules.least_labels:
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
        f"{gain.champion.value:.3f}: a difference of {signed(gain.difference)}, and {-margin:+.3f} is the margin"
    )
    if lost:
        return Reason(_LOSS[name], words)
    return Reason(_INCONCLUSIVE[name], f"{words}; with so few pairs no loss is not shown")


def _slices(asked: FrozenSet, answers: Answers, rules: GateRules) -> list[SliceTest]:
    tests = paired.slice_tests(asked, answers, precision=rules.precision, samples=rules.samples)
    return [test._replace(name=f"{asked.name}, {test.name}") for test in tests]


def _harm(test: SliceTest, margin: float) -> Reason:
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
