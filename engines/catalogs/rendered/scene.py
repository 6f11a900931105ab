"""The photo around the items: backdrop, layout, shadow, light, lens. Nothing here is ever named in a text."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from engines.catalogs.rendered.attributes import happens

if TYPE_CHECKING:
    from engines.catalogs.rendered.attributes import Rgb

Place = tuple[float, float]
Corner = tuple[int, int]

BOX = {1: 0.84, 2: 0.5, 3: 0.47, 4: 0.46}
"""Side of the box of one item, as a part of the picture, by number of items."""

LAYOUTS: dict[int, tuple[tuple[Place, ...], ...]] = {
    1: (((0.5, 0.5),),),
    2: (((0.26, 0.5), (0.74, 0.5)), ((0.27, 0.4), (0.73, 0.6)), ((0.27, 0.6), (0.73, 0.4))),
    3: (
        ((0.5, 0.27), (0.26, 0.73), (0.74, 0.73)),
        ((0.26, 0.27), (0.74, 0.27), (0.5, 0.73)),
        ((0.27, 0.26), (0.27, 0.74), (0.74, 0.5)),
    ),
    4: (((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)),),
}

MIN_CONTRAST = 75
"""Least distance in RGB between a backdrop and what stands before it."""


def backdrop(size: int, item: Rgb, rng: np.random.Generator, *, table: bool) -> Image.Image:
    """Return an empty set, mode RGB: a paper in a light tone with a soft gradient, and perhaps the edge of a table."""
    tone = _tone(item, rng)
    shift = rng.uniform(-8, 8, (3, 3, 1)) + rng.uniform(-5, 9)
    corners = (np.asarray(tone, dtype=np.float64) + shift).clip(0, 255).astype(np.uint8)
    ground = Image.fromarray(corners).resize((size, size), Image.Resampling.BICUBIC)
    if table:
        edge = round(size * rng.uniform(0.62, 0.78))
        darker = tuple(round(c * rng.uniform(0.86, 0.95)) for c in tone)
        ground.paste(darker, (0, edge, size, size))
    return ground


def _tone(item: Rgb, rng: np.random.Generator) -> Rgb:
    """Return a light tone that stands off the item."""
    for _ in range(8):
        lightness = rng.uniform(0.8, 0.97)
        red, green, blue = colorsys.hls_to_rgb(rng.uniform(), lightness, rng.uniform(0.0, 0.4))
        tone = (round(red * 255), round(green * 255), round(blue * 255))
        if float(np.linalg.norm(np.subtract(tone, item))) >= MIN_CONTRAST:
            return tone
    return (214, 218, 224) if sum(item) > 3 * 200 else (246, 246, 244)


def lay_out(count: int, rng: np.random.Generator) -> list[Place]:
    """Return the centres of the items, in parts of the picture, the whole group a little off the middle."""
    layouts = LAYOUTS[count]
    places = layouts[int(rng.integers(len(layouts)))]
    reach = 0.05 if count == 1 else 0.012
    dx, dy = rng.uniform(-reach, reach, 2)
    return [(x + dx + rng.uniform(-0.006, 0.006), y + dy + rng.uniform(-0.006, 0.006)) for x, y in places]


def cast_shadow(
    ground: Image.Image, item: Image.Image, corners: list[Corner], rng: np.random.Generator, *, light_left: bool
) -> None:
    """Darken the set softly where the items, one mask with its top left corners, keep the light off."""
    step = max(1, ground.width // 56)
    small = Image.new("L", (ground.width // step + 1, ground.height // step + 1))
    dx = ground.width * rng.uniform(0.01, 0.035) * (1 if light_left else -1)
    dy = ground.height * rng.uniform(0.015, 0.035)
    reduced = item.reduce(step)
    for x, y in corners:
        small.paste(255, (round((x + dx) / step), round((y + dy) / step)), reduced)
    strength = rng.uniform(0.22, 0.4)
    soft = small.filter(ImageFilter.BoxBlur(float(rng.uniform(1.0, 2.2))))
    soft = soft.point((np.arange(256) * strength).astype(np.uint8).tolist())
    side = small.width * step
    shadow = soft.resize((side, side), Image.Resampling.BILINEAR).crop((0, 0, *ground.size))
    ground.paste((38, 36, 46), (0, 0, *ground.size), shadow)


def expose(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the photo as a camera gives it: brightness, colour temperature, a soft lens, sensor noise."""
    brightness, warmth = rng.uniform(0.9, 1.06), rng.uniform(-0.035, 0.035)
    gains = (brightness * (1 + warmth), brightness, brightness * (1 - warmth))
    photo = photo.point(np.outer(gains, np.arange(256)).clip(0, 255).astype(np.uint8).ravel().tolist())
    if happens(rng, 0.35):
        photo = photo.filter(ImageFilter.BoxBlur(float(rng.uniform(0.1, 0.28)) * photo.width / 224))
    grain = _grain(photo.width, int(rng.integers(4)), int(rng.integers(3)))
    return ImageChops.add(photo, grain, 1, -128)


@lru_cache(maxsize=48)
def _grain(size: int, sample: int, level: int) -> Image.Image:
    noise = np.random.default_rng(sample).normal(128, (0.8, 2.0, 3.5)[level], (size, size, 3))
    return Image.fromarray(noise.round().clip(0, 255).astype(np.uint8))
