"""Scores of pairs → what each method finds by grade, and what fusion finds more; the tables of `quality.py`.

    python benchmarks/quality_figures.py DIR

measures anew what a run of `quality.py` left in DIR/scores.npz, without training, and writes quality.json, quality.md
and quality.png again. Figures of the test pairs are stated for a prevalence, by weighing. A method's threshold is
chosen on validation pairs as a release's is: the one of greatest recall at precision 0.5, or of the best F1 where none
reaches that. Intervals are 95 % bootstrap intervals, taken twice, with the pairs of one text's item drawn together and
with those of one picture's, and the wider ends are told. No torch.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

import matplotlib as mpl
import msgspec
import numpy as np
import quality_scores
import typer
from quality_pictures import draw_bars
from rich.console import Console
from rich.markdown import Markdown

from engines import calibration
from engines.build import grades
from engines.build.evaluate import PRECISIONS
from engines.build.recipe import PREVALENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from quality_scores import ScoredPairs, Scores

    from engines.build.evaluate import Pairs

    Floats = NDArray[np.floating]
    Labels = NDArray[np.integer]
    Statistics = Callable[[Floats, Labels], dict[str, float]]

PREVALENCES: Final = (0.01, PREVALENCE, 0.1)
HALF: Final = 0.5  # the precision of the headline, and of what a release's threshold is chosen for
BUDGET_MINUTES: Final = 45
FUSION: Final = "compact"
ALONE: Final = "compact, fusion layers alone"
DUALS: Final = ("dual encoder", "dual encoder, hard negatives")
UNATTENDED: Final = "dual encoder + facets + taggers"
FEATURES: Final = "features"  # the stage before all methods
OVER: Final = {"the better dual encoder": DUALS, UNATTENDED: (UNATTENDED,)}
"""What fusion is compared with, pair by pair: of several methods the best, statistic by statistic."""

_SAMPLES: Final = 300


def measured(scores: Scores) -> dict[str, Any]:
    """Return the facts `methods` and `gains`: the figures of every method, and what fusion adds, by grade."""
    return {
        "methods": {name: figures(scores, name) for name in scores.test.methods},
        "gains": {
            name: {grade: gain(scores.test, others, rows) for grade, rows in by_grade(scores.test).items()}
            for name, others in OVER.items()
            if set(others) <= set(scores.test.methods)
        },
    }


def figures(scores: Scores, method: str) -> dict[str, Any]:
    """Return the test figures of a method by grade, [value, low, high] where there is an interval."""
    threshold = chosen_threshold(scores.validation, method)
    return {grade: _figures_of(scores.test, method, rows, threshold) for grade, rows in by_grade(scores.test).items()}


def chosen_threshold(validation: ScoredPairs, method: str) -> float:
    """Return the threshold that a release of the method would ship."""
    rows = validation.choosing
    score, label = validation.methods[method][rows], validation.label[rows]
    found = calibration.threshold_for_precision(score, label, prevalence=PREVALENCE, precision=HALF)
    return calibration.threshold_for_best_f1(score, label, prevalence=PREVALENCE) if found is None else found


def gain(pairs: ScoredPairs, others: tuple[str, ...], rows: NDArray[np.int64]) -> dict[str, list[float]]:
    """Return how much more fusion finds in these pairs than the best of the others, all drawn together.

    The best is that of each statistic, and of each draw: nothing hangs on which of them was taken for the best.
    """
    every = np.stack([pairs.methods[name] for name in (FUSION, *others)], axis=1)

    def more(scores: Floats, label: Labels) -> dict[str, float]:
        fused, *rest = (_headlines(column, label) for column in scores.T)
        return {name: value - max(one[name] for one in rest) for name, value in fused.items()}

    return _intervals(pairs, every, rows, more)


def by_grade(pairs: ScoredPairs | Pairs) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each grade that there is: its mismatches, and all matches."""
    present = [grade for grade in grades.MEANINGS if (pairs.difference == grade).any()]
    return {grade: np.nonzero((pairs.label == 0) | (pairs.difference == grade))[0] for grade in present}


def mean_quality(pairs: ScoredPairs, score: Floats) -> float:
    """Return what weights of a grid are chosen by: the mean of recall and average precision, and of the grades."""
    found = [_headlines(score[rows], pairs.label[rows]) for rows in by_grade(pairs).values()]
    return float(np.mean([(one["recall"] + one["average_precision"]) / 2 for one in found]))


def headline(of_grade: dict[str, Any], statistic: str) -> list[float]:
    """Return [value, low, high] of `recall` (at precision 0.5), `average_precision` or `auc` at the stated prevalence.

    Args:
        of_grade: the figures of one method and one grade.
        statistic: one of these.
    """
    stated = of_grade["prevalence"][str(PREVALENCE)]
    found: list[float] = {
        "recall": stated["recall_at_precision"][str(HALF)],
        "average_precision": stated["average_precision"],
        "auc": of_grade["auc"],
    }[statistic]
    return found


def _figures_of(pairs: ScoredPairs, method: str, rows: NDArray[np.int64], threshold: float) -> dict[str, Any]:
    found = _intervals(pairs, pairs.methods[method], rows, partial(_all_figures, threshold=threshold))
    return {
        "pairs": int(pairs.label[rows].sum()),
        "auc": found["auc"],
        "at_chosen_threshold": {name: found[name] for name in ("recall", "precision")},
        "prevalence": {
            str(prevalence): {
                "average_precision": found[f"{prevalence}"],
                "recall_at_precision": {str(p): found[f"{prevalence} {p}"] for p in PRECISIONS},
            }
            for prevalence in PREVALENCES
        },
    }


