"""What does not depend on colour or print: where a kind's parts are, and how light falls on them. Cached by size.

Shapes are drawn `SUPERSAMPLING` times larger than they are used, and reduced.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, reduce
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageDraw

from engines.catalogs.rendered import shapes_home, shapes_wear
from engines.catalogs.rendered.finishes import glass_depth, shading
from engines.catalogs.rendered.geometry import dashes, inset, ribbon, scaled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engines.catalogs.rendered.geometry import Outline, Part, Silhouette

SUPERSAMPLING = 2

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in supersampled pixels."""

SILHOUETTES: dict[str, Silhouette] = {
    "mug": shapes_home.MUG,
    "bowl": shapes_home.BOWL,
    "teapot": shapes_home.TEAPOT,
    "bottle": shapes_home.BOTTLE,
    "vase": shapes_home.VASE,
    "lamp": shapes_home.LAMP,
    "pillow": shapes_home.PILLOW,
    "chair": shapes_home.CHAIR,
    "book": shapes_home.BOOK,
    "t-shirt": shapes_wear.T_SHIRT,
    "dress": shapes_wear.DRESS,
    "shorts": shapes_wear.SHORTS,
    "sock": shapes_wear.SOCK,
    "scarf": shapes_wear.SCARF,
    "cap": shapes_wear.CAP,
    "sneaker": shapes_wear.SNEAKER,
    "watch": shapes_wear.WATCH,
    "umbrella": shapes_wear.UMBRELLA,
    "backpack": shapes_wear.BACKPACK,
    "tote bag": shapes_wear.TOTE_BAG,
    "lantern": shapes_home.LANTERN,
}

EDGE, CREASE, BINDING, STITCH, GLINT = 62, 84, 80, 220, 225
"""Levels of shade: outlines, folds, the bound border of leather and its stitches, the mirror image of a window."""

# Where a window is mirrored, as parts of the body's box when light falls from the left: left, top, right, bottom.
_PANES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "ceramic": ((0.2, 0.22, 0.29, 0.5),),
    "glass": ((0.16, 0.12, 0.2, 0.9), (0.25, 0.12, 0.34, 0.9)),
}

_HANDLE_CLEARNESS, _RIM_CLEARNESS = 0.75, 0.45
"""Opacity of a glass vessel's handle and foot, thicker than its walls, and of the far wall seen over its rim."""


@lru_cache(maxsize=256)
def silhouette(kind: str, px: int) -> Silhouette:
    """Return the kind's silhouette in a box of `px` pixels, its lines turned into outlines."""
    shape = SILHOUETTES[kind]
    return replace(
        shape,
        body=tuple(scaled(outline, px) for outline in shape.body),
        creases=tuple(scaled(line, px) for line in shape.creases),
        cavity=tuple(scaled(outline, px) for outline in shape.cavity),
        behind=tuple(_filled(part, px) for part in shape.behind),
        front=tuple(_filled(part, px) for part in shape.front),
    )


@lru_cache(maxsize=256)
def body(kind: str, px: int) -> tuple[Image.Image, Box]:
    """Return where the body is, mode L, and its box, both supersampled."""
    mask = _drawn(px, silhouette(kind, px).body)
    box = mask.getbbox()
    assert box is not None
    return mask, box


@lru_cache(maxsize=256)
def opacity(kind: str, px: int, *, glass: bool) -> Image.Image:
    """Return how much of the ground each pixel of an item hides, mode L, not supersampled."""
    shape = silhouette(kind, px)
    behind = _drawn(px, (part.outline for part in shape.behind))
    front = _drawn(px, (part.outline for part in shape.front))
    rim = _drawn(px, shape.cavity)
    solid = body(kind, px)[0]
    if glass:
        rim = rim.point([round(level * _RIM_CLEARNESS) for level in range(256)])
        behind = behind.point([round(level * _HANDLE_CLEARNESS) for level in range(256)])
        # The walls of a vessel hide its handle where it passes behind them.
        behind.paste(0, (0, 0, px, px), solid)
        solid = ImageChops.multiply(solid, glass_depth(px))
    layers = (behind, rim, solid, front)
    return reduce(ImageChops.lighter, layers).reduce(SUPERSAMPLING)


@lru_cache(maxsize=512)
def relief(kind: str, material: str, px: int, *, light_left: bool) -> Image.Image:
    """Return light on the body, its folds and outlines, around `finishes.NEUTRAL`; mode L, not supersampled."""
    shape = silhouette(kind, px)
    shade = shading(shape.form, material, px, light_left=light_left)
    draw = ImageDraw.Draw(shade)
    for crease in shape.creases:
        draw.line(crease, fill=CREASE, width=max(1, px // 110))
    if material == "leather":
        _bind(shade, draw, shape)
    for pane in _panes(body(kind, px)[1], material, light_left=light_left):
        draw.rounded_rectangle(pane, radius=(pane[2] - pane[0]) / 2, fill=GLINT)
    shade.paste(EDGE, (0, 0, px, px), _edges(shape, px))
    return shade.reduce(SUPERSAMPLING)


@lru_cache(maxsize=256)
def unlit(kind: str, px: int) -> Image.Image:
    """Return where relief and texture do not reach: all but the body, and what lies on it; mode L, not supersampled."""
    shape = silhouette(kind, px)
    covered = ImageChops.invert(body(kind, px)[0])
    draw = ImageDraw.Draw(covered)
    for outline in (*shape.cavity, *(part.outline for part in shape.front)):
        draw.polygon(outline, fill=255)
    return covered.reduce(SUPERSAMPLING)


def _filled(part: Part, px: int) -> Part:
    outline = scaled(part.outline, px)
    return replace(part, outline=ribbon(outline, part.stroke * px) if part.stroke else outline, stroke=0.0)


def _drawn(px: int, outlines: Iterable[Outline]) -> Image.Image:
    mask = Image.new("L", (px, px))
    draw = ImageDraw.Draw(mask)
    for outline in outlines:
        draw.polygon(outline, fill=255)
    return mask


def _bind(shade: Image.Image, draw: ImageDraw.ImageDraw, shape: Silhouette) -> None:
    """Give every part of the body a darker border with stitches in it, as leather goods have."""
    px = shade.width
    border = Image.new("L", (px, px))
    for outline in shape.body:
        ImageDraw.Draw(border).polygon(outline, fill=255)
        ImageDraw.Draw(border).polygon(inset(outline, 0.83), fill=0)
    shade.paste(BINDING, (0, 0, px, px), border.point([level * 3 // 4 for level in range(256)]))
    for outline in shape.body:
        for dash in dashes(inset(outline, 0.9), px / 22):
            draw.line(dash, fill=STITCH, width=max(1, px // 64))


def _panes(box: Box, material: str, *, light_left: bool) -> Iterable[tuple[float, float, float, float]]:
    """Yield the mirror images of a window: one on ceramic, long streaks on glass."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    for x0, y0, x1, y1 in _PANES.get(material, ()):
        start = x0 if light_left else 1 - x1
        pane_left = left + start * width
        yield pane_left, top + y0 * height, pane_left + (x1 - x0) * width, top + y1 * height


def _edges(shape: Silhouette, px: int) -> Image.Image:
    """Return the outlines of the body's parts, later parts over earlier ones, mode L."""
    edges = Image.new("L", (px, px))
    draw = ImageDraw.Draw(edges)
    for outline in shape.body:
        draw.polygon(outline, fill=0, outline=200, width=max(2, px // 80))
    return edges
