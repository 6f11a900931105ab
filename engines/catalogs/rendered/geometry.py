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


def scaled(outline: Outline, px: float) -> Outline:
    """Return the outline in a box of `px` pixels."""
    return tuple((x * px, y * px) for x, y in outline)


def ribbon(line: Outline, width: float) -> Outline:
    """Return the closed outline of an open line of this width; the line may bend but has no sharp corners."""
    points = np.asarray(line, dtype=np.float64)
    along = np.gradient(points, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(along[:, 0], along[:, 1])[:, None] * width / 2
    sides = np.concatenate([points + across, (points - across)[::-1]])
    return tuple((float(x), float(y)) for x, y in sides)


def inset(outline: Outline, factor: float) -> Outline:
    """Return the outline shrunk towards the middle of its box."""
    points = np.asarray(outline, dtype=np.float64)
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    return tuple((float(x), float(y)) for x, y in centre + (points - centre) * factor)


def dashes(outline: Outline, pitch: float) -> list[tuple[Point, Point]]:
    """Return dashes along the closed outline, one every `pitch`, a little longer than their gaps."""
    points = np.asarray((*outline, outline[0]), dtype=np.float64)
    steps = np.diff(points, axis=0)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])
    starts = np.arange(0, along[-1], pitch)
    x, y = points[:, 0], points[:, 1]
    ends = starts + pitch * 0.55
    return [
        ((float(x0), float(y0)), (float(x1), float(y1)))
        for x0, y0, x1, y1 in zip(
            np.interp(starts, along, x),
            np.interp(starts, along, y),
            np.interp(ends, along, x),
            np.interp(ends, along, y),
            strict=True,
        )
    ]
