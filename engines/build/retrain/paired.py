"""Two engines on the same pairs: how much better is one than the other, and how sure is that? No torch.

The pairs of one item are drawn together: they are not independent of each other.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engines import calibration
from engines.calibration import Interval  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from engines.build.retrain.frozen import FrozenSet

    _Floats = NDArray[np.floating]
    _Labels = NDArray[np.integer]
    _Recall = Callable[[_Floats, _Labels, _Floats], float]

SAMPLES: Final = 1000

RECALL, FALSE_ALARMS, ALARMS = "recall", "false alarms", "alarms"


class Answers(NamedTuple):
    """Logits of the champion and of the challenger for the pairs of a set; (M,) each."""

    champion: NDArray[np.float64]
    challenger: NDArray[np.float64]


class Gain(NamedTuple):
    """A figure of both engines, and the challenger's less the champion's."""

    champion: Interval
    challenger: Interval
    difference: Interval


class SliceTest(NamedTuple):
    """What became worse in a slice.

    what: `RECALL` and `FALSE_ALARMS` at the thresholds with which both reach the target precision on the whole set;
    `ALARMS`, right pictures that alert with the thresholds that each is shipped with. lost: recall that the challenger
    lost there, or further right pictures that it alerts, as a share; `spread` is its
    standard error. p_value: how likely at least such a loss is where there is none.
    """

    name: str
    what: str
    pairs: int
    champion: float
    challenger: float
    lost: float
    spread: float
    p_value: float


def recall_gain(
    asked: FrozenSet, answers: Answers, *, precision: float, alpha: float, samples: int = SAMPLES, seed: int = 0
) -> Gain:
    """Return recall at this precision, with intervals whose either end is passed with a chance of `alpha`.

    Raises:
        ValueError: the set lacks one of the two classes.
    """

    def best(scores: _Floats, labels: _Labels, weights: _Floats) -> float:
        return calibration.recall_at_precision(
            scores, labels, prevalence=asked.prevalence, precision=precision, weights=weights
        )

    return _gain(asked, answers, (best, best), alpha=alpha, samples=samples, seed=seed)


def recall_shipped(
    asked: FrozenSet, margins: Answers, *, precision: float, alpha: float, samples: int = SAMPLES, seed: int = 0
) -> Gain:
    """Return recall of the decisions that both were shipped with, intervals as of `recall_gain`.

    A champion that alerts more than the target precision allows counts with the recall that it has at the target: else
    nobody could take its place but one that is as lavish.

    Args:
        asked: the pairs.
        margins: of both engines, probability less threshold; not below 0 is an alert.
        precision: the target.
        alpha: see `recall_gain`.
        samples: how many times is drawn.
        seed: of the draws.

    Raises:
        ValueError: the set lacks one of the two classes.
    """

    def alerted(scores: _Floats, labels: _Labels, weights: _Floats) -> float:
        recall, _ = calibration.at_threshold(
            scores, labels, prevalence=asked.prevalence, threshold=0.0, weights=weights
        )
        return recall

    def owed(scores: _Floats, labels: _Labels, weights: _Floats) -> float:
        best = calibration.recall_at_precision(
            scores, labels, prevalence=asked.prevalence, precision=precision, weights=weights
        )
        return min(best, alerted(scores, labels, weights))

    return _gain(asked, margins, (owed, alerted), alpha=alpha, samples=samples, seed=seed)


def precision_reached(
    asked: FrozenSet, margins: NDArray[np.float64], *, alpha: float, samples: int = SAMPLES, seed: int = 0
) -> Interval:
    """Return the precision of alerting where `margins` (M,), probability less threshold, are not below 0.

    Raises:
        ValueError: the set lacks one of the two classes.
    """

    def statistics(rows: _Floats, labels: _Labels) -> list[float]:
        _, precision = calibration.at_threshold(
            rows[:, 0], labels, prevalence=asked.prevalence, threshold=0.0, weights=rows[:, 1]
        )
        return [precision]

    columns = np.stack([margins, asked.weights], axis=1)
    (found,) = calibration.bootstrap(
        statistics,
        columns,
        asked.pairs.label,
        groups=asked.groups,
        samples=samples,
        confidence=1 - 2 * alpha,
        seed=seed,
    )
    return found


def slice_tests(
    asked: FrozenSet, answers: Answers, *, precision: float, samples: int = SAMPLES, seed: int = 0
) -> list[SliceTest]:
    """Return for each slice what became worse of recall and of false alarms."""
    alerts = [_alerts(asked, logits, precision) for logits in answers]
    draws = _draws(asked.groups, samples, seed)
    return [
        _slice_test(name, what, asked, alerts, rows & (asked.pairs.label == label), draws)
        for name, rows in asked.slices().items()
        for what, label in ((RECALL, 1), (FALSE_ALARMS, 0))
    ]


def alarm_tests(asked: FrozenSet, margins: Answers, *, samples: int = SAMPLES, seed: int = 0) -> list[SliceTest]:
    """Return how many right pictures, of all and of each slice, alert more often with what the challenger ships.

    Args:
        asked: the pairs.
        margins: of both engines, probability less threshold; not below 0 is an alert.
        samples: how many times is drawn.
        seed: of the draws.
    """
    alerts = [margin >= 0 for margin in margins]
    draws = _draws(asked.groups, samples, seed)
    everything = {"all": np.ones(len(asked.pairs.label), dtype=np.bool_)}
    return [
        _slice_test(name, ALARMS, asked, alerts, rows & (asked.pairs.label == 0), draws)
        for name, rows in (everything | asked.slices()).items()
    ]


def _slice_test(  # noqa: PLR0917 - private, called twice
    name: str,
    what: str,
    asked: FrozenSet,
    alerts: Sequence[NDArray[np.bool_]],
    rows: NDArray[np.bool_],
    draws: NDArray[np.float64],
) -> SliceTest:
    chosen = rows & asked.plain
    weights = asked.weights * chosen
    champion, challenger = (float((weights * alert).sum() / weights.sum()) for alert in alerts)
    spread = _spread(weights, alerts, asked.groups, draws)
    lost = champion - challenger if what == RECALL else challenger - champion
    return SliceTest(
        name=name,
        what=what,
        pairs=int(chosen.sum()),
        champion=champion,
        challenger=challenger,
        lost=lost,
        spread=spread,
        p_value=p_value(lost, spread),
    )


def harms(tests: Sequence[SliceTest], margins: Mapping[str, float], alpha: float) -> list[bool]:
    """Return which slices are harmed: those that lost more than the margin, where the loss is surely one.

    Sure is what Holm's method rejects at `alpha`: in a slice of 30 pairs chance alone makes a loss of 0.15.

    Args:
        tests: of all slices.
        margins: of recall and of false alarms, by `SliceTest.what`.
        alpha: the chance that any slice that lost nothing is taken for harmed.
    """
    sure = holm([test.p_value for test in tests], alpha)
    return [some and test.lost > margins[test.what] for some, test in zip(sure, tests, strict=True)]


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Return which hypotheses are rejected so that the chance of any false rejection is at most `alpha`.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    rejected = [False] * len(p_values)
    for passed, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > alpha / (len(p_values) - passed):
            break
        rejected[index] = True
    return rejected


def p_value(loss: float, spread: float) -> float:
    """Return the chance of a loss of at least this size, with this standard error, where there is none."""
    if spread < 1e-9 or not math.isfinite(spread):  # noqa: PLR2004 - all items agree: nothing is left to chance
        return float(loss <= 0)
    return 1 - NormalDist().cdf(loss / spread)


def _gain(
    asked: FrozenSet, scores: Answers, recalls: tuple[_Recall, _Recall], *, alpha: float, samples: int, seed: int
) -> Gain:
    """Return each engine's recall, by a function of scores, labels and weights of its own, and the difference."""
    columns = np.stack([scores.champion, scores.challenger, asked.weights], axis=1)

    def statistics(rows: _Floats, labels: _Labels) -> list[float]:
        champion, challenger = (recall(rows[:, i], labels, rows[:, 2]) for i, recall in enumerate(recalls))
        return [champion, challenger, challenger - champion]

    found = calibration.bootstrap(
        statistics,
        columns,
        asked.pairs.label,
        groups=asked.groups,
        samples=samples,
        confidence=1 - 2 * alpha,
        seed=seed,
    )
    return Gain(*found)


