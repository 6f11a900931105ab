"""What an engine is worth on a catalogue, as one page that needs nothing from outside: figures, curves, pictures.

Product text is untrusted: Jinja2 escapes all of it, and the only ready-made markup is the charts', which hold numbers.
Pictures are shown as the engine sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from markupsafe import Markup

from engines.build import evaluate, grades
from engines.build.evaluate import MATCH
from engines.build.report.charts import precision_recall_chart, reliability_chart
from engines.build.report.page import MAX_TEXT_CHARS, Card, card, write_page

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog
    from engines.build.evaluate import Figures, Pairs
    from engines.build.thresholds import Comparison, Target, Thresholds
    from engines.contract import Manifest

SUSPECTS: Final = 48
EXAMPLES: Final = 12  # of the best and of the worst of each kind
SLICES: Final = 20


@dataclass(frozen=True)
class Assessment:
    """An engine's answers for the test pairs, and the figures made of them.

    probabilities: float64 (M,), calibrated, one for each of `pairs`.
    thresholds: with those of categories, whether they are shipped or not; `cross_fitted` is what those did on
        validation pairs, `compared` what they do on these.
    """

    manifest: Manifest
    catalog: Catalog
    pairs: Pairs
    probabilities: NDArray[np.float64]
    figures: dict[str, Figures]
    target: Target
    thresholds: Thresholds
    cross_fitted: Comparison | None
    compared: Comparison | None


class Kind(NamedTuple):
    """One kind of wrong picture: those found most surely, and those least."""

    name: str
    meaning: str
    best: list[Card]
    worst: list[Card]


class Slice(NamedTuple):
    """A category: its threshold, how many of its right pictures alert, and how many of its wrong ones."""

    name: str
    threshold: float
    products: int
    false_alarms: int
    swaps: int
    found: int


def write_report(assessment: Assessment, out: Path) -> Path:
    """Write the page into `out` and return its path."""
    return write_page("report.html.j2", _context(assessment), out)


def _context(assessment: Assessment) -> dict[str, Any]:
    pairs, probabilities = assessment.pairs, assessment.probabilities
    labels, prevalence = pairs.label, assessment.target.prevalence
    curves = {kind: _of_kind(assessment, kind) for kind in assessment.figures}
    return {
        "a": assessment,
        "m": assessment.manifest,
        "products": len(assessment.catalog.products),
        "precisions": evaluate.PRECISIONS,
        "meanings": grades.MEANINGS,
        "curve": Markup(precision_recall_chart(curves, prevalence)),  # noqa: S704 - numbers, and our own names
        "reliability": Markup(reliability_chart(probabilities, labels, prevalence)),  # noqa: S704 - numbers only
        "suspects": _cards(assessment, _ranked(assessment, MATCH)[:SUSPECTS]),
        "kinds": [_kind(assessment, kind) for kind in assessment.figures if kind != "all"],
        "slices": _slices(assessment),
    }


def _of_kind(assessment: Assessment, kind: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return probabilities and labels of this kind's mismatches and all matches."""
    pairs = assessment.pairs
    rows = (pairs.label == 0) | (kind == "all") | (pairs.difference == kind)
    return assessment.probabilities[rows], pairs.label[rows]


def _kind(assessment: Assessment, kind: str) -> Kind:
    ranked = _ranked(assessment, kind)
    half = len(ranked) // 2
    best, worst = ranked[:half][:EXAMPLES], ranked[half:][::-1][:EXAMPLES]
    return Kind(kind, grades.MEANINGS.get(kind, ""), _cards(assessment, best), _cards(assessment, worst))


def _ranked(assessment: Assessment, kind: str) -> NDArray[np.int64]:
    """Return the pairs of a kind, the most suspicious first."""
    (rows,) = np.nonzero(assessment.pairs.difference == kind)
    return rows[np.argsort(-assessment.probabilities[rows], kind="stable")]


def _slices(assessment: Assessment) -> list[Slice]:
    """Return the categories with the most products."""
    pairs, products = assessment.pairs, assessment.catalog.products
    categories = np.array([products[i].category for i in pairs.product])
    thresholds = evaluate.thresholds(assessment.manifest, assessment.catalog)[pairs.product]
    alerts = assessment.probabilities >= thresholds
    found: list[Slice] = []
    for name in np.unique(categories):
        rows = categories == name
        right, wrong = rows & (pairs.label == 0), rows & (pairs.label == 1)
        of = len(np.unique(pairs.product[rows]))
        counts = int(alerts[right].sum()), int(wrong.sum()), int(alerts[wrong].sum())
        found.append(Slice(str(name), float(thresholds[rows][0]), of, *counts))
    return sorted(found, key=lambda one: -one.products)[:SLICES]


def _cards(assessment: Assessment, rows: NDArray[np.int64]) -> list[Card]:
    return [_card(assessment, int(row)) for row in rows]


def _card(assessment: Assessment, row: int) -> Card:
    catalog, pairs = assessment.catalog, assessment.pairs
    picture = int(pairs.picture[row])
    owner = catalog.products[int(catalog.picture_owner[picture])].fields.get("title", "")[:MAX_TEXT_CHARS]
    notes = [f"picture of: {owner}"] if pairs.label[row] else []
    return card(catalog, int(pairs.product[row]), picture, float(assessment.probabilities[row]), notes)
