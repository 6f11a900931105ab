"""The figure of a comparison: where champion and challenger put each product, and which alerts would change.

Needs matplotlib (the extras `demo` and `train` have it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from streamer.terminal import printable

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from streamer.comparison import Comparison
    from streamer.shadow_events import Agreement

SHOWN_CATEGORIES = 12
SIZE_INCHES = (11.0, 5.0)
BOTH, NEITHER, OPENS, CLOSES = "#7a7a7a", "#c9c9c9", "#e0524d", "#4f8fd0"
_REACH = 12.0  # log-odds; what is farther away is drawn at the edge


def draw(comparison: Comparison, path: Path) -> None:
    """Write the figure, in the format that the file's name ends with.

    Raises:
        ValueError: there is no such format.
    """
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        products, categories = figure.subplots(1, 2)
        figure.suptitle(f"{comparison.challenger} tried beside {comparison.champion}")
        _products(products, comparison)
        _categories(categories, comparison)
        figure.savefig(path, dpi=150)


def _products(axes: Axes, comparison: Comparison) -> None:
    """Draw each product by its distance from either threshold, in log-odds: right of 0 the champion alerts."""
    group = comparison.all
    x = np.clip(group.champion_margins, -_REACH, _REACH)
    y = np.clip(group.challenger_margins, -_REACH, _REACH)
    for alerts_x, alerts_y, color, name in (
        (False, False, NEITHER, "neither alerts"),
        (True, True, BOTH, "both alert"),
        (False, True, OPENS, "would open"),
        (True, False, CLOSES, "would close"),
    ):
        chosen = ((x >= 0) == alerts_x) & ((y >= 0) == alerts_y)
        axes.scatter(x[chosen], y[chosen], s=6, color=color, label=f"{name} ({int(chosen.sum()):,})", rasterized=True)
    for line in (axes.axhline, axes.axvline):
        line(0.0, color="black", linewidth=0.8)
    rank = "not defined" if group.spearman is None else f"{group.spearman:.3f}"
    axes.set_title(f"{group.products:,} products, rank correlation {rank}")
    axes.set_xlabel("champion: log-odds above its threshold")
    axes.set_ylabel("challenger: log-odds above its threshold")
    axes.legend(frameon=False, loc="upper left")


def _categories(axes: Axes, comparison: Comparison) -> None:
    """Draw for each of the largest categories which share of its products would open or close an alert."""
    shown = comparison.largest(SHOWN_CATEGORIES)[::-1]
    places = np.arange(len(shown))
    sides: tuple[tuple[int, Agreement, str, str], ...]
    sides = ((1, "opens", OPENS, "would open"), (-1, "closes", CLOSES, "would close"))
    for sign, kind, color, label in sides:
        shares = [sign * 100 * group.agreements[kind] / group.products for _, group in shown]
        axes.barh(places, shares, color=color, label=label)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(places, [f"{printable(name)} ({group.products:,})" for name, group in shown])
    axes.set_xlabel("% of the category's products")
    axes.set_title("alerts that would change")
    axes.legend(frameon=False, loc="lower right")
