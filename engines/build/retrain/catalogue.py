"""The catalogue that a retraining replays and is measured on: what the champion was not trained on stays apart.

A folder's products that the champion holds out (`held-out.json`) are held out again; all others are learned from,
but for those that share a photo, a title or an item group with one that is held out. Without that file the folder is
split as `adapt` split it, which is the same split as long as the folder is the same. What was erased is in no part. A
champion that was trained on drawn products is given drawn products, from the seeds that it was trained and measured
with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from engines.build import evaluate, grades, held_out
from engines.build.adapt_checkpoint import look
from engines.build.dataset import limit, split
from engines.build.gather import MOST_TRAINED, SHARES, gather_rendered, gather_split
from engines.build.listing import list_folder
from engines.build.models import compact
from engines.build.run import FOLDER_MIX
from engines.catalogs import erased
from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from rich.progress import Progress

    from engines.build.dataset import Catalog
    from engines.build.evaluate import Pairs
    from engines.contract import Manifest

RENDERED: Final = "rendered"
_LEAST_PRODUCTS: Final = 20  # of each part


class Parts(NamedTuple):
    """Products to replay, and to choose thresholds with and to measure on, both as pairs."""

    name: str
    training: Catalog
    validation: Catalog
    validation_pairs: Pairs
    test: Catalog
    test_pairs: Pairs


def gather(
    path: Path | None,
    champion: Path,
    manifest: Manifest,
    *,
    products: int,
    held_out_products: int,
    progress: Progress,
    without: Collection[str] = erased.NOTHING,
) -> Parts:
    """Return the parts of a folder, or of a drawn catalogue where the champion was trained on one.

    Args:
        path: the folder; None: the champion's drawn products.
        champion: its directory.
        manifest: of the champion.
        products: how many are drawn to be replayed.
        held_out_products: how many are drawn for each other part.
        progress: bars are added to it.
        without: digests of erased products, which are left out of the folder.

    Raises:
        CatalogInvalid: there is no folder and the champion was not trained on drawn products, or the folder cannot be
            read, or too few of its products are held out.
    """
    recipe: dict[str, Any] = manifest.provenance.get("recipe", {})
    seed = int(recipe.get("catalog_seed", recipe.get("seed", 0)))
    if path is None:
        if manifest.provenance.get("catalog") != RENDERED:
            raise CatalogInvalid(
                f"{manifest.release} was trained on {manifest.provenance.get('catalog')!r}: give that folder, as "
                "`streamer collect` makes it, so that what it has learned from it is not forgotten"
            )
        sizes = (products, held_out_products, held_out_products)
        parts = [
            gather_rendered(count, seed=seed + index, image=manifest.image, progress=progress)
            for index, count in enumerate(sizes, start=1)
        ]
        return _paired(RENDERED, parts, manifest, seed, progress)
    listing = list_folder(path, progress, without=without)
    known = held_out.read(champion, manifest)
    ids, components = [item.id for item in listing.items], listing.components
    rows = split(components, SHARES, seed=seed) if known is None else _held_out(ids, components, known)
    if min(len(part) for part in rows) < _LEAST_PRODUCTS:
        raise CatalogInvalid(
            f"{path} has {[len(part) for part in rows]} products to train on, to choose thresholds with and to measure "
            f"on that {manifest.release} was not trained on; each needs {_LEAST_PRODUCTS}: is it another catalogue?"
        )
    rows[0] = limit(rows[0], listing.components, MOST_TRAINED, seed=seed)
    training, validation, test = (listing.subset(part) for part in rows)
    pictured = gather_split((training, validation, test), manifest.image, progress)
    return _paired(path.name, pictured, manifest, seed, progress)


def _held_out(ids: list[str], components: Sequence[int], known: held_out.HeldOutProducts) -> list[list[int]]:
    """Return the products of each part; those connected with a held-out one are in none."""
    marks = [held_out.mark(one) for one in ids]
    validation, test = ([i for i, mark in enumerate(marks) if mark in part] for part in (known.validation, known.test))
    taken = {components[i] for i in (*validation, *test)}
    return [[i for i, component in enumerate(components) if component not in taken], validation, test]


def _paired(name: str, parts: Sequence[Catalog], manifest: Manifest, seed: int, progress: Progress) -> Parts:
    training, validation, test = parts
    pairs = [_pairs(name, part, manifest, seed + number, progress) for number, part in enumerate((validation, test))]
    return Parts(name, training, validation, pairs[0], test, pairs[1])


def _pairs(name: str, catalog: Catalog, manifest: Manifest, seed: int, progress: Progress) -> Pairs:
    """Return the pairs that releases of this family are measured on."""
    if name == RENDERED:
        return evaluate.hard_pairs(catalog, seed=seed)
    if manifest.family == compact.FAMILY:
        return grades.graded_pairs(catalog, look(catalog, progress), seed=seed)
    return evaluate.mixed_pairs(catalog, FOLDER_MIX, seed=seed)
