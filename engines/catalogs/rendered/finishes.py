"""Materials as light sees them: grey maps around 128 that are laid over a colour with hard light.

Below 128 darkens, above brightens, so the same map shows on black and on white. Maps are made once per scale and cut.
`scale` is the picture's side over the 224 pixels for which textures are made.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from engines.catalogs.rendered.geometry import Form

Map = NDArray[np.float64]

NEUTRAL = 128
TILE = 576
"""Side of a texture as made, twice as large as used; an item is at most 188 wide at scale 1, so its cut can move."""

GLOSSY = frozenset({"metal", "glass", "ceramic", "leather"})
"""The materials that mirror a light source."""


@lru_cache(maxsize=64)
def texture(material: str, scale: float) -> Image.Image | None:
    """Return the material's texture, mode L; None for smooth materials."""
    make = _TEXTURES.get(material)
    if make is None:
        return None
    side = max(1, round(TILE / 2 * scale))
    return _image(make()).resize((side, side), Image.Resampling.BILINEAR)


def shading(form: Form, material: str, px: int, *, light_left: bool) -> Image.Image:
    """Return how light falls on a body in a box of `px` pixels, mode L."""
    x, y = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 48))
    x = x if light_left else 1 - x
    fall = _metal(x + 0.12 * y) if material == "metal" else _FORMS[form](x, y) * (1.35 if material in GLOSSY else 1.0)
    return _image(NEUTRAL + fall).resize((px, px), Image.Resampling.BICUBIC)


def glass_depth(px: int) -> Image.Image:
    """Return how dense coloured glass looks across a vessel, mode L: its walls are seen edge-on at the sides."""
    across = np.abs(np.linspace(-1, 1, 48))[None, :].repeat(48, axis=0)
    return _image(160 + 80 * across**3).resize((px, px), Image.Resampling.BICUBIC)


def _image(values: Map) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _round(x: Map, y: Map) -> Map:
    return 26 * np.cos((x - 0.33) * 3.6) - 16 + 6 * (0.5 - y)


def _flat(x: Map, y: Map) -> Map:
    return 24 * (0.46 - (0.55 * x + 0.45 * y))


def _puffed(x: Map, y: Map) -> Map:
    return 22 - 95 * ((x - 0.42) ** 2 + (y - 0.38) ** 2)


_FORMS: dict[Form, Callable[[Map, Map], Map]] = {"round": _round, "flat": _flat, "puffed": _puffed}

# Brushed metal reflects a bright and a dark side of the room in hard-edged bands.
_BAND_PLACES = (0.0, 0.1, 0.18, 0.27, 0.34, 0.42, 0.52, 0.62, 0.7, 0.78, 0.86, 0.95, 1.12)
_BAND_LIGHT = (-55, -25, 30, 92, 96, 18, -22, -48, -52, 42, 62, -20, -62)


def _metal(across: Map) -> Map:
    light: Map = np.interp(across, _BAND_PLACES, _BAND_LIGHT)
    return light


def _grid() -> tuple[Map, Map]:
    y, x = np.mgrid[0:TILE, 0:TILE].astype(np.float64)
    return x, y


def _wool() -> Map:
    """Columns of V-shaped stitches."""
    x, y = _grid()
    width, height = 24.0, 18.0
    across = np.abs((x % width) - width / 2) / (width / 2)  # 0 in the middle of a column, 1 at its border
    along = ((y + across * height * 0.75) % height) / height
    leg = np.sin(np.pi * along) ** 0.7 * np.sin(np.pi * (0.12 + 0.76 * across)) ** 0.5
    return NEUTRAL - 68 + 108 * leg


def _leather() -> Map:
    """Pebbles: the distance to the second nearest minus that to the nearest of scattered points is small in creases.

    Source: Worley 1996, "A cellular texture basis function".
    """
    nearest, second = _worley(cell=12)
    crease = np.clip((second - nearest) / 5, 0, 1)
    x, y = _grid()
    sheen = 20 * np.sin(x / 52 + 1.3 * np.sin(y / 70)) * np.sin(y / 48)
    pebbles: Map = NEUTRAL - 34 + 36 * crease + sheen
    return pebbles


def _worley(cell: int) -> tuple[Map, Map]:
    rng = np.random.default_rng(7)
    cells = TILE // cell
    x, y = _grid()
    column, row = (x // cell).astype(int), (y // cell).astype(int)
    shift = rng.uniform(0.1, 0.9, (2, cells, cells))
    nearest = np.full_like(x, 1e9)
    second = np.full_like(x, 1e9)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            at = ((row + dy) % cells, (column + dx) % cells)
            distance = np.hypot((column + dx + shift[0][at]) * cell - x, (row + dy + shift[1][at]) * cell - y)
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    return nearest, second


def _wood() -> Map:
    """Long grain lines that bend around knots, and fine fibres."""
    x, y = _grid()
    bend = 7 * np.sin(y / 120) + 3 * np.sin(y / 47 + 2)
    for knot_x, knot_y in ((120, 150), (390, 420), (300, 60), (60, 470)):
        away = np.hypot((x - knot_x) / 26, (y - knot_y) / 60)
        bend += np.sign(x - knot_x) * 16 * np.exp(-(away**2))
    rng = np.random.default_rng(11)
    across = np.arange(-60, TILE + 60)
    depths = np.convolve(rng.normal(0, 1, across.size), np.hanning(7), mode="same") ** 2
    grain = np.interp(x + bend, across, depths)
    fibres = np.repeat(rng.normal(0, 1, (TILE // 24, TILE)), 24, axis=0)
    lines: Map = NEUTRAL + 10 - 13 * np.minimum(grain, 4.5) + 4 * fibres
    return lines


def _rattan() -> Map:
    """A basket weave: pairs of strands that go over and under."""
    x, y = _grid()
    cell = 32
    upright = ((x // cell) + (y // cell)) % 2 == 0
    across = np.where(upright, x, y) % (cell / 2) / (cell / 2)
    along = np.where(upright, y, x) % cell / cell
    strand = np.sin(np.pi * across) ** 0.6 * (0.55 + 0.45 * np.sin(np.pi * along))
    return NEUTRAL - 70 + 96 * strand


def _cotton() -> Map:
    """A plain weave too fine to see but for its grain."""
    return NEUTRAL + np.random.default_rng(5).normal(0, 3.5, (TILE, TILE))


_TEXTURES: dict[str, Callable[[], Any]] = {
    "cotton": _cotton,
    "wool": _wool,
    "leather": _leather,
    "wood": _wood,
    "rattan": _rattan,
}
