"""`benchmarks/quality_figures.py` and `quality_scores.py`: from kept scores to figures and tables, without training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import quality_figures
import quality_scores
from quality_figures import DUALS, FUSION, UNATTENDED

from engines import calibration
from tests import scored_pairs

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

HARD = "hard"


def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take intervals of few draws: nothing here hangs on how many."""
    monkeypatch.setattr(quality_figures, "_SAMPLES", 30)


def test_scores_come_back_as_they_were_saved(tmp_path: Path) -> None:
    """Ids, pairs, every method's scores and every signal."""
    scores = scored_pairs.scores()
    scores.test.signals["compact: novelty"] = np.arange(len(scores.test.label), dtype=np.float32)
    quality_scores.save(scores, tmp_path)
    found = quality_scores.load(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [quality_scores.SCORES_FILE]
    for one, other in ((found.validation, scores.validation), (found.test, scores.test)):
        assert one.methods.keys() == other.methods.keys()
        np.testing.assert_array_equal(one.methods[FUSION], other.methods[FUSION])
        np.testing.assert_array_equal(one.ids[one.text], other.ids[other.text])
        np.testing.assert_array_equal(one.difference, other.difference)
        assert one.choosing.sum() == 3 * scored_pairs.PRODUCTS
    np.testing.assert_array_equal(found.test.signals["compact: novelty"], scores.test.signals["compact: novelty"])


def test_gain_is_over_the_better_dual_encoder_of_each_statistic(monkeypatch: pytest.MonkeyPatch) -> None:
    """One dual encoder has the better recall at precision 0.5, the other the better AUC: neither stands for both."""
    few_samples(monkeypatch)
    test = scored_pairs.pairs(1)
    generator, matches = np.random.default_rng(0), test.label == 0
    sure = np.where(matches, 0.0, np.where(generator.random(len(test.label)) < 0.5, 3.0, -3.0))  # half, but surely
    ranked = test.label + 0.7 * generator.normal(size=len(test.label))
    ranked[np.nonzero(matches)[0][:20]] = 9.0  # well ranked, but for the very first
    test.methods.update({FUSION: scored_pairs.noisy(test, 0.4, 7), DUALS[0]: sure, DUALS[1]: ranked})
    rows = quality_figures.by_grade(test)[HARD]

    def recall(name: str) -> float:
        score, label = test.methods[name][rows], test.label[rows]
        return calibration.recall_at_precision(score, label, prevalence=0.05, precision=0.5)

    def auc(name: str) -> float:
        return calibration.auc(test.methods[name][rows], test.label[rows])

    assert recall(DUALS[0]) > recall(DUALS[1])
    assert auc(DUALS[1]) > auc(DUALS[0])
    found = quality_figures.gain(test, DUALS, rows)
    assert found["recall"][0] == round(recall(FUSION) - recall(DUALS[0]), 4)
    assert found["auc"][0] == round(auc(FUSION) - auc(DUALS[1]), 4)
    assert all(low <= value <= high for value, low, high in found.values())
    assert found.keys() == {"recall", "average_precision", "auc"}


def test_recall_at_chosen_threshold_is_of_the_threshold_of_validation_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ships is chosen on the first draw of validation pairs, whatever would be best on the test pairs."""
    few_samples(monkeypatch)
    scores = scored_pairs.scores()
    validation = scores.validation
    validation.methods[FUSION][~validation.choosing] = np.nan
    threshold = quality_figures.chosen_threshold(validation, FUSION)
    scores.test.methods[FUSION] += 0.5  # the test part is shifted: the threshold is not
    (rows,) = np.nonzero((scores.test.label == 0) | (scores.test.difference == HARD))
    found = quality_figures.figures(scores, FUSION)[HARD]["at_chosen_threshold"]
    recall, precision = calibration.at_threshold(
        scores.test.methods[FUSION][rows], scores.test.label[rows], prevalence=0.05, threshold=threshold
    )
    assert (found["recall"][0], found["precision"][0]) == (round(recall, 4), round(precision, 4))
    assert found["precision"][0] < 0.5


def test_intervals_are_as_wide_as_pictures_that_many_texts_share_make_them() -> None:
    """Ten pictures stand for all wrong ones: drawn by text, a figure looks surer than it is."""
    test = scored_pairs.pairs(1)
    wrong = test.label == 1
    shared = np.where(wrong, test.shown % 10 * 2, test.shown)
    of_picture = np.random.default_rng(2).normal(size=scored_pairs.PRODUCTS)
    test = replace(test, shown=shared)
    test.methods[FUSION] = np.where(wrong, 0.5 + of_picture[shared], scored_pairs.noisy(test, 0.3, 3))
    rows = quality_figures.by_grade(test)[HARD]
    both, by_text = (
        quality_figures._intervals(drawn, test.methods[FUSION], rows, quality_figures._headlines)["auc"]
        for drawn in (test, replace(test, shown=test.text))
    )
    assert both[2] - both[1] > 1.5 * (by_text[2] - by_text[1])


def test_measure_again_writes_the_tables_from_kept_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method is there, both gains, the threshold that ships, and what of the time counts."""
    few_samples(monkeypatch)
    quality_scores.save(scored_pairs.scores(), tmp_path)
    (tmp_path / "quality.json").write_bytes(msgspec.json.encode(scored_pairs.facts()))
    quality_figures.measure_again(tmp_path)
    facts = msgspec.json.decode((tmp_path / "quality.json").read_bytes())
    assert facts["methods"].keys() == scored_pairs.NOISE.keys()
    assert facts["gains"].keys() == {"the better dual encoder", UNATTENDED}
    text = (tmp_path / "quality.md").read_text(encoding="utf-8")
    assert f"compact minus {UNATTENDED}" in text
    assert "at the threshold that was chosen on validation pairs" in text
    assert "**3.0** (to be at most 45 on two cores)" in text
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
