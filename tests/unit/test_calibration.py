"""`engines.calibration`: known answers on drawn logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engines import calibration
from engines.contract import Calibration

if TYPE_CHECKING:
    from engines.calibration import Floats, Labels


def drawn(count: int = 4000, separation: float = 2.0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return scores of two unit normals `separation` apart, and their labels."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 2
    return generator.normal(separation * (labels - 0.5), 1.0), labels


def test_apply_is_the_scaled_sigmoid() -> None:
    """Probabilities are sigmoid(scale * logit + shift), also far out."""
    probabilities = calibration.apply(Calibration(scale=2.0, shift=-1.0), np.array([-1e4, 0.5, 1e4], dtype=np.float32))
    assert probabilities.tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_fit_platt_recovers_the_log_odds() -> None:
    """Two normals one sigma wide, two apart, have log-odds of twice the score."""
    logits, labels = drawn()
    fitted = calibration.fit_platt(logits, labels)
    assert fitted.scale == pytest.approx(2.0, abs=0.15)
    assert fitted.shift == pytest.approx(0.0, abs=0.1)


def test_fit_platt_stated_prevalence_shifts_by_its_log_odds() -> None:
    """At 5 % prevalence the same logits mean log(0.05 / 0.95) less."""
    logits, labels = drawn()
    balanced = calibration.fit_platt(logits, labels)
    rare = calibration.fit_platt(logits, labels, prevalence=0.05)
    assert rare.shift - balanced.shift == pytest.approx(np.log(0.05 / 0.95), abs=0.2)


def test_fit_platt_perfect_separation_stays_finite() -> None:
    """Smoothed targets keep the scale finite."""
    fitted = calibration.fit_platt(np.array([-9.0, -8.0, 8.0, 9.0]), np.array([0, 0, 1, 1]))
    assert np.isfinite([fitted.scale, fitted.shift]).all()
    assert fitted.scale > 0


def test_fit_platt_one_class_is_an_error() -> None:
    """Nothing can be fitted to one class."""
    with pytest.raises(ValueError, match="both are needed"):
        calibration.fit_platt(np.zeros(3), np.ones(3, dtype=int))


def test_threshold_for_precision_reweighs_to_the_prevalence() -> None:
    """With one false alarm in ten matches, precision at 5 % is 0.05 / (0.05 + 0.95 * 0.1), not one half."""
    scores = np.concatenate([np.full(10, 0.9), [0.9], np.full(9, 0.1)])
    labels = np.array([1] * 10 + [0] * 10)
    reached = calibration.at_threshold(scores, labels, prevalence=0.05, threshold=0.5)
    assert reached == pytest.approx((1.0, 0.05 / (0.05 + 0.95 * 0.1)))
    assert calibration.threshold_for_precision(scores, labels, prevalence=0.05, precision=0.5) is None
    assert calibration.threshold_for_precision(scores, labels, prevalence=0.5, precision=0.5) is not None


def test_threshold_for_precision_keeps_its_promise() -> None:
    """The decision at the threshold has the precision that was asked for and the recall that was promised."""
    scores, labels = drawn(separation=5.0)
    threshold = calibration.threshold_for_precision(scores, labels, prevalence=0.05, precision=0.8)
    assert threshold is not None
    recall, precision = calibration.at_threshold(scores, labels, prevalence=0.05, threshold=threshold)
    assert precision >= 0.8
    assert recall == calibration.recall_at_precision(scores, labels, prevalence=0.05, precision=0.8)


def test_average_precision_weighs_precision_by_the_recall_it_adds() -> None:
    """Two mismatches, first and third of four: precision 1 for half of the recall, 2 of 3 for the other half."""
    scores, labels = np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 1, 0])
    assert calibration.average_precision(scores, labels, prevalence=0.5) == pytest.approx((1 + 2 / 3) / 2)
    rare = calibration.average_precision(scores, labels, prevalence=0.05)
    assert rare == pytest.approx((1 + 0.05 / (0.05 + 0.95 / 2)) / 2)


def test_auc_ties_count_half() -> None:
    """Scores that say nothing have an AUC of one half."""
    assert calibration.auc(np.zeros(10), np.arange(10) % 2) == 0.5
    assert calibration.auc(np.arange(10.0), (np.arange(10) >= 5).astype(int)) == 1.0


@pytest.mark.parametrize("prevalence", [0.0, 1.0])
def test_points_of_a_catalogue_that_is_all_right_or_all_wrong_are_numbers(prevalence: float) -> None:
    """A threshold that alerts nothing that counts decides nothing."""
    points = calibration.operating_points(np.array([3.0, 2.0, 1.0]), np.array([1, 0, 1]), prevalence=prevalence)
    assert len(points.precisions)
    assert np.isfinite(points.precisions).all()
    points = calibration.operating_points(np.array([3.0, 2.0, 1.0]), np.array([0, 1, 1]), prevalence=prevalence)
    assert set(points.precisions) == {prevalence}


def of_auc(
    scores: Floats, labels: Labels, *, samples: int, seed: int = 0, groups: Labels | None = None
) -> calibration.Interval:
    """Return the AUC with its interval."""
    (interval,) = calibration.bootstrap(
        lambda s, t: [calibration.auc(s, t)], scores, labels, groups=groups, samples=samples, seed=seed
    )
    return interval


def test_curve_gives_the_points_of_every_prevalence() -> None:
    """Sorted once: at each threshold recall and precision are those of the decision, ties on one side together."""
    scores, labels = np.array([3.0, 2.0, 2.0, 1.0, 0.0]), np.array([1, 0, 1, 1, 0])
    curve = calibration.roc_curve(scores, labels)
    assert curve.thresholds.tolist() == [2.5, 1.5, 0.5, 0.0]
    for prevalence in (0.01, 0.05, 0.5):
        points = curve.at(prevalence)
        decided = [
            calibration.at_threshold(scores, labels, prevalence=prevalence, threshold=float(t))
            for t in curve.thresholds
        ]
        assert np.stack([points.recalls, points.precisions], axis=1) == pytest.approx(np.array(decided))
    assert curve.auc() == pytest.approx((3 + 1.5) / 6)


def test_bootstrap_interval_holds_the_value_and_repeats() -> None:
    """The interval surrounds the figure and is the same for the same seed."""
    scores, labels = drawn(400)
    first = of_auc(scores, labels, samples=50, seed=3)
    assert first.low < first.value < first.high
    assert first == of_auc(scores, labels, samples=50, seed=3)


def test_bootstrap_draws_related_pairs_together() -> None:
    """Ten copies of each pair know no more than one: grouped, the interval stays as wide; alone, it shrinks."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    scores = generator.normal(size=80) + labels
    groups = np.arange(80)
    copies = [np.repeat(array, 10) for array in (scores, labels, groups)]
    once = of_auc(scores, labels, groups=groups, samples=200)
    together = of_auc(copies[0], copies[1], groups=copies[2], samples=200)
    alone = of_auc(copies[0], copies[1], samples=200)
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.05)
    assert alone.high - alone.low < 0.5 * (together.high - together.low)


def test_bootstrap_draws_again_where_a_class_is_missing() -> None:
    """Two groups of one class each: half of the draws would have no figure."""
    scores, labels = np.array([0.0, 1.0]), np.array([0, 1])
    interval = of_auc(scores, labels, groups=np.array([0, 1]), samples=20)
    assert interval == (1.0, 1.0, 1.0)


def test_pairs_that_count_nothing_decide_nothing() -> None:
    """The highest scores may be of pairs with a weight of 0: they are no threshold, and no division by 0."""
    scores, labels = np.array([9.0, 8.0, 3.0, 2.0, 1.0]), np.array([0, 1, 1, 0, 0])
    weights = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    points = calibration.operating_points(scores, labels, prevalence=0.5, weights=weights)
    assert points.thresholds.tolist() == [2.5, 1.5, 1.0]
    assert points.precisions[0] == 1.0
    assert calibration.threshold_for_best_f1(scores, labels, prevalence=0.5, weights=weights) == 2.5
