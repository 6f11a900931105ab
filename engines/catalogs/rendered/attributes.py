"""What a rendered product can be: kinds, colours, patterns, materials and counts, and which go together. A leaf.

Every value here is visible in the picture and named in the text; what may vary without a word is in `scene`.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

Rgb = tuple[int, int, int]

ATTRIBUTES = ("kind", "color", "pattern", "material", "count")
"""What a picture can contradict, in the order in which the text is written."""

AXES = ("color", "pattern", "material", "count")
"""The attributes along which one item is sold in variants."""

COUNTS = ("1", "2", "3", "4")

PATTERNS = ("solid", "striped", "dotted", "checked", "zigzag", "floral", "color-block")

NEW_PATTERNS = ("harlequin", "starry", "camouflage", "gradient")
"""Patterns of new kinds: no engine that was trained on the usual ones has seen them or read their names."""


@dataclass(frozen=True)
class Paint:
    """A colour's centre in HSL (hue in degrees) and the inks that its patterns are printed in."""

    hue: float
    saturation: float
    lightness: float
    inks: tuple[Rgb, ...]


_WHITE_INK = (250, 249, 245)

# The hues of neighbours lie at least 20 degrees apart, or their lightness 0.18; jitter takes up a quarter of that.
# An ink covers less than half of a body and never has another colour's hue: navy on white would read as navy.
PAINTS: dict[str, Paint] = {
    "red": Paint(3, 0.78, 0.45, (_WHITE_INK, _WHITE_INK, (70, 4, 10))),
    "orange": Paint(26, 0.95, 0.53, (_WHITE_INK, _WHITE_INK, (104, 42, 4))),
    "yellow": Paint(50, 0.95, 0.57, ((128, 92, 8), (84, 80, 70))),
    "green": Paint(128, 0.52, 0.36, (_WHITE_INK, _WHITE_INK, (8, 42, 16))),
    "teal": Paint(180, 0.78, 0.37, (_WHITE_INK, _WHITE_INK, (2, 44, 50))),
    "blue": Paint(213, 0.82, 0.53, (_WHITE_INK, _WHITE_INK, (8, 32, 88))),
    "navy": Paint(224, 0.68, 0.21, ((206, 216, 236), (132, 152, 196))),
    "purple": Paint(276, 0.52, 0.46, (_WHITE_INK, _WHITE_INK, (36, 8, 58))),
    "pink": Paint(338, 0.84, 0.76, (_WHITE_INK, _WHITE_INK, (150, 32, 84))),
    "brown": Paint(22, 0.52, 0.28, ((240, 226, 202), (206, 168, 128))),
    "black": Paint(0, 0.0, 0.09, ((168, 168, 172), (128, 128, 132))),
    "white": Paint(40, 0.0, 0.96, ((132, 150, 172), (150, 156, 164))),
    "grey": Paint(215, 0.03, 0.54, ((30, 32, 38), (50, 52, 58))),
    "beige": Paint(37, 0.46, 0.77, ((146, 116, 82), (128, 112, 96))),
}
COLORS = tuple(PAINTS)

_TRANSPARENT_COLORS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")

MATERIALS: dict[str, tuple[str, ...]] = {
    "cotton": COLORS,
    "wool": COLORS,
    "leather": COLORS,
    "ceramic": COLORS,
    "wood": COLORS,
    "rattan": COLORS,
    # Reflections turn white metal into grey; tints that are neutral or dark hide that glass is transparent.
    "metal": tuple(color for color in COLORS if color not in {"white", "black"}),
    "glass": _TRANSPARENT_COLORS,
}
"""Each material and the colours that it comes in."""

_UNCLEAR_PATTERNS: dict[str, frozenset[str]] = {
    "rattan": frozenset({"dotted", "checked", "zigzag", "floral"}),  # finer than its weave, which is itself a check
    "wool": frozenset({"zigzag"}),  # its stitches are small chevrons
    "wood": frozenset({"striped"}),  # its grain is fine stripes
}
"""The patterns that nobody could tell on a material, or from the material."""


@dataclass(frozen=True)
class Kind:
    """What is sold: where it stands in the shop, and what it is made of and printed with."""

    product_type: str
    materials: tuple[str, ...]
    patterns: tuple[str, ...] = PATTERNS


KINDS: dict[str, Kind] = {
    "mug": Kind("Home > Kitchen > Mugs", ("ceramic", "metal", "glass")),
    "bowl": Kind("Home > Kitchen > Bowls", ("ceramic", "wood", "metal")),
    "teapot": Kind("Home > Kitchen > Teapots", ("ceramic", "metal", "glass")),
    "bottle": Kind("Home > Kitchen > Bottles", ("metal", "glass")),
    "vase": Kind("Home > Decor > Vases", ("ceramic", "glass", "metal", "wood")),
    "lamp": Kind("Home > Lighting > Lamps", ("cotton", "metal", "rattan")),
    "pillow": Kind("Home > Textiles > Pillows", ("cotton", "wool", "leather")),
    "chair": Kind("Home > Furniture > Chairs", ("wood", "leather", "cotton", "rattan")),
    "t-shirt": Kind("Apparel > Tops > T-shirts", ("cotton", "wool")),
    "dress": Kind("Apparel > Dresses", ("cotton", "wool")),
    "shorts": Kind("Apparel > Bottoms > Shorts", ("cotton", "leather")),
    "sock": Kind("Apparel > Hosiery > Socks", ("cotton", "wool")),
    "scarf": Kind("Apparel > Accessories > Scarves", ("cotton", "wool")),
    "cap": Kind("Apparel > Accessories > Caps", ("cotton", "wool", "leather")),
    "sneaker": Kind("Apparel > Shoes > Sneakers", ("cotton", "leather", "wool")),
    "watch": Kind("Accessories > Watches", ("leather", "metal"), ("solid", "striped")),
    "umbrella": Kind("Accessories > Umbrellas", ("cotton",)),
    "backpack": Kind("Accessories > Bags > Backpacks", ("cotton", "leather")),
    "tote bag": Kind("Accessories > Bags > Tote bags", ("cotton", "leather", "rattan")),
    "book": Kind("Office > Stationery > Books", ("cotton", "leather")),
}

NEW_KINDS: dict[str, Kind] = {"lantern": Kind("Party > Lanterns", ("cotton",), NEW_PATTERNS)}
"""What comes into a catalogue some day: sold only where a catalogue is asked for it (`render_catalog`)."""

SOLD = KINDS | NEW_KINDS


def patterns_of(kind: str, material: str) -> tuple[str, ...]:
    """Return the patterns in which this kind is sold when made of this material."""
    unclear = _UNCLEAR_PATTERNS.get(material, frozenset())
    return tuple(pattern for pattern in SOLD[kind].patterns if pattern not in unclear)


Value = TypeVar("Value")


def pick(rng: np.random.Generator, values: Sequence[Value]) -> Value:
    """Return one of the values, all equally likely."""
    return values[int(rng.integers(len(values)))]


def happens(rng: np.random.Generator, odds: float) -> bool:
    """Return True with this probability."""
    return bool(rng.uniform() < odds)


def mix_paint(color: str, rng: np.random.Generator) -> Rgb:
    """Return one shade of the colour, near enough to its centre that nobody would call it by another name."""
    paint = PAINTS[color]
    hue = (paint.hue + rng.uniform(-4, 4)) % 360 / 360
    lightness = min(0.98, max(0.06, paint.lightness + rng.uniform(-0.025, 0.025)))
    saturation = paint.saturation * rng.uniform(0.93, 1.05)
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, min(1.0, saturation))
    return round(red * 255), round(green * 255), round(blue * 255)
