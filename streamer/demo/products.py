"""The demo's products, whichever catalogue they come from: rendered by the project, or a folder of real photos.

Both become `DemoProduct`s: the text that a catalogue system would send, the file that shows it, and whose picture
would be the wrong one. The catalogue's seed is far from those that engines are trained on.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engines.catalogs.folder import read_folder
from engines.catalogs.rendered import jpeg, render_catalog, siblings
from engines.catalogs.rendered.wording import words_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from engines.catalogs.folder import CatalogItem

SEED_OFFSET = 1_000_000
"""Keeps the demo's rendered catalogues apart from those that engines are trained on, whose seeds are small."""
PICTURE_PX = 224
PROSE = frozenset({"title", "description", "brand", "size", "gender", "product_type"})
"""Fields of a folder that name a product or repeat its facts; the others state one fact each."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something that a picture shows: `value`, and the phrases by which a text may say so, in lower case."""

    value: str
    phrases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DemoProduct:
    """One product: what its text says, the file under the image root that shows it, and its likeliest mix-ups.

    `fields` are named as in Google Merchant, `facts` as the catalogue names them; `siblings` are ids of products whose
    picture would be wrong here, and hard to tell from the right one where the catalogue has such.
    """

    id: str
    fields: Mapping[str, str]
    facts: Mapping[str, Fact]
    item_group_id: str | None
    picture: str
    siblings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The fact in which a text and a wrong picture part, and the phrases of the text that are untrue then."""

    attribute: str
    says: str
    shows: str
    phrases: tuple[str, ...]


def difference(text_of: DemoProduct, picture_of: DemoProduct) -> Difference:
    """Return the first fact in which two variants of one item differ; where they are two things, what they are."""
    if text_of.item_group_id is not None and text_of.item_group_id == picture_of.item_group_id:
        for name, fact in text_of.facts.items():
            other = picture_of.facts.get(name)
            if other is not None and other.value != fact.value:
                return Difference(attribute=name, says=fact.value, shows=other.value, phrases=fact.phrases)
    mine, theirs = (product.fields.get("title", product.id) for product in (text_of, picture_of))
    phrases = tuple(sorted(set(_words(mine)) - set(_words(theirs))))
    return Difference(attribute="product", says=mine, shows=theirs, phrases=phrases)


def _words(text: str) -> list[str]:
    return re.findall(r"\w{3,}", text.lower())


def _write(target: Path, content: bytes) -> None:
    target.write_bytes(content)


def place(source: Path, target: Path) -> None:
    """Put a photo where the image host finds it: a hard link where the file system has them, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@dataclass(frozen=True, kw_only=True)
class DemoCatalogue:
    """The products of one demo, and how each one's picture comes to be: `write_picture(product, root)`."""

    name: str
    products: tuple[DemoProduct, ...]
    write_picture: Callable[[DemoProduct, Path], None]


def rendered_catalogue(*, count: int, seed: int) -> DemoCatalogue:
    """Return `count` products that the project draws itself; siblings differ in one attribute."""
    rendered = render_catalog(count, seed + SEED_OFFSET)
    mix_ups = siblings(rendered)
    by_id = {product.id: product for product in rendered}
    products = tuple(
        DemoProduct(
            id=product.id,
            fields=product.fields,
            facts={k: Fact(value=v, phrases=words_for(k, v)) for k, v in product.attributes.items()},
            item_group_id=product.item_group_id,
            picture=f"{number:06d}.jpg",
            siblings=tuple(mix_ups[product.id]),
        )
        for number, product in enumerate(rendered)
    )
    return DemoCatalogue(
        name=f"rendered catalogue of {len(products):,} products",
        products=products,
        write_picture=lambda product, root: _write(root / product.picture, jpeg(by_id[product.id], PICTURE_PX)),
    )


def folder_catalogue(folder: Path, *, count: int, seed: int) -> DemoCatalogue:
    """Return at most `count` products of a folder of real photos, chosen by the seed, groups kept together.

    Raises:
        CatalogInvalid: the folder cannot be read.
    """
    items = read_folder(folder)
    chosen = _choose(items, count, random.Random(seed))  # noqa: S311 - a sample
    mix_ups = _mix_ups(chosen)
    photos = {item.id: item.image_path for item in chosen}
    products = tuple(
        DemoProduct(
            id=item.id,
            fields=item.fields,
            facts={k: Fact(value=v, phrases=(v.lower(),)) for k, v in item.fields.items() if k not in PROSE},
            item_group_id=item.item_group_id,
            picture=f"{number:06d}{item.image_path.suffix.lower()}",
            siblings=mix_ups(item),
        )
        for number, item in enumerate(chosen)
    )
    return DemoCatalogue(
        name=f"{folder.resolve().name} (photos of {len(products):,} products)",
        products=products,
        write_picture=lambda product, root: place(photos[product.id], root / product.picture),
    )


def _choose(items: Sequence[CatalogItem], count: int, rng: random.Random) -> list[CatalogItem]:
    """Return about `count` items in whole groups, so that a product's variants are there to be mixed up with."""
    groups: dict[str, list[CatalogItem]] = defaultdict(list)
    for item in items:
        groups[item.item_group_id or f"\0{item.id}"].append(item)
    shuffled = rng.sample(list(groups.values()), len(groups))
    return [item for group in shuffled for item in group][:count]


def _mix_ups(items: Sequence[CatalogItem]) -> Callable[[CatalogItem], tuple[str, ...]]:
    """Return a function from an item to the ids of its likeliest mix-ups.

    Another colour of the same group if there is one; else another product of the same type; else any other.
    """
    by_group: dict[str | None, list[CatalogItem]] = defaultdict(list)
    by_type: dict[str | None, list[CatalogItem]] = defaultdict(list)
    for item in items:
        by_group[item.item_group_id].append(item)
        by_type[item.fields.get("product_type")].append(item)

    def of(item: CatalogItem) -> tuple[str, ...]:
        variants = by_group[item.item_group_id] if item.item_group_id else []
        other_colour = [v.id for v in variants if v.fields.get("color") != item.fields.get("color")]
        same_type = [v.id for v in by_type[item.fields.get("product_type")] if _differs(v, item)]
        return tuple(other_colour or same_type or [v.id for v in items if _differs(v, item)])

    return of


def _differs(other: CatalogItem, item: CatalogItem) -> bool:
    """Whether the other's picture would be wrong here: another product, and not under the same title."""
    return other.id != item.id and other.fields.get("title") != item.fields.get("title")
