"""A rendered or a listed catalogue → `Catalog`: pictures through `engines.image`, exactly as a scorer sees them."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from engines.build.dataset import Catalog, Product, limit, split
from engines.build.listing import files_of, list_folder
from engines.catalogs import rendered
from engines.catalogs.groups import connected
from engines.errors import CatalogInvalid, ImageRefused
from engines.image import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.listing import Listing
    from engines.catalogs.rendered import RenderedProduct
    from engines.contract import ImageSpec

RENDERED_FACETS: Final = ("kind", "color", "pattern", "material", "count")

FOLDER_FACETS: Final = ("product_type", "color", "pattern", "material", "gender")

Item = TypeVar("Item")
Result = TypeVar("Result")

Parts = tuple[Catalog, Catalog, Catalog]
"""Products to train on, to calibrate and choose thresholds with, to measure on."""

SHARES: Final = (0.70, 0.15, 0.15)
"""Of the products, see `Parts`."""

MOST_TRAINED: Final = 20_000
MOST_HELD_OUT: Final = 5_000
"""Products of a part; of a larger catalogue some are drawn. Five thousand measure a recall to about 2 %."""

_MIN_PRODUCTS: Final = 50
_MAX_PIXELS: Final = 100_000_000
_CHUNK: Final = 32
_FEW: Final = 500


class Pictures(NamedTuple):
    """Pictures as an engine sees them, uint8 (P, 3, H, W), and how large each was before, int64 (P,)."""

    pixels: NDArray[np.uint8]
    shorter_side_px: NDArray[np.int64]


def gather_rendered(count: int, *, seed: int, image: ImageSpec, progress: Progress) -> Catalog:
    """Return `count` drawn products, one picture each; the same for the same seed."""
    drawn = rendered.render_catalog(count, seed)
    pictures = list(_in_processes(partial(_render, spec=image), drawn, "drawing pictures", progress))
    values = [tuple(product.attributes[name] for name in RENDERED_FACETS) for product in drawn]
    identities = connected([[value] for value in values])
    products = tuple(
        Product(
            fields=p.fields,
            facets=value,
            identity=identity,
            group=p.item_group_id,
            category=p.fields["product_type"],
            id=p.id,
            shorter_side_px=rendered.SIZE,
        )
        for p, value, identity in zip(drawn, values, identities, strict=True)
    )
    return Catalog(products, RENDERED_FACETS, np.stack(pictures), np.arange(len(products)))


def gather_listed(listing: Listing, *, image: ImageSpec, progress: Progress) -> Catalog:
    """Return the listed products with all their pictures.

    Raises:
        CatalogInvalid: a picture is refused, or cannot be read.
    """
    counts = [len(digests) for digests in listing.digests]
    files = [file for item in listing.items for file in files_of(item)]
    pictures = decode_pictures(files, image=image, progress=progress)
    first = np.cumsum([0, *counts])[:-1].tolist()
    products = tuple(
        Product(
            fields=item.fields,
            facets=tuple(item.fields.get(name, "").casefold() for name in FOLDER_FACETS),
            identity=identity,
            group=item.item_group_id or item.id,
            category=item.fields.get("product_type", ""),
            id=item.id,
            columns=item.raw,
            shorter_side_px=int(pictures.shorter_side_px[start]),
        )
        for item, identity, start in zip(listing.items, listing.identities, first, strict=True)
    )
    return Catalog(products, FOLDER_FACETS, pictures.pixels, np.repeat(np.arange(len(products)), counts))


def decode_pictures(files: Sequence[Path], *, image: ImageSpec, progress: Progress) -> Pictures:
    """Return these pictures, in order, in a file without a name: memory holds of them what it has room for.

    Raises:
        CatalogInvalid: one is refused, or cannot be read.
        OSError: the folder for temporary files has no room for them.
    """
    pixels = _room((len(files), 3, image.height, image.width))
    sides = np.zeros(len(files), np.int64)
    decoded = _in_processes(partial(_decode, spec=image), files, "decoding pictures", progress)
    for row, (picture, side) in enumerate(decoded):
        pixels[row], sides[row] = picture, side
    return Pictures(pixels, sides)


def gather_parts(
    path: Path,
    *,
    image: ImageSpec,
    seed: int,
    progress: Progress,
    shares: tuple[float, float, float] = SHARES,
    most: int = MOST_TRAINED,
) -> Parts:
    """Return a folder's products to train on, to calibrate and choose thresholds with, and to measure on.

    Connected products stay in one part. At most `most` are there to train on, and 5,000 for each of the others.

    Raises:
        CatalogInvalid: the folder or a picture cannot be read, or there are too few products for figures that say
            anything.
        OSError: as `decode_pictures`.
    """
    listing = list_folder(path, progress)
    limits = (most, MOST_HELD_OUT, MOST_HELD_OUT)
    parts = [
        limit(part, listing.components, largest, seed=seed)
        for part, largest in zip(split(listing.components, shares, seed=seed), limits, strict=True)
    ]
    if min(len(part) for part in parts) < _MIN_PRODUCTS:
        raise CatalogInvalid(f"{path} splits into {[len(p) for p in parts]} products; each part needs {_MIN_PRODUCTS}")
    training, validation, test = (gather_listed(listing.subset(part), image=image, progress=progress) for part in parts)
    return training, validation, test


def _room(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an array in a file without a name, its room taken from the disk now.

    Raises:
        OSError: there is no room.
    """
    size = math.prod(shape)
    if not size:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.uint8, "r+", shape=shape)


def _in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], title: str, progress: Progress
) -> Iterator[Result]:
    """Yield `work` of each item, in order; on every core, unless starting processes would take longer."""
    todo = list(items)
    if len(todo) < _FEW:
        yield from (work(item) for item in progress.track(todo, description=title))
        return
    # Spawned, not forked: the parent may hold the threads of torch.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from progress.track(pool.map(work, todo, chunksize=_CHUNK), total=len(todo), description=title)


def _render(product: RenderedProduct, *, spec: ImageSpec) -> NDArray[np.uint8]:
    return decode(rendered.jpeg(product), spec, max_pixels=_MAX_PIXELS)


def _decode(path: Path, *, spec: ImageSpec) -> tuple[NDArray[np.uint8], int]:
    try:
        content = path.read_bytes()
        pixels = decode(content, spec, max_pixels=_MAX_PIXELS)
        with Image.open(io.BytesIO(content)) as opened:
            return pixels, min(opened.size)
    except (ImageRefused, OSError) as error:
        raise CatalogInvalid(f"{path}: {error}; replace the picture or remove its line") from error
