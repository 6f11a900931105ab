"""From a product to its picture, and from a catalogue to a folder of pictures."""

from __future__ import annotations

import io
import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from PIL import Image

from engines.catalogs.folder import CATALOG_FILE
from engines.catalogs.rendered.attributes import happens, mix_paint, pick
from engines.catalogs.rendered.scene import BOX, backdrop, cast_shadow, expose, lay_out
from engines.catalogs.rendered.sprite import Look, Sprite, draw_item

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.progress import Progress

    from engines.catalogs.rendered.products import RenderedProduct

SIZE = 224
"""The picture's side in pixels for which textures are made; other sizes scale them."""

MOST_ON_A_TABLE = 2
"""More items lie flat, seen from above."""

_PLACING, _QUALITY = 1, 2
"""Streams of randomness of one photo."""


def draw(product: RenderedProduct, size: int = SIZE, *, image_seed: int | None = None) -> Image.Image:
    """Return a photo of the product: `size` x `size` pixels, mode RGB.

    The same arguments give the same picture; another `image_seed` gives another photo of the same thing: its backdrop,
    light, place and size change, its attributes do not.
    """
    seed = product.image_seed if image_seed is None else image_seed
    rng = np.random.default_rng([seed, _PLACING])
    count = int(product.attributes["count"])
    light_left = bool(rng.integers(2))
    item = _item(product, count, size, light_left=light_left)
    photo = backdrop(size, _paint(product), rng, table=count <= MOST_ON_A_TABLE and happens(rng, 0.5))
    sprite, corners = _place(item, count, size, rng)
    cast_shadow(photo, sprite.alpha, corners, rng, light_left=light_left)
    for corner in corners:
        photo.paste(sprite.pixels, corner, sprite.alpha)
    return expose(photo, rng)


def jpeg(product: RenderedProduct, size: int = SIZE, *, image_seed: int | None = None) -> bytes:
    """Return the photo as a JPEG file; its quality, 70 to 95, is part of the photo."""
    seed = product.image_seed if image_seed is None else image_seed
    quality = int(np.random.default_rng([seed, _QUALITY]).integers(70, 96))
    file = io.BytesIO()
    draw(product, size, image_seed=image_seed).save(file, "JPEG", quality=quality)
    return file.getvalue()


def write_folder(
    products: Sequence[RenderedProduct], path: Path, size: int = SIZE, *, progress: Progress | None = None
) -> None:
    """Write the products as a catalogue folder that `engines.catalogs.folder.read_folder` reads."""
    images = path / "images"
    images.mkdir(parents=True, exist_ok=True)
    task = None if progress is None else progress.add_task("rendering photos", total=len(products))
    with (path / CATALOG_FILE).open("wb") as catalog:
        for product in products:
            (images / f"{product.id}.jpg").write_bytes(jpeg(product, size))
            catalog.write(orjson.dumps(_row(product)) + b"\n")
            if progress is not None and task is not None:
                progress.advance(task)


def _row(product: RenderedProduct) -> dict[str, Any]:
    return {
        "id": product.id,
        **product.fields,
        "price": product.price,
        "item_group_id": product.item_group_id,
        "image_link": f"images/{product.id}.jpg",
    }


def _design(product: RenderedProduct) -> np.random.Generator:
    """Return the randomness of what the maker chose, the same for all variants of a group."""
    return np.random.default_rng(zlib.crc32(product.item_group_id.encode()))


def _paint(product: RenderedProduct) -> tuple[int, int, int]:
    return mix_paint(product.attributes["color"], _design(product))


def _item(product: RenderedProduct, count: int, size: int, *, light_left: bool) -> Sprite:
    look = Look(
        kind=product.kind,
        color=product.attributes["color"],
        pattern=product.attributes["pattern"],
        material=product.attributes["material"],
    )
    side = max(8, round(size * BOX[count]))
    return draw_item(look, side, size / SIZE, _design(product), light_left=light_left)


def _place(item: Sprite, count: int, size: int, rng: np.random.Generator) -> tuple[Sprite, list[tuple[int, int]]]:
    """Return the item scaled and turned, and where its top left corner goes, in pixels, once for each item."""
    zoom = rng.uniform(0.82, 1.0) if count == 1 else rng.uniform(0.92, 1.0)
    stretch = (zoom * rng.uniform(0.93, 1.0) * pick(rng, (-1, 1)), zoom * rng.uniform(0.93, 1.0))
    posed = _pose(item, stretch, math.radians(rng.uniform(-9, 9)))
    half = posed.alpha.width / 2
    return posed, [(round(x * size - half), round(y * size - half)) for x, y in lay_out(count, rng)]


def _pose(item: Sprite, stretch: tuple[float, float], turn: float) -> Sprite:
    """Return the item stretched about its middle (below 0: mirrored) and then turned by `turn` radians."""
    middle = item.alpha.width / 2
    cos, sin = math.cos(turn), math.sin(turn)
    # An affine transform of Pillow maps pixels of the result to pixels of the source.
    (a, b), (d, e) = (cos / stretch[0], sin / stretch[0]), (-sin / stretch[1], cos / stretch[1])
    source = (a, b, middle * (1 - a - b), d, e, middle * (1 - d - e))
    return Sprite(
        *(
            layer.transform(layer.size, Image.Transform.AFFINE, source, Image.Resampling.BILINEAR)
            for layer in (item.pixels, item.alpha)
        )
    )
