"""One item, alone and upright, on a transparent ground: silhouette, colour, print, material, light."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from engines.catalogs.rendered import shapes_home, shapes_wear
from engines.catalogs.rendered.attributes import PAINTS, Rgb, mix_paint, pick
from engines.catalogs.rendered.finishes import GLOSSY, NEUTRAL, glass_depth, shading, texture
from engines.catalogs.rendered.prints import print_mask

if TYPE_CHECKING:
    from engines.catalogs.rendered.geometry import Outline, Part, Point, Silhouette

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
}

_NEUTRALS: dict[str, Rgb] = {"dark": (62, 60, 66), "light": (240, 237, 230), "steel": (176, 181, 188)}

EDGE_SHADE = 62
CREASE_SHADE = 84
SEAM_SHADE = 214


@dataclass(frozen=True)
class Look:
    """What a photographer cannot change about one item."""

    kind: str
    color: str
    pattern: str
    material: str


def draw_item(look: Look, px: int, scale: float, design: np.random.Generator, *, light_left: bool) -> Image.Image:
    """Return the item in a box of `px` pixels, mode RGBA; `scale` is that of `finishes.texture`.

    `design` decides what a maker chooses and no text mentions: the exact shade, the ink, the print's direction.
    """
    silhouette = _outlines(look.kind, px)
    paint, ink = mix_paint(look.color, design), pick(design, PAINTS[look.color].inks)
    mask, box = _body(look.kind, px)
    print_ = print_mask(look.pattern, px, box, design)
    shade = _shade(silhouette, look, px, scale, design, light_left=light_left)
    item = Image.new("RGBA", (px, px), (*paint, 0))
    draw = ImageDraw.Draw(item)
    for part in silhouette.behind:
        _draw_part(draw, part, paint, px)
    surface = _surface(paint, ink, print_, shade)
    if look.material == "glass":
        item = _glaze(item, surface, _clearness(mask, print_))
        draw = ImageDraw.Draw(item)
    else:
        item.paste(surface, (0, 0), mask)
    for cavity in silhouette.cavity:
        fill = None if look.material == "glass" else (*_scaled(paint, 0.62), 255)
        draw.polygon(cavity, fill=fill, outline=(*_scaled(paint, 0.5), 255), width=max(1, px // 90))
    for part in silhouette.front:
        _draw_part(draw, part, paint, px)
    return item


def _surface(paint: Rgb, ink: Rgb, print_: Image.Image | None, shade: Image.Image) -> Image.Image:
    surface = Image.new("RGB", shade.size, paint)
    if print_ is not None:
        surface.paste(ink, (0, 0, *shade.size), print_)
    return ImageChops.hard_light(surface, Image.merge("RGB", (shade, shade, shade)))


def _clearness(mask: Image.Image, print_: Image.Image | None) -> Image.Image:
    """Return the opacity of a glass body: clear in the middle, denser to the sides, full where it is printed."""
    clear = ImageChops.multiply(mask, glass_depth(mask.width))
    return clear if print_ is None else ImageChops.lighter(clear, ImageChops.multiply(mask, print_))


def _glaze(item: Image.Image, surface: Image.Image, opacity: Image.Image) -> Image.Image:
    """Return the translucent body over the translucent parts behind it; both are seen."""
    item.putalpha(item.getchannel("A").point(_PART_CLEARNESS))
    body = surface.convert("RGBA")
    body.putalpha(opacity)
    return Image.alpha_composite(item, body)


_PART_CLEARNESS = [round(value * 0.75) for value in range(256)]


def _shade(
    silhouette: Silhouette, look: Look, px: int, scale: float, design: np.random.Generator, *, light_left: bool
) -> Image.Image:
    """Return light on the body: its form, its material, creases and edges, around neutral grey."""
    shade = shading(silhouette.form, look.material, px, light_left=light_left)
    tile = texture(look.material, scale)
    if tile is None:
        shade = shade.copy()
    else:
        x, y = (int(design.integers(max(1, tile.width - px))) for _ in range(2))
        shade = ImageChops.add(shade, tile.crop((x, y, x + px, y + px)), 1, -NEUTRAL)
    draw = ImageDraw.Draw(shade)
    for crease in silhouette.creases:
        draw.line(crease, fill=CREASE_SHADE, width=max(1, px // 110), joint="curve")
    if look.material == "leather":
        shade.paste(SEAM_SHADE, (0, 0, px, px), _seams(look.kind, px))
    if look.material in GLOSSY:
        _draw_glint(draw, _body(look.kind, px)[1], look.material, light_left=light_left)
    shade.paste(EDGE_SHADE, (0, 0, px, px), _edges(look.kind, px))
    return shade


def _draw_glint(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], material: str, *, light_left: bool) -> None:
    """Mirror a window: one crisp pane on ceramic, long streaks on glass; metal and leather have their own sheen."""
    left, top, right, bottom = box
    panes = {"ceramic": ((0.2, 0.22, 0.29, 0.5),), "glass": ((0.16, 0.12, 0.2, 0.9), (0.25, 0.12, 0.34, 0.9))}
    for x0, y0, x1, y1 in panes.get(material, ()):
        x0, x1 = (x0, x1) if light_left else (1 - x1, 1 - x0)  # noqa: PLW2901 - the pane on the side of the light
        width, height = right - left, bottom - top
        pane = (left + x0 * width, top + y0 * height, left + x1 * width, top + y1 * height)
        draw.rounded_rectangle(pane, radius=(x1 - x0) * width / 2, fill=225)


def _draw_part(draw: ImageDraw.ImageDraw, part: Part, paint: Rgb, px: int) -> None:
    fill = _scaled(paint, 0.8) if part.tone == "deep" else _NEUTRALS[part.tone]
    rim = (*_scaled(fill, 0.66), 255)
    edge = max(1, px // 100)
    if not part.stroke:
        draw.polygon(part.outline, fill=(*fill, 255), outline=rim, width=edge)
        return
    width = max(1, round(part.stroke * px))
    if width > 4 * edge:
        draw.line(part.outline, fill=rim, width=width, joint="curve")
        width -= 2 * edge
    draw.line(part.outline, fill=(*fill, 255), width=width, joint="curve")


def _scaled(color: Rgb, factor: float) -> Rgb:
    red, green, blue = color
    return round(red * factor), round(green * factor), round(blue * factor)


@lru_cache(maxsize=256)
def _outlines(kind: str, px: int) -> Silhouette:
    """Return the kind's silhouette in pixels."""
    shape = SILHOUETTES[kind]
    return replace(
        shape,
        body=tuple(_in_pixels(outline, px) for outline in shape.body),
        creases=tuple(_in_pixels(line, px) for line in shape.creases),
        cavity=tuple(_in_pixels(outline, px) for outline in shape.cavity),
        behind=tuple(replace(part, outline=_in_pixels(part.outline, px)) for part in shape.behind),
        front=tuple(replace(part, outline=_in_pixels(part.outline, px)) for part in shape.front),
    )


