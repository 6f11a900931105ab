"""A rendered or a folder catalogue → `Catalog`: pictures through `engines.image`, exactly as a scorer sees them."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from engines.build.dataset import Catalog, Product, split
from engines.catalogs import rendered
from engines.catalogs.folder import read_folder
from engines.catalogs.groups import connected
from engines.errors import CatalogInvalid, ImageRefused
from engines.image import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.catalogs.folder import CatalogItem
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

_MIN_PRODUCTS: Final = 50
_MAX_PIXELS: Final = 100_000_000
_CHUNK: Final = 32
_FEW: Final = 400


class Picture(NamedTuple):
    """A picture as an engine sees it, uint8 (3, H, W), and how large it was before."""

    pixels: NDArray[np.uint8]
    shorter_side_px: int


def gather_rendered(count: int, *, seed: int, image: ImageSpec, progress: Progress) -> Catalog:
    """Return `count` drawn products, one picture each; the same for the same seed."""
    drawn = rendered.render_catalog(count, seed)
    pictures = _in_processes(partial(_render, spec=image), drawn, "drawing pictures", progress)
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


def gather_folder(path: Path, *, image: ImageSpec, progress: Progress) -> tuple[Catalog, list[int]]:
    """Return the products of a folder with all their pictures, and the component of each for a split.

    Products that share a photo, byte for byte, or a title with the same color are one identity; those that share a
    photo, a title or an item group are one component.

    Raises:
        CatalogInvalid: the folder cannot be read, or a picture is refused.
    """
    items = read_folder(path)
    paths = [[item.image_path, *item.additional_image_paths] for item in items]
    counts = [len(own) for own in paths]
    files = [file for own in paths for file in own]
    flat = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    first = np.cumsum([0, *counts[:-1]]).tolist()
    digests = [flat[start : start + count] for start, count in zip(first, counts, strict=True)]
    pictures = decode_pictures(files, image=image, progress=progress)
    identities = connected(
        [[*own, (_title(i), i.fields.get("color", ""))] for i, own in zip(items, digests, strict=True)]
    )
    components = connected([[*own, _title(i), *_group_key(i)] for i, own in zip(items, digests, strict=True)])
    products = tuple(
        Product(
            fields=item.fields,
            facets=tuple(item.fields.get(name, "").casefold() for name in FOLDER_FACETS),
            identity=identity,
            group=item.item_group_id or item.id,
            category=item.fields.get("product_type", ""),
            id=item.id,
            columns=item.raw,
            shorter_side_px=pictures[start].shorter_side_px,
        )
        for item, identity, start in zip(items, identities, first, strict=True)
    )
    owners = np.repeat(np.arange(len(items)), counts)
    return Catalog(products, FOLDER_FACETS, np.stack([picture.pixels for picture in pictures]), owners), components


def decode_pictures(files: Sequence[Path], *, image: ImageSpec, progress: Progress) -> list[Picture]:
    """Return these pictures, in order.

    Raises:
        CatalogInvalid: one is refused, or cannot be read.
    """
    return _in_processes(partial(_decode, spec=image), files, "decoding pictures", progress)


def gather_parts(
    path: Path,
    *,
    image: ImageSpec,
    seed: int,
    progress: Progress,
    shares: tuple[float, float, float] = SHARES,
) -> Parts:
    """Return a folder's products to train on, to calibrate and choose thresholds with, and to measure on.

    Connected products stay in one part.

    Raises:
        CatalogInvalid: as `gather_folder`, or there are too few products for figures that say anything.
    """
    catalog, components = gather_folder(path, image=image, progress=progress)
    parts = split(components, shares, seed=seed)
    if min(len(part) for part in parts) < _MIN_PRODUCTS:
        raise CatalogInvalid(f"{path} splits into {[len(p) for p in parts]} products; each part needs {_MIN_PRODUCTS}")
    training, validation, test = (catalog.subset(part) for part in parts)
    return training, validation, test


def _in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], title: str, progress: Progress
) -> list[Result]:
    """Return `work` of each item, in order; on every core, unless starting processes would take longer."""
    todo = list(items)
    if len(todo) < _FEW:
        return [work(item) for item in progress.track(todo, description=title)]
    # Spawned, not forked: the parent may hold the threads of torch.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(progress.track(pool.map(work, todo, chunksize=_CHUNK), total=len(todo), description=title))


def _render(product: RenderedProduct, *, spec: ImageSpec) -> NDArray[np.uint8]:
    return decode(rendered.jpeg(product), spec, max_pixels=_MAX_PIXELS)


def _decode(path: Path, *, spec: ImageSpec) -> Picture:
    try:
        content = path.read_bytes()
        pixels = decode(content, spec, max_pixels=_MAX_PIXELS)
        with Image.open(io.BytesIO(content)) as opened:
            return Picture(pixels, min(opened.size))
    except (ImageRefused, OSError) as error:
        raise CatalogInvalid(f"{path}: {error}; replace the picture or remove its line") from error


def _title(item: CatalogItem) -> str:
    return item.fields.get("title", item.id).casefold()


def _group_key(item: CatalogItem) -> list[tuple[str, str]]:
    return [] if item.item_group_id is None else [("group", item.item_group_id)]
