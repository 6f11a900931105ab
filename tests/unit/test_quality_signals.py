"""`benchmarks/quality_signals.py`: other weights for signals that were kept."""

from __future__ import annotations

import numpy as np
import quality_signals
from quality_figures import FUSION, mean_quality
from quality_novelty import distance, rare_tokens
from quality_scores import ScoredPairs, Scores

from engines.build.texts import Texts
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


def test_novelty_of_a_text_is_of_tokens_and_neighbours_that_training_has() -> None:
    """Of three tokens one is in few texts and one in none; the padding is none; one vector is known, one is not."""
    ids = np.array([[1, 2, 0]] * 8 + [[1, 3, 0]] * 7, dtype=np.int32)
    known = Texts(ids, (ids > 0).astype(np.int32))
    asked = np.array([[1, 3, 9], [1, 2, 0]], dtype=np.int32)
    own = Texts(asked, (asked > 0).astype(np.int32))
    np.testing.assert_allclose(rare_tokens(known, own), [2 / 3, 0])
    vectors = np.array([[2, 0], [0, 3]], dtype=np.float32)
    np.testing.assert_allclose(distance(vectors[:1], vectors), [0, 1], atol=1e-6)


def with_signals() -> Scores:
    """Return pairs of which fusion is misled by new texts, and a second signal knows something else."""
    parts = (scored_pairs.pairs(0, draws=2), scored_pairs.pairs(1))
    for number, part in enumerate(parts):
        new = np.random.default_rng(number).random(scored_pairs.PRODUCTS) < 0.1
        fusion = scored_pairs.noisy(part, 0.4, 10 + number) + 2.0 * new[part.text]
        part.methods[FUSION] = fusion
        part.signals.update(
            {
                f"{FUSION}: fusion": fusion,
                f"{FUSION}: similarity": -scored_pairs.noisy(part, 0.5, 20 + number),
                "text: rare tokens": new[part.text].astype(np.float64),
                "text: distance": np.zeros(len(part.label)),
            }
        )
    return Scores(*parts)


def quality(part: ScoredPairs, score: np.ndarray) -> float:
    """Return what weights are chosen by."""
    return mean_quality(part, score)


def test_novelty_takes_new_texts_down_on_products_it_was_not_fitted_on() -> None:
    """One text in ten is new and looks wrong whatever it is shown with: its rarity undoes that."""
    scores = with_signals()
    shipped = quality(scores.test, scores.test.methods[FUSION])
    assert quality(scores.test, quality_signals.with_novelty(scores)) > shipped + 0.05


def test_ridge_of_two_signals_finds_more_than_either() -> None:
    """The strength is chosen on items that were left out."""
    scores = with_signals()
    names = [f"{FUSION}: fusion", f"{FUSION}: similarity"]
    both = quality(scores.test, quality_signals.ridge(scores, names))
    assert both > max(
        quality(scores.test, sign * scores.test.signals[n]) for n, sign in zip(names, (1, -1), strict=True)
    )
