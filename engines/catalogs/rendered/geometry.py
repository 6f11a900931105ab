"""Outlines in a unit box (x to the right, y down, both 0..1), and the parts that a silhouette is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Outline = tuple[Point, ...]

Points = NDArray[np.float64]

Tone = Literal["deep", "dark", "light", "steel"]
"""How a part that is not printed is painted: a deeper shade of the product's colour, or one of three neutrals."""

Form = Literal["round", "flat", "puffed"]
"""How light falls: as on a cylinder, on a sheet, on a cushion."""

SPLINE_STEPS = 7


@dataclass(frozen=True)
class Part:
    """A part beside the body: a filled outline, or an open line of this width where `stroke` is above 0."""

    outline: Outline
    tone: Tone
    stroke: float = 0.0


@dataclass(frozen=True)
class Silhouette:
    """What a kind looks like before colour: parts behind, the body in order, creases on it, and parts in front."""

    body: tuple[Outline, ...]
    form: Form
    behind: tuple[Part, ...] = ()
    creases: tuple[Outline, ...] = ()
    front: tuple[Part, ...] = ()
    cavity: tuple[Outline, ...] = ()  # the openings of a vessel


def smooth(points: Outline, *, closed: bool = True) -> Outline:
    """Return a Catmull-Rom spline through the points.

    Source: Catmull and Rom 1974, "A class of local interpolating splines", uniform parameters.
    """
    knots = np.asarray(points, dtype=np.float64)
    padded = np.concatenate([knots[-1:], knots, knots[:2]] if closed else [knots[:1], knots, knots[-1:]])
    steps = np.linspace(0, 1, SPLINE_STEPS, endpoint=False)[:, None]
    curves = [_segment(padded[i : i + 4], steps) for i in range(len(padded) - 3)]
    samples = np.concatenate(curves if closed else [*curves, knots[-1:]])
    return tuple((float(x), float(y)) for x, y in samples)


def _segment(knots: Points, t: Points) -> Points:
    before, start, end, after = knots
    curve: Points = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    return curve


def mirrored(right: Outline, centre: float = 0.5) -> Outline:
    """Return the closed outline whose right half is given from top to bottom."""
    return right + tuple((2 * centre - x, y) for x, y in reversed(right))


def ellipse(cx: float, cy: float, rx: float, ry: float, *, start: float = 0.0, end: float = 360.0) -> Outline:
    """Return an ellipse, or the arc of one from `start` to `end` degrees (0 is right, 90 is down)."""
    angles = np.radians(np.linspace(start, end, 33))
    return tuple((float(cx + rx * np.cos(a)), float(cy + ry * np.sin(a))) for a in angles)


def rounded(left: float, top: float, right: float, bottom: float, radius: float) -> Outline:
    """Return a rectangle with round corners."""
    corners = (
        (right - radius, top + radius, 270.0),
        (right - radius, bottom - radius, 0.0),
        (left + radius, bottom - radius, 90.0),
        (left + radius, top + radius, 180.0),
    )
    arcs = (ellipse(cx, cy, radius, radius, start=a, end=a + 90)[::4] for cx, cy, a in corners)
    return tuple(point for arc in arcs for point in arc)
