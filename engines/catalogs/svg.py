"""Matplotlib figures as inline SVG for a light and for a dark page: text and axes take the page's own colour."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Final

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK: Final = "#010203"
"""Stands for the page's text colour (`currentColor`); no other colour of a figure may be the same."""

STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mismatch-streamer",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
"""For `matplotlib.rc_context`, around all that draws."""


def axes(x: str, y: str, size_inches: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes, labelled `x` and `y`."""
    figure = Figure(figsize=size_inches, layout="constrained")
    made = figure.add_subplot()
    made.set_xlabel(x)
    made.set_ylabel(y)
    return figure, made


def inline(figure: Figure, label: str) -> str:
    """Return the figure as an <svg> element that scales with the page; `label` is what is read aloud."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    element = re.sub(r'\swidth="[^"]*pt"', "", re.sub(r'\sheight="[^"]*pt"', "", element, count=1), count=1)
    return element.replace(INK, "currentColor").replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
