"""A decision as people read it: a model card in Markdown and as a page, with the plots behind it.

Product text is untrusted: the page escapes it, the Markdown shows slices' names as code. Pictures are not shown: the
card is kept longer than a label data set may keep a product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from markupsafe import Markup

from engines import calibration
from engines.build.evaluate import PRECISIONS
from engines.build.report.charts import reliability_chart
from engines.build.report.page import write_page
from engines.build.retrain import charts
from engines.build.retrain.frozen import BENCHMARK, LABELS
from engines.calibration import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.build.retrain.confirmed import Confirmed
    from engines.build.retrain.decision import Decision, GateRules
    from engines.build.retrain.frozen import FrozenSet
    from engines.build.retrain.paired import Answers, SliceTest
    from engines.build.retrain.votes import Prevalence
    from engines.contract import Manifest

MARKDOWN_FILE: Final = "model-card.md"
_LEAST_SHIFT: Final = 1e-4
_SHIFT_BINS: Final = 10
_CATEGORIES: Final = 12
_Z_POWER: Final = 0.8416  # of a power of 80 %
_Z_ALPHA: Final = 1.6449


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a card tells; without answers nothing could be compared."""

    champion: Manifest
    challenger: Manifest | None
    decision: Decision
    rules: GateRules
    sets: Mapping[str, FrozenSet]
    answers: Mapping[str, Answers]
    champions: Mapping[str, NDArray[np.float64]]
    prevalence: Prevalence
    confirmed: Confirmed
    facts: Mapping[str, Any]


def write_card(story: Story, out: Path) -> Path:
    """Write card and plots into `out`, and return it."""
    out.mkdir(parents=True, exist_ok=True)
    plots = _plots(story)
    for name, plot in plots.items():
        (out / f"{name}.svg").write_text(plot.replace("currentColor", "#444"), encoding="utf-8")
    context = _context(story)
    write_page("card.md.j2", context | {"plots": list(plots)}, out, name=MARKDOWN_FILE)
    inline = {name: Markup(plot) for name, plot in plots.items()}  # noqa: S704 - names in it are escaped by Matplotlib
    write_page("card.html.j2", context | {"plots": inline}, out)
    return out


def population_stability(known: NDArray[np.float64], now: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the population stability index: 0 where both fall alike, from 0.25 on they are said to have shifted.

    Source: Siddiqi 2006, "Credit Risk Scorecards"; bins hold a tenth of the known values each.
    """
    edges = np.quantile(known, np.linspace(0, 1, _SHIFT_BINS + 1)[1:-1])
    before = np.bincount(np.searchsorted(edges, known), minlength=_SHIFT_BINS) / len(known)
    after = np.bincount(np.searchsorted(edges, now), weights, minlength=_SHIFT_BINS) / weights.sum()
    before, after = np.maximum(before, _LEAST_SHIFT), np.maximum(after, _LEAST_SHIFT)
    return float(((after - before) * np.log(after / before)).sum())


def _plots(story: Story) -> dict[str, str]:
    found = {}
    for name, answers in story.answers.items():
        asked = story.sets[name]
        if len(np.unique(asked.pairs.label)) < 2:  # noqa: PLR2004 - mismatches and matches
            continue
        found[f"precision-recall-{name}"] = charts.precision_recall(asked, answers, story.rules.precision)
        if story.challenger is not None:
            probabilities = calibration.apply(story.challenger.calibration, answers.challenger)
            found[f"reliability-{name}"] = reliability_chart(
                probabilities, asked.pairs.label, asked.prevalence, asked.weights
            )
    if story.decision.slices:
        found["slices"] = charts.slices(story.decision.slices, _margins(story))
    known, scored, weights = _scores(story)
    if len(known) and len(scored):
        found["drift"] = charts.drift(known, scored, weights)
    return found


def _scores(story: Story) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the champion's logits for right products of the benchmark, and for held-out labels with their weights."""
    benchmark, labels = story.sets[BENCHMARK], story.sets[LABELS]
    known = story.champions[BENCHMARK][benchmark.pairs.label == 0]
    return known, story.champions[LABELS], labels.weights


def _context(story: Story) -> dict[str, Any]:
    known, scored, weights = _scores(story)
    shift = population_stability(known, scored, weights) if len(known) and len(scored) else None
    return {
        "s": story,
        "decision": story.decision,
        "rules": story.rules,
        "margins": _margins(story),
        "recalls": _recalls(story),
        "slices": sorted((*story.decision.slices, *story.decision.alarms), key=lambda test: -test.lost),
        "agreements": sorted(story.decision.agreements, key=lambda one: one.auc),
        "noticed": {
            test.name + test.what: _noticed(test, _margins(story))
            for test in (*story.decision.slices, *story.decision.alarms)
        },
        "shift": shift,
        "categories": _categories(story),
        "thresholds": {} if story.challenger is None else _thresholds(story.challenger, story.prevalence),
        "votes": story.confirmed.votes,
    }


def _recalls(story: Story) -> list[tuple[str, float, float, float]]:
    """Return recalls of champion and challenger by set and precision."""
    rows: list[tuple[str, float, float, float]] = []
    for name, answers in story.answers.items():
        asked = story.sets[name]
        if len(np.unique(asked.pairs.label)) < 2:  # noqa: PLR2004 - as above
            continue
        for precision in PRECISIONS:
            champion, challenger = (
                calibration.recall_at_precision(
                    logits,
                    asked.pairs.label,
                    prevalence=asked.prevalence,
                    precision=precision,
                    weights=asked.weights,
                )
                for logits in answers
            )
            rows.append((name, precision, champion, challenger))
    return rows


def _thresholds(challenger: Manifest, prevalence: Prevalence) -> dict[str, Interval]:
    """Return the thresholds with 95 % intervals: the overall one under "", that of each category of the labels."""
    said = challenger.metrics["thresholds"]
    overall = Interval(*said["overall"])
    own = {name: Interval(*said["by_category"][name]) for name in challenger.thresholds}
    return {"": overall} | {name: own.get(name, overall) for name in prevalence.by_category}


def _margins(story: Story) -> dict[str, float]:
    return story.rules.slice_margins(story.prevalence.overall.value)


def _noticed(test: SliceTest, margins: Mapping[str, float]) -> float:
    """Return the loss that would have been noticed with a power of 80 %, were this the only slice."""
    return max(margins[test.what], _Z_ALPHA * test.spread) + _Z_POWER * test.spread


def _categories(story: Story) -> list[tuple[str, float, float]]:
    """Return the share of each category in the catalogue's held-out products and among what was scored."""
    products = story.sets[BENCHMARK].catalog.products
    catalogue = np.array([product.category.split(">", 1)[0].strip() for product in products], dtype=np.str_)
    scored, weight = story.confirmed.categories, story.confirmed.votes.weight
    rows = [
        (str(name), float((catalogue == name).mean()), float(weight[scored == name].sum() / weight.sum()))
        for name in np.union1d(catalogue, scored)
    ]
    return sorted(rows, key=lambda row: -abs(row[2] - row[1]))[:_CATEGORIES]
