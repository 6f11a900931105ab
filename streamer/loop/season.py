"""What the loop sells: usual products, and a new kind that comes with a new way to be wrong. Pure and seeded.

Lanterns have patterns that no usual product has, and their suppliers confuse exactly those. The engine that ships has
neither seen the patterns nor read their names. Everything is drawn from seeds that no engine was trained on.

measured    each product with its own picture and with a wrong one, under ids of their own: scored before and after
season      each product once, some with a wrong picture: what alerts and what the audit draws goes to people
load        usual products again and again, while the engine is swapped
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import orjson

from engines.catalogs.rendered import render_catalog, siblings
from engines.catalogs.rendered.attributes import NEW_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engines.catalogs.rendered import RenderedProduct

Kind = Literal["new", "old"]
Purpose = Literal["measured", "season", "load"]

SEED_OFFSET: Final = 2_000_000
"""Keeps the loop's products apart from those that engines are trained on, and from the demo's."""

_PATTERNS_ONLY: Final = (0.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many products there are of each kind, and what share of the season's pictures is wrong."""

    new_measured: int = 260
    old_measured: int = 600
    new_season: int = 1100
    old_season: int = 250
    new_wrong: float = 0.1
    old_wrong: float = 0.05


FAST: Final = Sizes(new_measured=16, old_measured=16, new_season=90, old_season=20, new_wrong=0.2, old_wrong=0.2)
"""Enough to go the whole way, too few to show anything."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A product as a catalogue system publishes it, and the truth about its picture.

    picture: the file that its link names. group: products of one item, whose scores are not independent.
    """

    id: str
    kind: Kind
    purpose: Purpose
    wrong: bool
    picture: str
    group: str
    fields: dict[str, str]

    def reworded(self, number: int) -> Offer:
        """Return the offer with a text that it did not have before: an engine has to look at it again."""
        return replace(self, purpose="load", fields=self.fields | {"description": f"Batch {number}."})

    def record(self, version: int, image_url: Callable[[str], str]) -> bytes:
        """Return the update."""
        update = {"id": self.id, "version": version, "item_group_id": self.group, **self.fields}
        return orjson.dumps(update | {"image_link": image_url(self.picture)})


@dataclass(frozen=True, kw_only=True)
class Season:
    """All that is published; `pictures` says which product each file shows."""

    measured: tuple[Offer, ...]
    season: tuple[Offer, ...]
    load: tuple[Offer, ...]
    pictures: dict[str, RenderedProduct]


def draw(sizes: Sizes, seed: int) -> Season:
    """Return what is sold; the same for the same arguments."""
    pictures: dict[str, RenderedProduct] = {}
    generator = np.random.default_rng(seed)
    first = SEED_OFFSET + 10 * seed

    def rendered(count: int, number: int, kind: Kind) -> list[RenderedProduct]:
        if kind == "new":
            return render_catalog(count, first + number, kinds=tuple(NEW_KINDS), axis_odds=_PATTERNS_ONLY)
        return render_catalog(count, first + number)

    measured: list[Offer] = []
    season: list[Offer] = []
    plan: tuple[tuple[Kind, int, int, float], ...] = (
        ("new", sizes.new_measured, sizes.new_season, sizes.new_wrong),
        ("old", sizes.old_measured, sizes.old_season, sizes.old_wrong),
    )
    for number, (kind, to_measure, to_sell, wrong) in enumerate(plan):
        measured += _measured(rendered(to_measure, 2 * number, kind), kind, generator, pictures)
        season += _season(rendered(to_sell, 2 * number + 1, kind), kind, wrong, generator, pictures)
    order = generator.permutation(len(season))
    load = [offer for offer in season if offer.kind == "old" and not offer.wrong]
    return Season(
        measured=tuple(measured[i] for i in generator.permutation(len(measured))),
        season=tuple(season[i] for i in order),
        load=tuple(load),
        pictures=pictures,
    )


def _measured(
    products: Sequence[RenderedProduct],
    kind: Kind,
    generator: np.random.Generator,
    pictures: dict[str, RenderedProduct],
) -> list[Offer]:
    """Return each product with its own picture and with one of a sibling."""
    shown = _shown_instead(products, generator)
    return [
        _offer(product, kind, "measured", picture_of, wrong=wrong, pictures=pictures)
        for product in products
        for wrong, picture_of in ((False, product), (True, shown[product.id]))
    ]


def _season(
    products: Sequence[RenderedProduct],
    kind: Kind,
    share: float,
    generator: np.random.Generator,
    pictures: dict[str, RenderedProduct],
) -> list[Offer]:
    """Return each product once, this share of them with the picture of a sibling."""
    shown = _shown_instead(products, generator)
    wrong = set(generator.permutation(len(products))[: round(share * len(products))].tolist())
    return [
        _offer(
            product, kind, "season", shown[product.id] if i in wrong else product, wrong=i in wrong, pictures=pictures
        )
        for i, product in enumerate(products)
    ]


def _shown_instead(products: Sequence[RenderedProduct], generator: np.random.Generator) -> dict[str, RenderedProduct]:
    """Return for each product a sibling, which differs in one attribute."""
    by_id = {product.id: product for product in products}
    return {
        product_id: by_id[others[int(generator.integers(len(others)))]]
        for product_id, others in siblings(products).items()
    }


def _offer(
    product: RenderedProduct,
    kind: Kind,
    purpose: Purpose,
    shown: RenderedProduct,
    *,
    wrong: bool,
    pictures: dict[str, RenderedProduct],
) -> Offer:
    file = f"{shown.id}.jpg"
    pictures[file] = shown
    return Offer(
        id=f"{purpose}-{product.id}{'-wrong' if wrong and purpose == 'measured' else ''}",
        kind=kind,
        purpose=purpose,
        wrong=wrong,
        picture=file,
        group=product.item_group_id,
        fields=product.fields,
    )
