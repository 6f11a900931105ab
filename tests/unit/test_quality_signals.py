"""`benchmarks/quality_signals.py`: other weights for signals that were kept."""

from __future__ import annotations

import numpy as np
import quality_signals
from quality_figures import FUSION, mean_quality
from quality_scores import ScoredPairs, Scores

from tests import scored_pairs


def test_fit_ridge_finds_the_weights_that_made_the_labels() -> None:
    """Two signals of three say something, one twice as much as the other; much strength makes all of them small."""
    generator = np.random.default_rng(0)
    columns = generator.normal(size=(4000, 3))
    chance = 1 / (1 + np.exp(-(2 * columns[:, 0] - columns[:, 1])))
    label = (generator.random(4000) < chance).astype(np.int64)
    found = quality_signals.fit_ridge(columns, label, np.ones(4000), 1e-6)
    np.testing.assert_allclose(found, [2, -1, 0], atol=0.15)
    assert np.abs(quality_signals.fit_ridge(columns, label, np.ones(4000), 10.0)).max() < 0.1


def with_signals() -> Scores:
    """Return pairs of which fusion is misled by new texts, and similarity and novelty know something else."""
    parts = (scored_pairs.pairs(0, draws=2), scored_pairs.pairs(1))
    for number, part in enumerate(parts):
        new = np.random.default_rng(number).random(scored_pairs.PRODUCTS) < 0.1
        fusion = scored_pairs.noisy(part, 0.4, 10 + number) + 2.0 * new[part.text]
        part.methods[FUSION] = fusion
        part.signals.update(
            {
                f"{FUSION}: fusion": fusion,
                f"{FUSION}: similarity": -scored_pairs.noisy(part, 0.5, 20 + number),
                f"{FUSION}: novelty": new[part.text].astype(np.float32),
            }
        )
    return Scores(*parts)


def quality(part: ScoredPairs, score: np.ndarray) -> float:
    """Return what weights are chosen by."""
    return mean_quality(part, score)


def test_ridge_hears_the_novelty_that_two_sums_are_not_told() -> None:
    """One text in ten is new and looks wrong whatever it is shown with."""
    scores = with_signals()
    names = [f"{FUSION}: {name}" for name in ("fusion", "similarity", "novelty")]
    assert quality(scores.test, quality_signals.ridge(scores, names)) > 0.05 + quality(
        scores.test, quality_signals.two_sums(scores, FUSION)
    )


def test_ridge_of_two_signals_finds_more_than_either() -> None:
    """The strength is chosen on items that were left out."""
    scores = with_signals()
    names = [f"{FUSION}: fusion", f"{FUSION}: similarity"]
    both = quality(scores.test, quality_signals.ridge(scores, names))
    assert both > max(
        quality(scores.test, sign * scores.test.signals[n]) for n, sign in zip(names, (1, -1), strict=True)
    )
