"""A rendered or a listed catalogue → `Catalog`: pictures through `engines.image`, exactly as a scorer sees them."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from engines.build import room
from engines.build.dataset import Catalog, Product, connections, limit, split
from engines.build.listing import files_of, list_folder
from engines.build.recipe import AdaptRecipe
from engines.catalogs import rendered
from engines.catalogs.groups import connected
from engines.errors import CatalogInvalid, ImageRefused
from engines.image import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

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

ListedParts = tuple["Listing", "Listing", "Listing"]
"""The same, before a picture is decoded."""

SHARES: Final = AdaptRecipe.shares
"""Of the products, see `Parts`."""

MOST_TRAINED: Final = 20_000
MOST_HELD_OUT: Final = 5_000
"""Products of a part; of a larger catalogue some are drawn. Five thousand measure a recall to about 2 %."""

MOST_PICTURES: Final = 3
"""Of a product that is trained on. Where it is only judged, its first picture is."""

_MIN_PRODUCTS: Final = 50
_EVEN_SHARES: Final = (0.34, 0.33, 0.33)
_MAX_PIXELS: Final = 89_000_000  # Pillow warns of bombs above 89.4 million
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


def gather_listed(listing: Listing, *, image: ImageSpec, progress: Progress, most_pictures: int = 1) -> Catalog:
    """Return the listed products with their pictures, the first ones of each.

    Raises:
        CatalogInvalid: a picture is refused, or cannot be read.
        OSError: as `decode_pictures`.
    """
    shown = [files_of(item)[:most_pictures] for item in listing.items]
    counts, files = [len(own) for own in shown], [file for own in shown for file in own]
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

    Raises:
        CatalogInvalid: as `list_parts`, or a picture cannot be read.
        DiskTooSmall: the folder for temporary files has no room for the pictures.
        OSError: as `decode_pictures`.
    """
    return gather_split(list_parts(path, seed=seed, progress=progress, shares=shares, most=most), image, progress)


def list_parts(
    path: Path, *, seed: int, progress: Progress, shares: tuple[float, float, float] = SHARES, most: int = MOST_TRAINED
) -> ListedParts:
    """Return the parts of a folder before a picture of them is decoded.

    Connected products stay in one part. At most `most` are there to train on, and 5,000 for each of the others.

    Raises:
        CatalogInvalid: the folder cannot be read, or there are too few products for figures that say anything.
    """
    listing = list_folder(path, progress)
    limits = (most, MOST_HELD_OUT, MOST_HELD_OUT)
    parts = [
        limit(part, listing.components, largest, seed=seed)
        for part, largest in zip(split(listing.components, shares, seed=seed), limits, strict=True)
    ]
    if min(len(part) for part in parts) < _MIN_PRODUCTS:
        raise CatalogInvalid(_too_few(path, listing.components, shares, [len(part) for part in parts]))
    training, validation, test = (listing.subset(part) for part in parts)
    return training, validation, test


def _too_few(path: Path, components: Sequence[int], shares: Sequence[float], sizes: list[int]) -> str:
    enough, enough_evenly = (math.ceil(_MIN_PRODUCTS / share) for share in (min(shares), min(_EVEN_SHARES)))
    even = " ".join(map(str, _EVEN_SHARES))
    return (
        f"{path} splits into {sizes} products to train on, to choose thresholds with and to measure on; each part "
        f"needs {_MIN_PRODUCTS}. Where few are connected, {enough} products are enough at these shares, and "
        f"{enough_evenly} at --shares {even}; here {connections(components)}"
    )


def gather_split(parts: ListedParts, image: ImageSpec, progress: Progress) -> Parts:
    """Return the parts with their pictures: some of each product that is trained on, one of all others.

    Raises:
        CatalogInvalid, DiskTooSmall, OSError: as `gather_parts`.
    """
    room.require([pictures_need(parts, image)])
    training, validation, test = (
        gather_listed(part, image=image, progress=progress, most_pictures=most)
        for part, most in zip(parts, (MOST_PICTURES, 1, 1), strict=True)
    )
    return training, validation, test


def pictures_need(parts: ListedParts, image: ImageSpec) -> room.Need:
    """Return what room `decode_pictures` needs for all parts."""
    count = trained_pictures(parts[0]) + len(parts[1]) + len(parts[2])
    return room.Need("decoded pictures", Path(tempfile.gettempdir()), count * 3 * image.height * image.width, "TMPDIR")


def trained_pictures(training: Listing) -> int:
    """Return how many pictures of these products are trained on."""
    return sum(min(MOST_PICTURES, len(files_of(item))) for item in training.items)


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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
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