def _headlines(scores: Floats, labels: Labels) -> dict[str, float]:
    curve = calibration.roc_curve(scores, labels)
    points = curve.at(PREVALENCE)
    return {"recall": points.recall_at(HALF), "average_precision": points.average_precision(), "auc": curve.auc()}


def _all_figures(scores: Floats, labels: Labels, *, threshold: float) -> dict[str, float]:
    """Return AUC, what the threshold does, and by prevalence average precision and recall at each precision."""
    recall, precision = calibration.at_threshold(scores, labels, prevalence=PREVALENCE, threshold=threshold)
    curve = calibration.roc_curve(scores, labels)
    found = {"auc": curve.auc(), "recall": recall, "precision": precision}
    for prevalence in PREVALENCES:
        points = curve.at(prevalence)
        found[f"{prevalence}"] = points.average_precision()
        found |= {f"{prevalence} {asked}": points.recall_at(asked) for asked in PRECISIONS}
    return found


def _intervals(
    pairs: ScoredPairs, scores: Floats, rows: NDArray[np.int64], statistics: Statistics
) -> dict[str, list[float]]:
    """Return [value, low, high] of each statistic; the ends are the outer ones of both ways to draw.

    A text stands in several pairs, and so does a picture. Source of the problem, and of a variance for both at once:
    Cameron, Gelbach, Miller 2011, "Robust Inference With Multiway Clustering".
    """

    def each(drawn: Floats, labels: Labels) -> list[float]:
        return list(statistics(drawn, labels).values())

    scores, label = scores[rows], pairs.label[rows]
    ways = [
        calibration.bootstrap(each, scores, label, groups=pairs.items[of[rows]], samples=_SAMPLES)
        for of in (pairs.text, pairs.shown)
    ]
    both = zip(statistics(scores, label), *ways, strict=True)
    found = {name: (one.value, min(one.low, other.low), max(one.high, other.high)) for name, one, other in both}
    return {name: [round(number, 4) for number in interval] for name, interval in found.items()}


def as_markdown(facts: dict[str, Any]) -> str:
    """Return the tables that people read."""
    methods, products = facts["methods"], facts["products"]
    present = list(methods[FUSION])

    def table(cell: Callable[[dict[str, Any]], str], rows: dict[str, Any] = methods) -> list[str]:
        lines = [_row("method", present), _row("---", ["---"] * len(present))]
        return ["", *lines, *(_row(name, [cell(of[grade]) for grade in present]) for name, of in rows.items()), ""]

    lines = [
        f"# {facts['catalog']}: {products['training']} products trained on, {products['test']} tested",
        "",
        f"Recall at precision 0.5 where {PREVALENCE:.0%} of the pictures are wrong, with 95 % bootstrap intervals; the",
        "threshold is the one of the test pairs themselves:",
        *table(lambda of: _interval_text(headline(of, "recall"))),
        "Recall, and precision, at the threshold that was chosen on validation pairs, which is what ships:",
        *table(lambda of: ", ".join(_interval_text(of["at_chosen_threshold"][n]) for n in ("recall", "precision"))),
        "AUC, and average precision at that prevalence:",
        *table(lambda of: "{:.3f}, {:.3f}".format(headline(of, "auc")[0], headline(of, "average_precision")[0])),
    ]
    for name, by_grade_of in facts["gains"].items():
        rows = {statistic: {g: by_grade_of[g][statistic] for g in present} for statistic in by_grade_of[present[0]]}
        lines += [
            f"{FUSION} minus {name}, statistic by statistic, paired intervals:",
            *table(partial(_interval_text, number="{:+.3f}"), rows),
        ]
    meanings = [f"* **{g}**: {grades.MEANINGS[g]} ({methods[FUSION][g]['pairs']} pairs)" for g in present]
    return "\n".join([*lines, *_seconds(facts), "", "Each grade's wrong picture is of:", "", *meanings]) + "\n"


def _seconds(facts: dict[str, Any]) -> list[str]:
    """Return where the time went, and what of it counts as training the engine."""
    seconds: dict[str, float] = facts["seconds"]
    needed = (seconds[FEATURES] + seconds[FUSION]) / 60
    listed = "; ".join(f"{name} {spent / 60:.1f}" for name, spent in seconds.items())
    lines = [
        f"Minutes, with {facts['threads']} CPU thread(s): {listed}. Features and {FUSION} together, which is what",
        f"training an engine takes, with its curves: **{needed:.1f}** (to be at most {BUDGET_MINUTES} on two cores).",
    ]
    if not facts["seconds_whole"]:
        lines.append("Some of the work is of an earlier run, whose time is not known: these are too few.")
    return lines


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _interval_text(interval: list[float], number: str = "{:.2f}") -> str:
    return f"{number} ({number} to {number})".format(*interval)


def write(facts: dict[str, Any], scores: Scores, out: Path) -> str:
    """Write quality.json, quality.md and quality.png of facts and what the scores add to them; return the tables."""
    facts = facts | measured(scores)
    (out / quality_scores.FACTS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(facts)))
    text = as_markdown(facts)
    (out / "quality.md").write_text(text, encoding="utf-8")
    present = list(facts["methods"][FUSION])
    recalls = {name: [headline(of[grade], "recall") for grade in present] for name, of in facts["methods"].items()}
    draw_bars(facts["catalog"], recalls, present, out / "quality.png")
    return text


def measure_again(
    run: Annotated[Path, typer.Argument(help="Directory that holds quality.json and scores.npz.")],
) -> None:
    """Measure the scores of a run of quality.py again, without training, and print the tables."""
    mpl.use("svg")
    scores, facts = quality_scores.load(run), quality_scores.load_facts(run)
    Console().print(Markdown(write(facts, scores, run)))


if __name__ == "__main__":
    typer.run(measure_again)
