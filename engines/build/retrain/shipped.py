"""Whether a challenger's calibration and thresholds may be shipped, and what they were chosen by can be believed.

Weights that hardly moved can still be shipped with thresholds at which everything alerts: those are chosen for the
share of wrong products that labels tell. So that share must be known (an audit was judged) and plausible (surely below
the target precision, else alerting on everything may keep it, and no label can object); and whatever labels say, right
products of the benchmark may not alert much more often than by the champion, in all or in a slice: more than the target
precision allows where a fifth is wrong is for people to decide. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engines import calibration
from engines.build.retrain import paired
from engines.build.retrain.decision import Reason, signed
from engines.build.retrain.paired import Answers
from engines.contract import top_level

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.build.retrain.decision import GateRules, Manifests, Observed
    from engines.build.retrain.frozen import FrozenSet
    from engines.build.retrain.paired import Gain, SliceTest
    from engines.calibration import Interval


def implausible(observed: Observed, rules: GateRules) -> list[Reason]:
    """Return why thresholds that were chosen by these labels cannot be right."""
    if observed.audited < rules.least_audited:
        return [
            Reason(
                "audit_missing",
                f"{observed.audited} labels are of the audit, {rules.least_audited} are the least: of alerts alone "
                "nobody knows how many products are wrong; let people judge some that did not alert "
                "(STREAMER_EVIDENCE__AUDIT_SHARE)",
            )
        ]
    overall, by_category = observed.prevalence
    shares = {"all": overall} | by_category
    return [
        Reason(
            "prevalence_implausible",
            f"{name}: by its labels {share.value:.2f} [{share.low:.2f}, {share.high:.2f}] of the products are wrong, "
            f"not surely fewer than at which alerting on all of them has the target precision of {rules.precision:g}: "
            "were verdicts exchanged? If it is so, promote by hand; if it is not, a larger audit shows it",
        )
        for name, share in shares.items()
        if share.high >= (rules.precision if rules.implausible is None else rules.implausible)
    ]


def margins(asked: FrozenSet, answers: Answers, manifests: Manifests) -> Answers:
    """Return each engine's probability less its threshold; (M,) each, not below 0 where it alerts."""
    products = [asked.catalog.products[i] for i in asked.pairs.product.tolist()]
    return Answers(
        *(
            calibration.apply(manifest.calibration, logits)
            - np.array([manifest.threshold_of(top_level(product.category)) for product in products])
            for manifest, logits in zip(manifests, answers, strict=True)
        )
    )


def unfit(over: NDArray[np.float64], reached: Interval, shipped: Gain, rules: GateRules) -> list[Reason]:
    """Return what held-out labels say against what the challenger is shipped with; `over` as `margins`."""
    if not (over >= 0).any():
        return [Reason("no_alerts", "with its own thresholds the challenger alerts on none of the held-out labels")]
    reasons = [_missed(reached, rules)] if reached.high < rules.precision else []
    if shipped.difference.low < -rules.labels_margin:
        reasons.append(
            Reason(
                "recall_missed",
                f"with its own thresholds the challenger finds {shipped.challenger.value:.3f} of the mismatches among "
                f"held-out labels, the champion {shipped.champion.value:.3f} with its own: a difference of "
                f"{signed(shipped.difference)}, and {-rules.labels_margin:+.3f} is the margin",
            )
        )
    return reasons


def _missed(reached: Interval, rules: GateRules) -> Reason:
    return Reason(
        "precision_missed",
        f"of the challenger's alerts among held-out labels {reached.value:.3f} [{reached.low:.3f}, {reached.high:.3f}] "
        f"would be right, surely fewer than {rules.precision:g}",
    )


def alarms(benchmark: FrozenSet, both: Answers, rules: GateRules) -> list[SliceTest]:
    """Return how many right products of the benchmark, and of its slices, alert by what each engine is shipped with."""
    return [
        test._replace(name=f"{benchmark.name}, {test.name}")
        for test in paired.alarm_tests(benchmark, both, samples=rules.samples)
    ]


def risen(test: SliceTest, margin: float) -> Reason:
    """Return that so many more alert."""
    return Reason(
        "alarms_risen",
        f"{test.name}: with its own thresholds the challenger alerts on {test.challenger:.3f} of {test.pairs} right "
        f"products, the champion on {test.champion:.3f} with its own, and {margin:.3f} more is the margin: "
        "look at the thresholds, and at the share of wrong products that labels tell; if that is so, promote by hand",
    )
