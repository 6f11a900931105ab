"""The demo's traffic: which updates are published, in which order, and the truth about each. Pure and seeded.

Most updates are right. One in twenty carries the picture of a sibling, and a few of each kind are what real
catalogue systems send: broken JSON, a picture that is gone, a photo cut off, the same event twice, an older version
after the newer one, a deletion, and the repair of a wrong picture. Repairs and deletions come late and go to products
whose wrong picture came early, so that their alerts have opened and can be seen to resolve.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import orjson

from streamer.updates import ProductUpdate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streamer.demo.products import DemoProduct

Kind = Literal[
    "right",
    "swapped",
    "malformed_json",
    "image_missing",
    "image_truncated",
    "redelivery",
    "older_version",
    "tombstone",
    "repair",
]
BAD_INPUT: tuple[Kind, ...] = ("malformed_json", "image_missing", "image_truncated")
FOLLOW_UPS: tuple[Kind, ...] = ("repair", "tombstone", "redelivery", "older_version")

_RIGHT: Kind = "right"
_SWAPPED: Kind = "swapped"

SWAPPED_SHARE = 0.05
RARE_SHARE = 0.005
MIN_FOR_RARE = 40
"""With fewer events or products than this there is no room for the rare kinds: all are right or swapped."""
TARGETS_UNTIL = 0.6
FOLLOW_UPS_FROM = 0.7
"""Follow-ups come in the last 30 % and go to products sent in the first 60 %: at 1,000 events at least 100 apart."""
VERSION_STEP = 10

_TOP_LEVEL = frozenset(ProductUpdate.__struct_fields__)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is really the case with one event; the scorer never sees it.

    `order` is the version it carries (None: it has none that can be read); `picture` is the file its image_link names;
    `shown_id` is the product that this file shows.
    """

    kind: Kind
    product_id: str
    order: int | None
    swapped: bool = False
    picture: str | None = None
    shown_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedEvent:
    """One record of product-updates, and the truth about it."""

    key: bytes
    value: bytes | None
    truth: Truth


@dataclass(frozen=True, kw_only=True)
class _Step:
    kind: Kind
    product: DemoProduct


def plan(
    products: Sequence[DemoProduct], *, events: int, seed: int, image_url: Callable[[str], str]
) -> list[PlannedEvent]:
    """Return `events` updates in publishing order; the same arguments give the same bytes.

    When there are fewer products than events, products are sent again with a newer version. `image_url` names the
    place of a picture's file.

    Raises:
        ValueError: fewer than one event, or fewer than two products (a wrong picture needs another product).
    """
    if events < 1:
        raise ValueError("a demo needs at least one event: --events 1 or more")
    if len(products) < 2:  # noqa: PLR2004 - a product and another one
        raise ValueError("the catalogue needs at least two products: a wrong picture is another product's")
    rng = random.Random(seed)  # noqa: S311 - a simulation
    writer = _Writer(products, rng, image_url)
    return [writer.write(step) for step in _steps(products, events, rng)]


def picture_name(kind: Kind, picture: str) -> str:
    """Return the file name under which an event of this kind shows a product's picture."""
    prefix = {"image_missing": "missing-", "image_truncated": "truncated-"}.get(kind, "")
    return prefix + picture


