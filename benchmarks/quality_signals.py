"""Other ways to weigh what `quality.py` has already measured, without training: DIR/scores.npz of one or more runs.

    python benchmarks/quality_signals.py DIR [DIR ...]

Each way is fitted on validation pairs and measured on test pairs, beside what the run has measured. What is tried:

* the soft maximum of two sums, `weighing.fit`, without the novelty of the text, as it shipped on 2026-11-27;
* one sum without it, its weights from a grid, one after the other: what shipped before;
* one sum, a ridge logistic regression of all signals, its strength chosen by cross-fitting (folds of whole
  items), with and without the readers' disagreement; the same for the row without attention.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import quality_scores
import typer
from quality_figures import FUSION, UNATTENDED, by_grade, mean_quality
from rich.console import Console
from rich.markdown import Markdown

from engines import calibration
from engines.build import evaluate, weighing
from engines.build.dataset import split
from engines.build.recipe import PREVALENCE
from engines.build.signals import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from quality_scores import ScoredPairs, Scores

    Floats = NDArray[np.float64]

DISAGREEMENT: Final = f"{FUSION}: readers disagree"
_STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1)
_GRID: Final = {
    "similarity": tuple(range(0, 25, 2)),
    "surprise": (0, 0.1, 0.25, 0.5, 1),
    "denied": (0, 0.02, 0.05, 0.1, 0.2, 0.4),
}
_ROUNDS: Final = 2  # over all weights of the grid, one after the other
_FOLDS: Final = 5
_STEPS: Final = 30


def two_sums(scores: Scores, row: str) -> Floats:
    """Return the logits that `weighing.fit` gives of a row's signals but novelty."""
    pairs = _fitted_on(scores)
    known = evaluate.Pairs(pairs.text, pairs.shown, pairs.label, pairs.difference)
    validation, test = (_without_novelty(part, row) for part in (scores.validation, scores.test))
    signals = Evidence(*(column[~scores.validation.choosing] for column in validation))
    return weighing.combined(test, weighing.fit(signals, known))


def grid(scores: Scores, row: str) -> Floats:
    """Return one sum of a row's signals, each weight in turn that with which the validation pairs are told best."""
    names = [name for name in scores.test.signals if name.startswith(f"{row}: ") and _weight_choices(name)]
    validation, test = (_columns(part, names) for part in (scores.validation, scores.test))
    signs = np.array([-1.0 if "similarity" in name else 1.0 for name in names])
    weights = np.zeros(len(names))
    fusion = [part.signals[f"{row}: fusion"] for part in (scores.validation, scores.test)]
    fitted_on = _fitted_on(scores)
    validation, of_fusion = validation[~scores.validation.choosing], fusion[0][~scores.validation.choosing]

    def quality(place: int, weight: float) -> float:
        changed = weights.copy()
        changed[place] = weight
        return mean_quality(fitted_on, of_fusion + validation @ (signs * changed))

    for _ in range(_ROUNDS):
        for place, name in enumerate(names):
            weights[place] = max(_weight_choices(name), key=lambda weight, at=place: quality(at, weight))  # type: ignore[misc]
    return np.asarray(fusion[1] + test @ (signs * weights))


def ridge(scores: Scores, names: list[str]) -> Floats:
    """Return a ridge logistic regression of these signals, (M,), of the strength that judges other items best."""
    validation, test = (_columns(part, names) for part in (scores.validation, scores.test))
    center, scale = validation.mean(axis=0), validation.std(axis=0) + 1e-9
    known, asked = (validation - center) / scale, (test - center) / scale
    pairs = scores.validation
    weights, items = _weights(pairs), pairs.items[pairs.text]
    folds = split(items.tolist(), [1 / _FOLDS] * _FOLDS, seed=0)

    def quality(strength: float) -> float:
        judged = np.empty(len(known))
        for fold in folds:
            rest = np.setdiff1d(np.arange(len(known)), fold)
            judged[fold] = known[fold] @ fit_ridge(known[rest], pairs.label[rest], weights[rest], strength)
        return mean_quality(pairs, judged)

    best = max(_STRENGTHS, key=quality)
    return np.asarray(asked @ fit_ridge(known, pairs.label, weights, best))


def fit_ridge(columns: Floats, label: NDArray[np.int64], weights: Floats, strength: float) -> Floats:
    """Return the coefficients (K,) of standardised columns (M, K), by Newton's method; the intercept is not needed.

    Minimises the weighed mean logistic loss + strength / 2 x the squared length of the coefficients.

    Source: Hastie, Tibshirani, Friedman 2009, "The Elements of Statistical Learning", section 4.4.
    """
    design = np.concatenate([columns, np.ones((len(columns), 1))], axis=1)
    penalty = strength * np.diag([*np.ones(columns.shape[1]), 1e-9])
    shares = weights / weights.sum()
    found = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chance = np.exp(-np.logaddexp(0, -design @ found))
        gradient = design.T @ (shares * (chance - label)) + penalty @ found
        hessian = (design * (shares * chance * (1 - chance))[:, None]).T @ design + penalty
        step = np.linalg.solve(hessian, gradient)
        found = found - step
        if np.abs(step).max() < 1e-8:
            break
    return np.asarray(found[:-1])


