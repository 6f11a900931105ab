"""The report's two charts: how the scores fall, and precision against recall. Matplotlib stays in here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from engines.catalogs import svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.demo.evaluation import PrecisionRecall, Verdict

RIGHT, WRONG, THRESHOLD = "#4f8fd0", "#e0524d", "#c98a1b"
BINS = 40
SIZE_INCHES = (6.2, 3.4)


def score_histogram(verdicts: Sequence[Verdict]) -> str:
    """Return the histogram of calibrated probabilities, right and wrong pictures apart, counts on a log axis."""
    with mpl.rc_context(svg.STYLE):
        figure, axes = svg.axes("calibrated probability of a mismatch", "events", SIZE_INCHES)
        edges = np.linspace(0.0, 1.0, BINS + 1)
        for swapped, colour, label in ((False, RIGHT, "right picture"), (True, WRONG, "wrong picture")):
            values = [v.probability for v in verdicts if v.truth.swapped == swapped]
            axes.hist(values, bins=edges.tolist(), color=colour, alpha=0.75, label=f"{label} ({len(values):,})")
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.set_xlim(0.0, 1.0)
        for threshold in sorted({v.threshold for v in verdicts}):
            axes.axvline(threshold, color=THRESHOLD, linestyle="--", linewidth=1.5, label=f"threshold {threshold:.2f}")
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        return svg.inline(figure, "Histogram of scores")


def precision_recall_chart(curve: PrecisionRecall, recall: float | None, precision: float | None) -> str:
    """Return the precision-recall curve with the operating point, where the release's threshold puts it."""
    with mpl.rc_context(svg.STYLE):
        figure, axes = svg.axes("recall", "precision", SIZE_INCHES)
        axes.step(
            np.concatenate(([0.0], curve.recall)),
            np.concatenate(([curve.precision[0]], curve.precision)),
            where="pre",
            color=RIGHT,
            linewidth=2,
            label=f"average precision {curve.average_precision:.3f}",
        )
        if recall is not None and precision is not None:
            axes.plot([recall], [precision], "o", color=WRONG, markersize=9, label="at the threshold")
        axes.set_xlim(0.0, 1.02)
        axes.set_ylim(0.0, 1.05)
        axes.grid(alpha=0.2, color=svg.INK)
        axes.legend(frameon=False, loc="lower left")
        return svg.inline(figure, "Precision against recall")