def _alerts(asked: FrozenSet, logits: NDArray[np.float64], precision: float) -> NDArray[np.bool_]:
    """Return which pairs alert at the greatest recall of that precision on the whole set, or at the best F1."""
    threshold = calibration.threshold_for_precision(
        logits, asked.pairs.label, prevalence=asked.prevalence, precision=precision, weights=asked.weights
    )
    if threshold is None:
        threshold = calibration.threshold_for_best_f1(
            logits, asked.pairs.label, prevalence=asked.prevalence, weights=asked.weights
        )
    return logits >= threshold


def _draws(groups: NDArray[np.int64], samples: int, seed: int) -> NDArray[np.float64]:
    """Return how often each group is drawn in each sample, (S, G)."""
    count = int(groups.max()) + 1
    generator = np.random.default_rng(seed)
    return generator.multinomial(count, np.full(count, 1 / count), size=samples).astype(np.float64)


def _spread(
    weights: NDArray[np.float64],
    alerts: Sequence[NDArray[np.bool_]],
    groups: NDArray[np.int64],
    draws: NDArray[np.float64],
) -> float:
    """Return the standard error of the difference of two shares of the same weighted pairs."""
    champion, challenger = alerts
    size = draws.shape[1]
    apart = np.bincount(groups, weights * (challenger.astype(np.float64) - champion), minlength=size)
    total = np.bincount(groups, weights, minlength=size)
    drawn = draws @ total
    return float(((draws @ apart)[drawn > 0] / drawn[drawn > 0]).std())
