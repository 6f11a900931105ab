"""The report's charts as inline SVG, in the page's own text colour. Matplotlib stays in here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl
import numpy as np

from engines import calibration
from engines.catalogs import svg

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

COLOURS: Final = ("#4f8fd0", "#e0524d", "#3fa373", "#c98a1b", "#8d6cc9", "#c76aa0", "#6b8a99", "#a0703f")
BINS: Final = 12
SIZE_INCHES: Final = (6.2, 4.0)


def precision_recall_chart(
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.int64]]], prevalence: float
) -> str:
    """Return precision against recall at that prevalence, a line for each kind of wrong picture."""
    with mpl.rc_context(svg.STYLE):
        figure, axes = svg.axes("recall", f"precision where {100 * prevalence:.3g}% are wrong", SIZE_INCHES)
        for number, (kind, (scores, labels)) in enumerate(curves.items()):
            points = calibration.operating_points(scores, labels, prevalence=prevalence)
            colour = svg.INK if kind == "all" else COLOURS[(number - 1) % len(COLOURS)]
            axes.plot(points.recalls, points.precisions, color=colour, linewidth=1.8, label=kind)
        axes.set_xlim(0.0, 1.02)
        axes.set_ylim(0.0, 1.05)
        axes.grid(alpha=0.2, color=svg.INK)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4)
        return svg.inline(figure, "Precision against recall")


def reliability_chart(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    prevalence: float,
    counted: NDArray[np.float64] | None = None,
) -> str:
    """Return how often pictures are wrong, among those of like probability, weighed to that prevalence.

    Bins hold equal weight of pairs each, not equal widths: most probabilities are near 0. `counted` (M,) says how much
    each pair counts within its class; without, all count the same.
    """
    positives = labels == 1
    weights = np.ones(len(labels)) if counted is None else counted.astype(np.float64)
    for rows, share in ((positives, prevalence), (~positives, 1 - prevalence)):
        weights = np.where(rows, weights * share / weights[rows].sum(), weights)
    order = np.argsort(probabilities, kind="stable")
    split = np.searchsorted(np.cumsum(weights[order]), np.linspace(0, 1, BINS + 1)[1:-1])
    told, seen = [], []
    for rows in np.split(order, split):
        if len(rows):
            told.append(np.average(probabilities[rows], weights=weights[rows]))
            seen.append(np.average(positives[rows], weights=weights[rows]))
    with mpl.rc_context(svg.STYLE):
        figure, axes = svg.axes("calibrated probability", "share that is wrong", SIZE_INCHES)
        low = max(min((*told, *(share for share in seen if share > 0))), 1e-4)
        axes.plot([low, 1], [low, 1], color=svg.INK, alpha=0.4, linewidth=1)
        axes.plot(told, seen, "o-", color=COLOURS[0], linewidth=1.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(alpha=0.2, color=svg.INK)
        return svg.inline(figure, "Calibrated probability against the share that is wrong")
