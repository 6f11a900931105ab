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
from engines.build.evaluate import MATCH, Pairs
from engines.build.judging import Inquiry
from engines.build.report.charts import precision_recall_chart, reliability_chart
from engines.build.report.page import MAX_TEXT_CHARS, Card, Explanation, card, write_page

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.dataset import Catalog
    from engines.build.evaluate import Figures
    from engines.build.thresholds import Comparison, Target, Thresholds
    from engines.contract import Engine, Manifest
    from engines.text import Tokenizer

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


def explain(assessment: Assessment, engine: Engine, tokenizer: Tokenizer, progress: Progress) -> dict[int, Explanation]:
    """Return by row of the pairs why the alerts that the page shows are some: false alarms, and found wrong pictures.

    Some 7 inferences each, and 74 for the first of each kind, which gets a heat map.

    Args:
        assessment: its manifest has the calibration and the thresholds.
        engine: of the same release.
        tokenizer: of the release.
        progress: bars are added to it.

    Raises:
        InferenceFailed: the engine does not run.
    """
    limits = evaluate.thresholds(assessment.manifest, assessment.catalog)[assessment.pairs.product]
    sheets = [_ranked(assessment, MATCH)[:SUSPECTS], *(_best(assessment, kind) for kind in _kinds(assessment))]
    alerts = [[int(row) for row in sheet if assessment.probabilities[row] >= limits[row]] for sheet in sheets]
    rows = sorted({row for sheet in alerts for row in sheet})
    first = {sheet[0] for sheet in alerts if sheet}
    pairs = assessment.pairs
    shown = Pairs(pairs.product[rows], pairs.picture[rows], pairs.label[rows], pairs.difference[rows])
    inquiry = Inquiry(engine, tokenizer, assessment.catalog, shown)
    return {
        row: Explanation(reason.words, inquiry.heat_map(reason) if row in first else None)
        for row, reason in zip(rows, inquiry.reasons(progress) if rows else [], strict=True)
    }


def write_report(assessment: Assessment, explanations: Mapping[int, Explanation], out: Path) -> Path:
    """Write the page into `out` and return its path; alerts that it shows are explained by row of the pairs."""
    return write_page("report.html.j2", _context(assessment, explanations), out)


def _context(assessment: Assessment, explanations: Mapping[int, Explanation]) -> dict[str, Any]:
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
        "suspects": _cards(assessment, _ranked(assessment, MATCH)[:SUSPECTS], explanations),
        "kinds": [_kind(assessment, kind, explanations) for kind in _kinds(assessment)],
        "slices": _slices(assessment),
    }


def _of_kind(assessment: Assessment, kind: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return probabilities and labels of this kind's mismatches and all matches."""
    pairs = assessment.pairs
    rows = (pairs.label == 0) | (kind == "all") | (pairs.difference == kind)
    return assessment.probabilities[rows], pairs.label[rows]


def _kinds(assessment: Assessment) -> list[str]:
    return [kind for kind in assessment.figures if kind != "all"]


def _kind(assessment: Assessment, kind: str, explanations: Mapping[int, Explanation]) -> Kind:
    ranked = _ranked(assessment, kind)
    worst = ranked[len(ranked) // 2 :][::-1][:EXAMPLES]
    cards = (_cards(assessment, rows, explanations) for rows in (_best(assessment, kind), worst))
    return Kind(kind, grades.MEANINGS.get(kind, ""), *cards)


def _best(assessment: Assessment, kind: str) -> NDArray[np.int64]:
    ranked = _ranked(assessment, kind)
    return ranked[: len(ranked) // 2][:EXAMPLES]


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


def _cards(assessment: Assessment, rows: NDArray[np.int64], explanations: Mapping[int, Explanation]) -> list[Card]:
    return [_card(assessment, row, explanations.get(row)) for row in rows.tolist()]


def _card(assessment: Assessment, row: int, explanation: Explanation | None) -> Card:
    catalog, pairs = assessment.catalog, assessment.pairs
    picture = int(pairs.picture[row])
    owner = catalog.products[int(catalog.picture_owner[picture])].fields.get("title", "")[:MAX_TEXT_CHARS]
    notes = [f"picture of: {owner}"] if pairs.label[row] else []
    probability = float(assessment.probabilities[row])
    return card(catalog, int(pairs.product[row]), picture, probability, explanation, notes=notes)
