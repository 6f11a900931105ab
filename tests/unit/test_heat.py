"""`engines.heat`: which regions of a picture carry the case against a claim, and how they are drawn over it."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engines.contract import Batch, ImageSpec
from engines.errors import InferenceFailed
from engines.heat import GRID, covered, heat_map, overlay, percent
from tests.fakes import manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 24
CELL = SIDE // GRID


class RedPixels:
    """An engine that minds red pixels, by as much as there are, as long as the first token is read.

    Where there are attributes, the first must be known, too.
    """

    device = "fake"
    concurrency = 2
    manifest = manifest(max_batch=8)

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        if len(batch) > self.manifest.max_batch:
            raise InferenceFailed("too many pairs")
        red = (batch.pixel_values[:, 0] > batch.pixel_values[:, 1]).sum(axis=(1, 2))
        known = 1 if batch.attributes is None else batch.attributes[:, 0, 1]
        return (red * batch.attention_mask[:, 0] * known).astype(np.float32)

    def close(self) -> None:
        pass


def pair(first_read: int, attributes: NDArray[np.float32] | None = None) -> Batch:
    """Return three tokens beside a grey picture with one red cell, in the second row and the third column."""
    picture = np.full((1, 3, SIDE, SIDE), 200, dtype=np.uint8)
    picture[0, 1:, CELL : 2 * CELL, 2 * CELL : 3 * CELL] = 0
    return Batch(picture, np.ones((1, 3), np.int32), np.array([[first_read, 1, 1]], np.int32), attributes)


def test_heat_map_is_warm_where_the_contradiction_stands() -> None:
    """Covering the red square ends the case; covering the background does not."""
    found = heat_map(RedPixels(), pair(1), pair(0))
    assert found.shape == (GRID, GRID)
    assert found.dtype == np.float32
    assert np.unravel_index(int(found.argmax()), found.shape) == (1, 2)
    assert found[4:].max() == 0


def test_heat_map_of_an_engine_with_attributes_leaves_the_claim_out_there_too() -> None:
    """Else an engine that reads columns could not be asked, or would still know what was left out."""
    known, unknown = np.ones((1, 1, 2), np.float32), np.zeros((1, 1, 2), np.float32)
    found = heat_map(RedPixels(), pair(1, known), pair(1, unknown))
    assert np.unravel_index(int(found.argmax()), found.shape) == (1, 2)


def test_heat_map_picture_that_the_grid_does_not_divide_is_covered_whole() -> None:
    """No strip at an edge stays out of sight."""
    picture = np.zeros((3, 29, 31), dtype=np.uint8)
    picture[0, 4:-4, 4:-4] = 255
    pictures = covered(picture)
    assert pictures.shape == (1 + GRID * GRID, 3, 29, 31)
    assert np.array_equal(pictures[0], picture)
    assert pictures[1:, 0].min(axis=0).max() == 0


def test_percent_is_of_the_warmest_region() -> None:
    """A record has room for whole numbers; what speaks for the match is 0."""
    warm = np.array([[0.5, 2.0], [-1.0, 0.0]], dtype=np.float32)
    found = percent(warm)
    assert found is not None
    assert found.tolist() == [[25, 100], [0, 0]]
    assert percent(-warm.clip(0)) is None


def alpha(url: str | None) -> NDArray[np.uint8]:
    """Return how much an overlay hides of what is below it, uint8 (H, W)."""
    assert url is not None
    png = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(png)))[:, :, 3]


def test_overlay_wide_picture_leaves_the_engine_s_margins_out() -> None:
    """The engine sees a wide picture between two margins; what is warm in its left half is so on the page."""
    warm = np.zeros((GRID, GRID), dtype=np.float32)
    warm[:, :3] = 2.0
    drawn = alpha(overlay(warm, (200, 100), ImageSpec(height=96, width=96)))
    assert drawn.shape == (32, 64)
    assert drawn[:, :24].min() > 150
    assert drawn[:, 40:].max() == 0


def test_overlay_warm_margin_is_not_drawn_on_the_picture() -> None:
    """Only the middle of the engine's picture is there to see."""
    warm = np.zeros((GRID, GRID), dtype=np.float32)
    warm[0] = 1.0
    drawn = alpha(overlay(warm, (200, 100), ImageSpec(height=96, width=96)))
    assert drawn[8:].max() == 0


def test_overlay_on_the_engine_s_own_picture_keeps_the_margins() -> None:
    """A page that shows what the engine sees shows what is warm where the engine found it."""
    warm = np.zeros((GRID, GRID), dtype=np.float32)
    warm[0] = 1.0
    drawn = alpha(overlay(warm, (96, 96), ImageSpec(height=96, width=96)))
    assert drawn.shape == (64, 64)
    assert drawn[0].min() > 150


def test_overlay_of_a_cold_picture_is_none() -> None:
    """There is nothing to draw where every region speaks for the match."""
    assert overlay(-np.ones((GRID, GRID), np.float32), (9, 9), ImageSpec(height=8, width=8)) is None
