"""Which products a rendered catalogue sells: groups of variants that differ in one attribute, and only in that."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import count as naturals
from typing import TYPE_CHECKING

import numpy as np

from engines.catalogs.rendered.attributes import ATTRIBUTES, AXES, COUNTS, KINDS, MATERIALS, SOLD, patterns_of, pick
from engines.catalogs.rendered.wording import Maker, write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_VARIANTS = 5

AXIS_ODDS = (0.3, 0.3, 0.2, 0.2)
"""How often items are sold in variants along each of `AXES`: the two richest most."""

USUAL = tuple(KINDS)


@dataclass(frozen=True)
class RenderedProduct:
    """One product: what it truly is (`attributes`), what its text says (`fields`), and which photo it has.

    `fields` are in the order of `engines.fields.NAMED_FIELDS`, empty ones left out.
    """

    id: str
    fields: dict[str, str]
    price: str
    item_group_id: str
    kind: str
    attributes: dict[str, str]
    image_seed: int


def render_catalog(
    count: int, seed: int, *, kinds: tuple[str, ...] = USUAL, axis_odds: tuple[float, ...] = AXIS_ODDS
) -> list[RenderedProduct]:
    """Return `count` products in groups of 2 to 5 variants; the same for the same arguments.

    Args:
        count: how many.
        seed: another one gives other products.
        kinds: what is sold, of `attributes.SOLD`.
        axis_odds: see `AXIS_ODDS`.

    Raises:
        ValueError: `count` is below 1, or `seed` below 0.
    """
    if count < 1:
        raise ValueError(f"count is {count}; a catalogue has at least one product")
    products: list[RenderedProduct] = []
    for group in naturals():
        left = count - len(products)
        if not left:
            break
        products += _render_group(seed, group, _sizes(left), kinds, axis_odds)
    return products


def siblings(products: Iterable[RenderedProduct]) -> dict[str, list[str]]:
    """Return for each product the ids of its group's variants that differ from it in exactly one attribute."""
    groups: defaultdict[str, list[RenderedProduct]] = defaultdict(list)
    for product in products:
        groups[product.item_group_id].append(product)
    return {
        product.id: [other.id for other in group if len(_differences(product, other)) == 1]
        for group in groups.values()
        for product in group
    }


def differing_attribute(a: RenderedProduct, b: RenderedProduct) -> str:
    """Return the one attribute in which two products differ.

    Raises:
        ValueError: they differ in none, or in more than one.
    """
    differences = _differences(a, b)
    if len(differences) != 1:
        raise ValueError(f"{a.id} and {b.id} differ in {differences or 'nothing'}, not in one attribute")
    return differences[0]


def _differences(a: RenderedProduct, b: RenderedProduct) -> list[str]:
    return [name for name in ATTRIBUTES if a.attributes[name] != b.attributes[name]]


def _sizes(left: int) -> list[int]:
    """Return the sizes a group may have so that no later group is left with a single product."""
    return [n for n in range(1, MAX_VARIANTS + 1) if n == left or (n > 1 and left - n > 1)]


def _render_group(
    seed: int, group: int, sizes: list[int], kinds: tuple[str, ...], axis_odds: tuple[float, ...]
) -> Iterator[RenderedProduct]:
    rng = np.random.default_rng([seed, group])
    item_group_id = f"R{seed}-{group:05d}"
    maker = Maker.invent(rng)
    for number, attributes in enumerate(_draw_variants(rng, sizes, kinds, axis_odds)):
        yield RenderedProduct(
            id=f"{item_group_id}-{number}",
            fields=write_text(attributes, maker, rng),
            price=f"{rng.integers(4, 120)}.{pick(rng, ('00', '50', '90', '95', '99'))} EUR",
            item_group_id=item_group_id,
            kind=attributes["kind"],
            attributes=attributes,
            image_seed=int(rng.integers(2**31)),
        )


def _draw_variants(
    rng: np.random.Generator, sizes: list[int], kinds: tuple[str, ...], axis_odds: tuple[float, ...]
) -> list[dict[str, str]]:
    """Draw items until one can be sold in enough variants along the drawn axis."""
    while True:
        item = _draw_item(rng, kinds)
        axis = AXES[int(rng.choice(len(AXES), p=axis_odds))]
        values = _values(item, axis)
        fitting = [size for size in sizes if size <= len(values)]
        if fitting:
            chosen = rng.permutation(len(values))[: pick(rng, fitting)]
            return [item | {axis: values[i]} for i in chosen]


def _draw_item(rng: np.random.Generator, kinds: tuple[str, ...]) -> dict[str, str]:
    kind = pick(rng, kinds)
    material = pick(rng, SOLD[kind].materials)
    return {
        "kind": kind,
        "color": pick(rng, MATERIALS[material]),
        "pattern": pick(rng, patterns_of(kind, material)),
        "material": material,
        "count": pick(rng, COUNTS),
    }


def _values(item: dict[str, str], axis: str) -> tuple[str, ...]:
    """Return the values along an axis that go with the item's other attributes."""
    kind, material = item["kind"], item["material"]
    if axis == "material":
        return tuple(m for m in SOLD[kind].materials if _goes_with(m, item))
    return {"color": MATERIALS[material], "pattern": patterns_of(kind, material), "count": COUNTS}[axis]


def _goes_with(material: str, item: dict[str, str]) -> bool:
    return item["color"] in MATERIALS[material] and item["pattern"] in patterns_of(item["kind"], material)
