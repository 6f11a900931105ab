"""The survey's histograms as inline SVG, in the page's own text colour. Matplotlib stays in here.

Only numbers are drawn: Matplotlib reads `$` in a text as mathematics, and product text is somebody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from engines.catalogs import svg

if TYPE_CHECKING:
    from engines.catalogs.survey.figures import Distribution

BAR = "#4f8fd0"
SIZE_INCHES = (5.6, 2.5)


def histogram(distribution: Distribution, *, x: str, y: str, label: str) -> str:
    """Return the histogram as an <svg> element that scales with the page; the last bar takes all that is above it."""
    edges, counts = distribution.edges, distribution.counts
    step = edges[1] - edges[0]
    with mpl.rc_context(svg.STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        # A bar of whole numbers stands over them: those from 3 to below 4 are the threes.
        lefts = [edge - 0.5 for edge in edges[:-1]]
        axes.bar(lefts, counts, width=step * 0.92, align="edge", color=BAR)
        tail = distribution.maximum >= edges[-1]
        axes.set_xlabel(f"{x}; the last bar: {edges[-2]:,.0f} and above" if tail else x)
        axes.set_ylabel(y)
        axes.set_xlim(lefts[0] - max(step, 1) * 0.5, edges[-1] - 0.5 + max(step, 1) * 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        return svg.inline(figure, label)