def rare_count(events: int, products: int) -> int:
    """Return how many events there are of each rare kind; a sixteenth of the products at most, four kinds need one."""
    if min(events, products) < MIN_FOR_RARE:
        return 0
    return min(max(1, round(events * RARE_SHARE)), products // 16)


def _steps(products: Sequence[DemoProduct], events: int, rng: random.Random) -> list[_Step]:
    """Return what happens to which product, in order."""
    rare = rare_count(events, len(products))
    shuffled = rng.sample(products, len(products))
    kinds = _first_kinds(events - rare * len(FOLLOW_UPS), rare, round(events * SWAPPED_SHARE), rng)
    follow_ups = _follow_ups(shuffled, kinds, rare, until=int(events * TARGETS_UNTIL))
    reserved = {step.product.id for step in follow_ups}
    steps = iter([_Step(kind=k, product=p) for k, p in zip(kinds, _cycle(shuffled, reserved), strict=False)])
    rng.shuffle(follow_ups)
    late = set(rng.sample(range(int(events * FOLLOW_UPS_FROM), events), len(follow_ups)))
    return [follow_ups.pop() if position in late else next(steps) for position in range(events)]


def _first_kinds(count: int, rare: int, swapped: int, rng: random.Random) -> list[Kind]:
    """Return the kinds of the events that need no earlier one, shuffled."""
    kinds: list[Kind] = [kind for kind in BAD_INPUT for _ in range(rare)]
    kinds += (_SWAPPED,) * swapped
    kinds += (_RIGHT,) * (count - len(kinds))
    rng.shuffle(kinds)
    return kinds


def _follow_ups(products: Sequence[DemoProduct], kinds: list[Kind], rare: int, *, until: int) -> list[_Step]:
    """Return the follow-ups, each to another product: to swapped ones first, but older versions to right ones.

    An older version carries a wrong picture: were it taken for news, it would open an alert on a product that is right.
    """
    early = list(zip(kinds, products, strict=False))[:until]
    right = [product for kind, product in early if kind == "right"]
    older, spare = right[:rare], right[rare:]
    swapped = [product for kind, product in early if kind == "swapped"]
    targets = iter(swapped + spare)
    to_swapped: list[Kind] = [kind for _ in range(rare) for kind in FOLLOW_UPS if kind != "older_version"]
    steps = [_Step(kind="older_version", product=product) for product in older]
    return steps + [_Step(kind=kind, product=product) for kind, product in zip(to_swapped, targets, strict=False)]


def _cycle(products: Sequence[DemoProduct], reserved: set[str]) -> Iterator[DemoProduct]:
    """Yield every product, then again and again those without a follow-up, whose stories stay simple."""
    yield from products
    again = [product for product in products if product.id not in reserved]
    while True:
        yield from again


class _Writer:
    """Turns steps into records: knows each product's latest version and latest record."""

    def __init__(self, products: Sequence[DemoProduct], rng: random.Random, image_url: Callable[[str], str]) -> None:
        self._products = {product.id: product for product in products}
        self._rng = rng
        self._image_url = image_url
        self._versions: dict[str, int] = {}
        self._last: dict[str, PlannedEvent] = {}
        self._tombstones = 0

    def write(self, step: _Step) -> PlannedEvent:
        """Return the record of this step and remember it."""
        product = step.product
        match step.kind:
            case "redelivery":
                return _again(self._last[product.id])
            case "older_version":
                return self._update(step.kind, product, self._versions[product.id] - VERSION_STEP // 2, wrong=True)
            case "tombstone":
                return self._tombstone(product)
            case "malformed_json":
                return _cut_json(self._update(step.kind, product, self._next_version(product)))
            case kind:
                event = self._update(kind, product, self._next_version(product), wrong=kind == "swapped")
                self._last[product.id] = event
                return event

    def _next_version(self, product: DemoProduct) -> int:
        version = self._versions.get(product.id, 0) + VERSION_STEP
        self._versions[product.id] = version
        return version

    def _update(self, kind: Kind, product: DemoProduct, version: int, *, wrong: bool = False) -> PlannedEvent:
        shown = self._products[self._rng.choice(product.siblings)] if wrong else product
        picture = picture_name(kind, shown.picture)
        return PlannedEvent(
            key=product.id.encode(),
            value=_update_bytes(product, version, self._image_url(picture)),
            truth=Truth(
                kind=kind, product_id=product.id, order=version, swapped=wrong, picture=picture, shown_id=shown.id
            ),
        )

    def _tombstone(self, product: DemoProduct) -> PlannedEvent:
        """Return a deletion, in turn as a null value and as a record that says so with its version."""
        self._tombstones += 1
        if self._tombstones % 2:
            truth = Truth(kind="tombstone", product_id=product.id, order=None)
            return PlannedEvent(key=product.id.encode(), value=None, truth=truth)
        version = self._next_version(product)
        value = orjson.dumps({"id": product.id, "version": version, "deleted": True})
        truth = Truth(kind="tombstone", product_id=product.id, order=version)
        return PlannedEvent(key=product.id.encode(), value=value, truth=truth)


def _again(event: PlannedEvent) -> PlannedEvent:
    return PlannedEvent(key=event.key, value=event.value, truth=replace(event.truth, kind="redelivery"))


def _cut_json(event: PlannedEvent) -> PlannedEvent:
    """Return the record cut off in its middle, as by a client that died while writing."""
    whole = event.value or b""
    truth = Truth(kind="malformed_json", product_id=event.truth.product_id, order=None)
    return PlannedEvent(key=event.key, value=whole[: len(whole) // 2], truth=truth)


def _update_bytes(product: DemoProduct, version: int, image_link: str) -> bytes:
    """Return the update as a catalogue system writes it: known fields by name, the others under `attributes`."""
    named: dict[str, Any] = {k: v for k, v in product.fields.items() if k in _TOP_LEVEL}
    extra = {k: v for k, v in product.fields.items() if k not in _TOP_LEVEL}
    if product.item_group_id:
        named["item_group_id"] = product.item_group_id
    record = {"id": product.id, "version": version, **named, "attributes": extra, "image_link": image_link}
    return orjson.dumps(record)