def table(scores: Scores) -> list[str]:
    """Return the table of a run: recall at precision 0.5, average precision and AUC of each way, by grade."""
    own = [name for name in scores.test.signals if name.startswith(f"{FUSION}: ") and name != DISAGREEMENT]
    beside = [name for name in scores.test.signals if name.startswith(f"{UNATTENDED}: ") and "fusion" not in name]
    ways: dict[str, Callable[[], NDArray[np.floating]]] = {
        f"{FUSION}, as measured": lambda: scores.test.methods[FUSION],
        "two sums without novelty": lambda: two_sums(scores, FUSION),
        "one sum, grid": lambda: grid(scores, FUSION),
        "ridge": lambda: ridge(scores, own),
        "ridge, with disagreement": lambda: ridge(scores, [*own, DISAGREEMENT]),
        f"{UNATTENDED}, as measured": lambda: scores.test.methods[UNATTENDED],
        f"{UNATTENDED}, two sums without novelty": lambda: two_sums(scores, UNATTENDED),
        f"{UNATTENDED}, ridge": lambda: ridge(scores, beside),
    }
    present = by_grade(scores.test)
    lines = ["", f"| | {' | '.join(present)} |", f"| --- |{' --- |' * len(present)}"]
    for name, way in ways.items():
        found = way()
        cells = [_cell(scores.test, found, rows) for rows in present.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Directories that hold scores.npz, of `quality.py`.")],
) -> None:
    """Weigh the signals of runs of quality.py in other ways and print what each finds of the test pairs."""
    lines = [f"Recall at precision 0.5, average precision (where {PREVALENCE:.0%} of the pictures are wrong), AUC:", ""]
    for run in runs:
        lines += [f"{run.name}:", *table(quality_scores.load(run))]
    Console().print(Markdown("\n".join(lines)))


def _fitted_on(scores: Scores) -> ScoredPairs:
    """Return the validation pairs that weights are fitted on, without what is said of them."""
    pairs = scores.validation
    rows = ~pairs.choosing
    columns = {
        name: getattr(pairs, name)[rows] for name in ("text", "shown", "label", "difference", "draw", "choosing")
    }
    return replace(pairs, **columns, methods={}, signals={})


def _without_novelty(pairs: ScoredPairs, row: str) -> Evidence:
    """Return a row's signals as the model has them, but the novelty of texts."""
    said = {name.removeprefix(f"{row}: "): of for name, of in pairs.signals.items() if name.startswith(f"{row}: ")}

    def beside(kind: str) -> NDArray[np.float32]:
        found = [of for name, of in said.items() if name.startswith(kind)]
        return np.stack(found, axis=1) if found else np.zeros((len(pairs.label), 0), np.float32)

    unsaid = np.zeros((len(pairs.label), 0))
    columns = said["fusion"], beside("surprise"), said["similarity"], beside("denied"), unsaid
    return Evidence(*(column.astype(np.float32) for column in columns))


def _weight_choices(name: str) -> tuple[float, ...]:
    """Return the weights of the grid that a signal may have; none where it is not one of the grid's."""
    return next((choices for kind, choices in _GRID.items() if f": {kind}" in name), ())


def _columns(pairs: ScoredPairs, names: list[str]) -> Floats:
    return np.stack([pairs.signals[name] for name in names], axis=1).astype(np.float64)


def _weights(pairs: ScoredPairs) -> Floats:
    """Return what each pair counts: matches as their prevalence, mismatches the rest, every grade the same."""
    counted = np.where(pairs.label == 0, (1 - PREVALENCE) / (pairs.label == 0).sum(), 0.0)
    present = by_grade(pairs)
    for grade in present:
        of = pairs.difference == grade
        counted[of] = PREVALENCE / len(present) / of.sum()
    return np.asarray(counted)


def _cell(pairs: ScoredPairs, found: NDArray[np.floating], rows: NDArray[np.int64]) -> str:
    score, label = found[rows], pairs.label[rows]
    recall = calibration.recall_at_precision(score, label, prevalence=PREVALENCE, precision=0.5)
    precision = calibration.average_precision(score, label, prevalence=PREVALENCE)
    return f"{recall:.3f}, {precision:.3f}, {calibration.auc(score, label):.3f}"


if __name__ == "__main__":
    typer.run(compare)