def _in_pixels(outline: Outline, px: int) -> Outline:
    return tuple((x * px, y * px) for x, y in outline)


@lru_cache(maxsize=256)
def _body(kind: str, px: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Return where the body is, mode L, and its (left, top, right, bottom)."""
    mask = Image.new("L", (px, px))
    draw = ImageDraw.Draw(mask)
    for outline in _outlines(kind, px).body:
        draw.polygon(outline, fill=255)
    box = mask.getbbox()
    assert box is not None
    return mask, box


@lru_cache(maxsize=256)
def _edges(kind: str, px: int) -> Image.Image:
    """Return the outlines of the body's parts, later parts over earlier ones, mode L."""
    edges = Image.new("L", (px, px))
    draw = ImageDraw.Draw(edges)
    for outline in _outlines(kind, px).body:
        draw.polygon(outline, fill=0, outline=200, width=max(2, px // 80))
    return edges


@lru_cache(maxsize=256)
def _seams(kind: str, px: int) -> Image.Image:
    """Return stitches a little inside the body's outlines, mode L: what every leather good has."""
    seams = Image.new("L", (px, px))
    draw = ImageDraw.Draw(seams)
    for outline in _outlines(kind, px).body:
        for start, end in _dashes(_inset(outline, 0.9), px / 26):
            draw.line((start, end), fill=225, width=max(1, px // 70))
    return seams


def _inset(outline: Outline, factor: float) -> Outline:
    points = np.asarray(outline)
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    return tuple((float(x), float(y)) for x, y in centre + (points - centre) * factor)


def _dashes(outline: Outline, pitch: float) -> list[tuple[Point, Point]]:
    """Return dashes of half a pitch along the closed outline."""
    points = np.asarray((*outline, outline[0]))
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    starts = np.arange(0, along[-1], pitch)

    def at(length: np.ndarray) -> list[Point]:
        x, y = (np.interp(length, along, points[:, axis]) for axis in (0, 1))
        return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]

    return list(zip(at(starts), at(starts + pitch * 0.55), strict=True))
