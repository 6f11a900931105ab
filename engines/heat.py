"""Where in a picture the case against a claim stands: found by covering one region after the other, drawn over it.

    a pair, whole and without the claim ──► heat_map: 2 x 37 inferences ──► overlay: a transparent PNG, red to yellow

For reports, the demo's and those of `engines.build`, and for alerts, where `streamer.explain` runs the engine itself.
No I/O.

Source: occlusion sensitivity, Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks".
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from engines.contract import Batch
from engines.inference import infer_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.contract import Engine, ImageSpec

GRID: Final = 6
"""Rows and columns of a heat map; each region costs two inferences."""

OVERLAY_PX: Final = 64

_SQUARE: Final = 1.5  # side of what is covered, in cells: squares that overlap leave no feature whole between them
_SMOOTH: Final = Image.Resampling.BICUBIC
_MAX_ALPHA: Final = 190  # the picture still shows through where it is warmest
_WARM, _HOT = np.array((226, 28, 36)), np.array((255, 226, 64))  # red to yellow: one of them shows on any colour


def heat_map(engine: Engine, whole: Batch, without: Batch) -> NDArray[np.float32]:
    """Return float32 (GRID, GRID): how much of the case against a claim each region of the picture carries, in logits.

    The case is the logit of the whole text less that of the text without the claim; a region carries what is lost when
    it is covered with the picture's background. Below 0: covering it makes the case stronger.

    Args:
        engine: runs 2 x (GRID x GRID + 1) pairs.
        whole: one pair.
        without: the same pair, the claim masked; see `engines.attribution.leave_out`.

    Raises:
        InferenceFailed: the engine cannot score a covered picture.
    """
    pictures = covered(whole.pixel_values[0])
    return lost(*(_infer(engine, pictures, pair) for pair in (whole, without)))


def covered(pixel_values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8 (1 + GRID * GRID, 3, H, W): a picture, and with each region in its background's colour."""
    pictures = np.repeat(pixel_values[None], 1 + GRID * GRID, axis=0)
    edges = (pixel_values[:, 0], pixel_values[:, -1], pixel_values[:, :, 0], pixel_values[:, :, -1])
    background = np.median(np.concatenate(edges, axis=1), axis=1).astype(np.uint8)  # (3,)
    height, width = pixel_values.shape[1:]
    for cell, picture in enumerate(pictures[1:]):
        rows, columns = _stretch(cell // GRID, height), _stretch(cell % GRID, width)
        picture[:, rows, columns] = background[:, None, None]
    return pictures


def lost(full: NDArray[np.float32], rest: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the heat map of the logits of all `covered` pictures, (1 + GRID * GRID,), with the claim and without."""
    case = full - rest
    return np.asarray((case[0] - case[1:]).reshape(GRID, GRID), dtype=np.float32)


def percent(heat: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Return the heat as shares of the warmest region's, 0..100; None where nothing is warm."""
    warm = np.clip(heat, 0.0, None)
    return np.rint(100 * warm / warm.max()).astype(np.int64) if warm.max() > 0.0 else None


def overlay(heat: NDArray[np.float32], size_px: tuple[int, int], spec: ImageSpec) -> str | None:
    """Return a small transparent picture with the proportions of the one below it, red to yellow where it is warm.

    Args:
        heat: float32 (G, G) over the engine's picture, margins included.
        size_px: width and height of the picture that it is to lie on: as it was published, or as the engine sees it.
        spec: how the engine sees it.

    Returns:
        A data URL; None where nothing is warm.
    """
    warm = np.clip(heat, 0.0, None)
    if warm.max() <= 0.0:
        return None
    width, height = size_px
    level = Image.fromarray((warm / warm.max()).astype(np.float32)).resize((spec.width, spec.height), _SMOOTH)
    if spec.fit == "pad":  # only the picture, not the margins around it
        scale = min(spec.width / width, spec.height / height)
        left, top = (spec.width - width * scale) / 2, (spec.height - height * scale) / 2
        level = level.crop((round(left), round(top), round(spec.width - left), round(spec.height - top)))
    shrink = OVERLAY_PX / max(width, height)
    level = level.resize((max(1, round(width * shrink)), max(1, round(height * shrink))), _SMOOTH)
    drawn = _coloured(np.clip(np.asarray(level), 0.0, 1.0))
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _stretch(cell: int, pixels: int) -> slice:
    """Return what is covered around one of the GRID cells along a side of so many pixels."""
    middle, half = (cell + 0.5) * pixels / GRID, _SQUARE * pixels / GRID / 2
    return slice(max(0, round(middle - half)), min(pixels, round(middle + half)))


def _infer(engine: Engine, pictures: NDArray[np.uint8], pair: Batch) -> NDArray[np.float32]:
    """Return the logits (N,) of pictures (N, 3, H, W) beside what one pair says."""
    step = max(1, min(engine.manifest.max_batch, -(-len(pictures) // engine.concurrency)))
    parts = [pictures[at : at + step] for at in range(0, len(pictures), step)]
    return np.concatenate(list(infer_all(engine, [_beside(part, pair) for part in parts])))


def _beside(pictures: NDArray[np.uint8], pair: Batch) -> Batch:
    count = len(pictures)
    return Batch(
        pictures,
        np.repeat(pair.input_ids, count, axis=0),
        np.repeat(pair.attention_mask, count, axis=0),
        None if pair.attributes is None else np.repeat(pair.attributes, count, axis=0),
    )


def _coloured(level: NDArray[np.float32]) -> Image.Image:
    """Return RGBA of levels 0..1, float32 (H, W): clear where cold."""
    mix = level[:, :, None] ** 2
    colour = _WARM * (1 - mix) + _HOT * mix  # (H, W, 3)
    alpha = level[:, :, None] * _MAX_ALPHA
    return Image.fromarray(np.concatenate([colour, alpha], axis=2).astype(np.uint8))
