"""One item, alone and upright: silhouette, colour, print, material, light."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageChops, ImageDraw

from engines.catalogs.rendered.attributes import PAINTS, Rgb, mix_paint, pick
from engines.catalogs.rendered.finishes import NEUTRAL, texture
from engines.catalogs.rendered.prints import print_mask
from engines.catalogs.rendered.relief import SUPERSAMPLING, body, opacity, relief, silhouette, unlit

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from engines.catalogs.rendered.geometry import Part, Silhouette

_NEUTRALS: dict[str, Rgb] = {"dark": (62, 60, 66), "light": (240, 237, 230), "steel": (176, 181, 188)}


class Look(NamedTuple):
    """What a photographer cannot change about one item."""

    kind: str
    color: str
    pattern: str
    material: str


class Sprite(NamedTuple):
    """An item cut out: `pixels` (RGB) where `alpha` (L) is above 0; the rest of `pixels` is the item's paint."""

    pixels: Image.Image
    alpha: Image.Image


def draw_item(look: Look, side: int, scale: float, design: np.random.Generator, *, light_left: bool) -> Sprite:
    """Return the item in a box of `side` pixels; `scale` is that of `finishes.texture`.

    `design` decides what a maker chooses and no text mentions: the exact shade, the ink, the print's direction.
    """
    px = side * SUPERSAMPLING
    paint, ink = mix_paint(look.color, design), pick(design, PAINTS[look.color].inks)
    solid, box = body(look.kind, px)
    print_ = print_mask(look.pattern, px, box, design)
    if print_ is not None:
        print_ = ImageChops.multiply(print_, solid)
    flat = _paint_parts(silhouette(look.kind, px), solid, print_, (paint, ink), glass=look.material == "glass")
    shade = _shade(look, px, scale, design, light_left=light_left)
    pixels = ImageChops.hard_light(flat.reduce(SUPERSAMPLING), Image.merge("RGB", (shade, shade, shade)))
    alpha = opacity(look.kind, px, glass=look.material == "glass")
    if print_ is not None and look.material == "glass":
        alpha = ImageChops.lighter(alpha, print_.reduce(SUPERSAMPLING))
    return Sprite(pixels, alpha)


def _paint_parts(
    shape: Silhouette, solid: Image.Image, print_: Image.Image | None, colors: tuple[Rgb, Rgb], *, glass: bool
) -> Image.Image:
    """Return the item in flat colours, mode RGB, supersampled: what is behind, the printed body, what is in front."""
    paint, ink = colors
    flat = Image.new("RGB", solid.size, paint)
    draw = ImageDraw.Draw(flat)
    edge = max(1, flat.width // 100)
    if shape.behind:
        _paint(draw, shape.behind, paint, edge)
        flat.paste(paint, (0, 0, *flat.size), solid)
    if print_ is not None:
        flat.paste(ink, (0, 0, *flat.size), print_)
    for cavity in shape.cavity:
        inside = None if glass else _scaled(paint, 0.62)
        draw.polygon(cavity, fill=inside, outline=_scaled(paint, 0.5), width=edge)
    _paint(draw, shape.front, paint, edge)
    return flat


def _paint(draw: ImageDraw.ImageDraw, parts: Iterable[Part], paint: Rgb, edge: int) -> None:
    for part in parts:
        fill = _scaled(paint, 0.8) if part.tone == "deep" else _NEUTRALS[part.tone]
        draw.polygon(part.outline, fill=fill, outline=_scaled(fill, 0.66), width=edge)


def _shade(look: Look, px: int, scale: float, design: np.random.Generator, *, light_left: bool) -> Image.Image:
    """Return light on the body and its material, neutral elsewhere; mode L, not supersampled."""
    shade = relief(look.kind, look.material, px, light_left=light_left)
    tile = texture(look.material, scale)
    if tile is not None:
        x, y = (int(design.integers(max(1, tile.width - shade.width))) for _ in range(2))
        cut = tile.crop((x, y, x + shade.width, y + shade.height))
        shade = ImageChops.add(shade, cut, 1, -NEUTRAL)
    return Image.composite(Image.new("L", shade.size, NEUTRAL), shade, unlit(look.kind, px))


def _scaled(color: Rgb, factor: float) -> Rgb:
    red, green, blue = color
    return round(red * factor), round(green * factor), round(blue * factor)
