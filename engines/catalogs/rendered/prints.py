"""Patterns as masks of ink on a body; sizes are parts of the box that the body stands in, so packs keep theirs."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from engines.catalogs.rendered.attributes import pick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engines.catalogs.rendered.geometry import Point

FULL = 255


def print_mask(pattern: str, px: int, box: tuple[int, int, int, int], rng: np.random.Generator) -> Image.Image | None:
    """Return where the ink of `pattern` is in a box of `px` pixels, mode L; None for solid.

    `box` is the body's (left, top, right, bottom); direction and size are free and drawn from `rng`.
    """
    if pattern == "solid":
        return None
    mask = Image.new("L", (px, px))
    _PATTERNS[pattern](mask, box, rng)
    return mask


def _striped(mask: Image.Image, _box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    angle = math.radians(pick(rng, (0, 90, 45, -45)) + rng.uniform(-4, 4))
    period = mask.width * rng.uniform(0.12, 0.17)
    _bands(ImageDraw.Draw(mask), mask.width, angle, period, period * rng.uniform(0.34, 0.4))


def _bands(draw: ImageDraw.ImageDraw, px: int, angle: float, period: float, width: float) -> None:
    dx, dy = math.cos(angle), math.sin(angle)
    reach = px * 0.75
    for k in range(-math.ceil(reach / period), math.ceil(reach / period) + 1):
        x, y = px / 2 - dy * k * period, px / 2 + dx * k * period
        ends = ((x - dx * px, y - dy * px), (x + dx * px, y + dy * px))
        draw.line(ends, fill=FULL, width=max(1, round(width)))


def _checked(mask: Image.Image, _box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    angle = math.radians(pick(rng, (0, 0, 45)) + rng.uniform(-4, 4))
    period = mask.width * rng.uniform(0.15, 0.2)
    crossing = Image.new("L", mask.size)
    for layer, turn in ((mask, 0.0), (crossing, math.pi / 2)):
        _bands(ImageDraw.Draw(layer), mask.width, angle + turn, period, period * 0.44)
    both = np.asarray(mask) // 2 + np.asarray(crossing) // 2
    mask.paste(Image.fromarray(both.astype(np.uint8)))


def _zigzag(mask: Image.Image, _box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(mask)
    px = mask.width
    period = px * rng.uniform(0.15, 0.19)
    tooth = period * rng.uniform(0.62, 0.72)
    upright = bool(rng.integers(2))
    teeth = range(-1, math.ceil(px / tooth) + 2)
    for k in range(-1, math.ceil(px / period) + 1):
        top = [(i * tooth, k * period + (i % 2) * tooth) for i in teeth]
        chevrons = top + [(x, y + period * 0.36) for x, y in reversed(top)]
        draw.polygon([(y, x) for x, y in chevrons] if upright else chevrons, fill=FULL)


def _dotted(mask: Image.Image, _box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(mask)
    pitch = mask.width * rng.uniform(0.125, 0.16)
    radius = pitch * rng.uniform(0.29, 0.35)
    for x, y in _lattice(mask.width, pitch, math.radians(rng.uniform(0, 60))):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=FULL)


def _floral(mask: Image.Image, _box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    pitch = mask.width * rng.uniform(0.22, 0.26)
    for i, (x, y) in enumerate(_lattice(mask.width, pitch, math.radians(rng.uniform(0, 60)))):
        bloom = _flower(round(pitch * 0.86), turn=i % 3)
        mask.paste(FULL, (round(x - bloom.width / 2), round(y - bloom.height / 2)), bloom)


@lru_cache(maxsize=256)
def _flower(px: int, turn: int) -> Image.Image:
    """Return one flower of five petals with an open heart, mode L."""
    flower = Image.new("L", (px, px))
    draw = ImageDraw.Draw(flower)
    centre, petal = px / 2, px * 0.17
    for k in range(5):
        angle = math.radians(72 * k + 24 * turn)
        x, y = centre + px * 0.29 * math.cos(angle), centre + px * 0.29 * math.sin(angle)
        draw.ellipse((x - petal, y - petal, x + petal, y + petal), fill=FULL)
    heart = px * 0.12
    draw.ellipse((centre - heart * 1.7, centre - heart * 1.7, centre + heart * 1.7, centre + heart * 1.7), fill=FULL)
    draw.ellipse((centre - heart, centre - heart, centre + heart, centre + heart), fill=0)
    return flower


def _color_block(mask: Image.Image, box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    tilt = rng.uniform(-0.12, 0.12) * height
    edge = bottom - height * rng.uniform(0.34, 0.4)
    draw = ImageDraw.Draw(mask)
    draw.polygon(
        [(left, edge - tilt), (right, edge + tilt), (right + width, bottom * 2), (left - width, bottom * 2)], fill=FULL
    )


def _harlequin(mask: Image.Image, _box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(mask)
    px = mask.width
    half = px * rng.uniform(0.075, 0.095)
    tall = half * rng.uniform(1.5, 1.8)
    for row in range(0, math.ceil(px / tall) + 2, 2):
        for column in range(0, math.ceil(px / half) + 2, 2):
            x, y = column * half, row * tall
            draw.polygon([(x, y - tall), (x + half, y), (x, y + tall), (x - half, y)], fill=FULL)


def _starry(mask: Image.Image, _box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(mask)
    pitch = mask.width * rng.uniform(0.2, 0.24)
    outer = pitch * rng.uniform(0.4, 0.46)
    turn = rng.uniform(0, 72)
    angles = [math.radians(36 * corner + turn) for corner in range(10)]
    reaches = [outer, outer * 0.4] * 5
    for x, y in _lattice(mask.width, pitch, math.radians(rng.uniform(0, 60))):
        star = [(x + r * math.cos(angle), y + r * math.sin(angle)) for r, angle in zip(reaches, angles, strict=True)]
        draw.polygon(star, fill=FULL)


def _camouflage(mask: Image.Image, _box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(mask)
    pitch = mask.width * rng.uniform(0.2, 0.24)
    for x, y in _lattice(mask.width, pitch, math.radians(rng.uniform(0, 60))):
        for _ in range(3):
            dx, dy = rng.normal(0, pitch * 0.2, 2)
            rx, ry = rng.uniform(0.14, 0.3, 2) * pitch
            draw.ellipse((x + dx - rx, y + dy - ry, x + dx + rx, y + dy + ry), fill=FULL)


def _gradient(mask: Image.Image, box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    _, top, _, bottom = box
    reach = np.clip((np.arange(mask.height) - top) / max(1, bottom - top), 0, 1)
    fade = FULL * (reach if rng.integers(2) else 1 - reach) ** rng.uniform(0.9, 1.4)
    mask.paste(Image.fromarray(np.repeat(fade.astype(np.uint8)[:, None], mask.width, axis=1)))


def _lattice(px: int, pitch: float, angle: float) -> Iterator[Point]:
    """Yield the points of a triangular lattice that covers the box, turned by `angle`."""
    cos, sin = math.cos(angle), math.sin(angle)
    reach = math.ceil(px * 0.75 / (pitch * 0.866))
    for row in range(-reach, reach + 1):
        for column in range(-reach, reach + 1):
            u, v = (column + row % 2 / 2) * pitch, row * pitch * 0.866
            x, y = px / 2 + u * cos - v * sin, px / 2 + u * sin + v * cos
            if -pitch < x < px + pitch and -pitch < y < px + pitch:
                yield x, y


_PATTERNS: dict[str, Callable[[Image.Image, tuple[int, int, int, int], np.random.Generator], None]] = {
    "striped": _striped,
    "checked": _checked,
    "zigzag": _zigzag,
    "dotted": _dotted,
    "floral": _floral,
    "color-block": _color_block,
    "harlequin": _harlequin,
    "starry": _starry,
    "camouflage": _camouflage,
    "gradient": _gradient,
}
