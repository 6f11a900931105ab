"""The plots of a model card as inline SVG. Matplotlib stays in here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl
import numpy as np

from engines import calibration
from engines.build.report.charts import COLOURS, SIZE_INCHES
from engines.catalogs import svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engines.build.retrain.frozen import FrozenSet
    from engines.build.retrain.paired import Answers, SliceTest

CHAMPION, CHALLENGER = COLOURS[6], COLOURS[1]
_BINS: Final = 24
_SHOWN: Final = 24
_Z_95: Final = 1.959964
_BAR_INCHES: Final = 0.28


def precision_recall(asked: FrozenSet, answers: Answers, target: float) -> str:
    """Return precision against recall of both engines on a set."""
    with mpl.rc_context(svg.STYLE):
        figure, axes = svg.axes("recall", f"precision where {asked.prevalence:.1%} are wrong", SIZE_INCHES)
        for name, logits, colour in (
            ("champion", answers.champion, CHAMPION),
            ("challenger", answers.challenger, CHALLENGER),
        ):
            points = calibration.operating_points(
                logits, asked.pairs.label, prevalence=asked.prevalence, weights=asked.weights
            )
            axes.plot(points.recalls, points.precisions, color=colour, linewidth=1.8, label=name)
        axes.axhline(target, color=svg.INK, alpha=0.4, linewidth=1, linestyle="--")
        axes.set_xlim(0.0, 1.02)
        axes.set_ylim(0.0, 1.05)
        axes.grid(alpha=0.2, color=svg.INK)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
        return svg.inline(figure, f"Precision against recall on the {asked.name}")


def slices(tests: Sequence[SliceTest], margins: dict[str, float]) -> str:
    """Return what each slice lost, with 95 % intervals, those that lost most first; dashes are the margins."""
    chosen = sorted(tests, key=lambda test: -test.lost)[:_SHOWN][::-1]
    size = (SIZE_INCHES[0] * 1.6, 1.2 + _BAR_INCHES * len(chosen))
    with mpl.rc_context(svg.STYLE):
        figure, axes = svg.axes("worse by", "", size)
        places = np.arange(len(chosen))
        for colour, what in ((COLOURS[0], "recall"), (COLOURS[3], "false alarms")):
            rows = [place for place, test in enumerate(chosen) if test.what == what]
            lost = [chosen[row].lost for row in rows]
            spread = [_Z_95 * chosen[row].spread for row in rows]
            axes.errorbar(lost, rows, xerr=spread, fmt="o", color=colour, label=what, linewidth=1.4)
            axes.axvline(margins[what], color=colour, linestyle="--", linewidth=1)
        axes.axvline(0.0, color=svg.INK, alpha=0.4, linewidth=1)
        axes.set_yticks(places, [f"{_short(test.name)} ({test.pairs:,})" for test in chosen])
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
        return svg.inline(figure, "What became worse, by slice")


def drift(known: NDArray[np.float64], scored: NDArray[np.float64], weights: NDArray[np.float64]) -> str:
    """Return how the champion's logits fall for right products, where it was measured and on what it has scored since.

    Args:
        known: logits of right products of the benchmark.
        scored: logits of confirmed items.
        weights: how many scored products each of these stands for.
    """
    with mpl.rc_context(svg.STYLE):
        figure, axes = svg.axes("the champion's logit", "share of products", SIZE_INCHES)
        edges = np.linspace(min(known.min(), scored.min()), max(known.max(), scored.max()) + 1e-6, _BINS + 1)
        for values, counted, colour, label in (
            (known, np.ones(len(known)), CHAMPION, "right products of the benchmark"),
            (scored, weights, CHALLENGER, "what was scored, by its labels"),
        ):
            heights, _ = np.histogram(values, bins=edges, weights=counted / counted.sum())
            axes.stairs(heights, edges, color=colour, fill=True, alpha=0.45, label=label)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=1)
        return svg.inline(figure, "How the champion's scores have moved")


def _short(name: str) -> str:
    name = name.replace("$", r"\$")  # which would begin a formula
    return name if len(name) <= 48 else f"{name[:47]}…"  # noqa: PLR2004 - what a line has room for
