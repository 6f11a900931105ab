"""A catalogue folder before a picture of it is decoded: its products, their files, and which of them belong together.

So a catalogue of any size can be split first; what no part needs is never decoded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from engines.catalogs import erased
from engines.catalogs.folder import read_folder
from engines.catalogs.groups import connected, placeholders
from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from rich.progress import Progress

    from engines.catalogs.folder import CatalogItem


_LOOKS: Final = ("color", "pattern", "material")
"""Which of an item's variants a row is, to look at: feeds have a row for each size of it."""

_WEARERS: Final = ("gender", "age_group")
"""Of two rows that differ in these, too, pictures may differ; alone they do not say which variant it is."""


@dataclass(frozen=True)
class Listing:
    """N products of a folder.

    Attributes:
        items: their lines of the catalogue, without additional pictures that stand beside anything
            (`engines.catalogs.groups`).
        digests: SHA-256 of each product's picture files, the main one first.
        identities: products that share a photo, byte for byte, a title with the same color, or an item group in which
            they are the same variant to look at (only their sizes differ), are one identity.
        components: products that share a photo, a title or an item group are one component, for a split.
    """

    items: tuple[CatalogItem, ...]
    digests: tuple[tuple[str, ...], ...]
    identities: tuple[int, ...]
    components: tuple[int, ...]

    def __len__(self) -> int:
        """Return N."""
        return len(self.items)

    def subset(self, rows: Sequence[int]) -> Listing:
        """Return the listing of these products only."""
        columns = (self.items, self.digests, self.identities, self.components)
        return Listing(*(tuple(column[row] for row in rows) for column in columns))  # type: ignore[arg-type]


def list_folder(path: Path, progress: Progress, *, without: Collection[str] = erased.NOTHING) -> Listing:
    """Return all products of a catalogue folder; their files are read once, for their digests.

    Those that were erased, `without`, are as if they did not stand there.

    Raises:
        CatalogInvalid: the folder cannot be read.
    """
    items = read_folder(path, without=without)
    digests = [
        tuple(_digest(file) for file in files_of(item))
        for item in progress.track(items, description="listing pictures")
    ]
    both = _without_placeholders(items, digests)
    identities = connected(
        [[*own, (_title(item), item.fields.get("color", "")), *_variant_key(item)] for item, own in both]
    )
    components = connected([[*own, _title(item), *_group_key(item)] for item, own in both])
    return Listing(tuple(item for item, _ in both), tuple(own for _, own in both), tuple(identities), tuple(components))


def _without_placeholders(
    items: Sequence[CatalogItem], digests: Sequence[tuple[str, ...]]
) -> list[tuple[CatalogItem, tuple[str, ...]]]:
    """Return products and digests without the additional pictures that stand beside anything, as size charts do."""

    def named(products: set[int]) -> dict[int, str]:
        return {product: items[product].item_group_id or _title(items[product]) for product in products}

    pairs = [(owner, _key(digest)) for owner, own in enumerate(digests) for digest in set(own)]
    beside_anything = placeholders([o for o, _ in pairs], [key for _, key in pairs], len(items), named)
    kept: list[tuple[CatalogItem, tuple[str, ...]]] = []
    for item, (main, *others) in zip(items, digests, strict=True):
        more = [
            (file, digest)
            for file, digest in zip(item.additional_image_paths, others, strict=True)
            if _key(digest) not in beside_anything
        ]
        paths = tuple(file for file, _ in more)
        kept.append((replace(item, additional_image_paths=paths), (main, *(digest for _, digest in more))))
    return kept


def _key(digest: str) -> int:
    """Return the first 64 bits of a digest."""
    return int(digest[:16], 16)


def files_of(item: CatalogItem) -> tuple[Path, ...]:
    """Return a product's picture files, the main one first."""
    return item.image_path, *item.additional_image_paths


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise CatalogInvalid(f"{file}: {error}; replace the picture or remove its line") from error


def _title(item: CatalogItem) -> str:
    return item.fields.get("title", item.id).casefold()


def _variant_key(item: CatalogItem) -> list[tuple[str, ...]]:
    """Return what variants of one item have in common that look the same; nothing where no field tells their looks."""
    if item.item_group_id is None or not any(name in item.fields for name in _LOOKS):
        return []
    shown = (item.fields.get(name, "").casefold() for name in (*_LOOKS, *_WEARERS))
    return [("variant", item.item_group_id, *shown)]


def _group_key(item: CatalogItem) -> list[tuple[str, str]]:
    return [] if item.item_group_id is None else [("group", item.item_group_id)]
