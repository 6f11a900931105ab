"""The updates of a run, and what a sequential run makes of them: a model that shares no code with the scorer."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import orjson

from tests.chaos.images import ANSWERS, HOSTS, MISSING, Host

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

COLOURS = 12  # of each kind
TEXTS = 24
MISMATCH, MATCH, POISON = 0xF0, 0x10, 0xF0  # red of a picture that contradicts its text and of one that does not; green
GONE = 0.05  # of the updates of any product show a picture that nobody has
UPDATES_OF_A_PRODUCT = 10  # on average

Kind = Literal["update", "tombstone", "malformed"]


@dataclass(frozen=True, slots=True)
class Event:
    """One record of product-updates, and what is known of it beforehand.

    Attributes:
        order: its version; None for what has none.
        mismatch: whether the picture contradicts the text.
        accepted: whether it can be scored at all.
        picture: the name of its picture; `title`, what it says of it.
    """

    product: str
    value: bytes | None
    kind: Kind
    order: int | None = None
    mismatch: bool = False
    accepted: bool = True
    picture: str | None = None
    title: str | None = None

    @property
    def key(self) -> bytes:
        """The record's key."""
        return self.product.encode()


@dataclass(slots=True)
class Product:
    """What a sequential run knows of a product; `shows` is the update that an open alert is about, if one is open."""

    order: int | None = None
    shows: Event | None = None

    def take(self, event: Event) -> None:
        """Take the next event of the product."""
        if not event.accepted:
            return
        if event.order is None:  # a tombstone without a version closes whatever is there
            self.shows = None
        elif self.order is None or event.order > self.order:
            self.order, self.shows = event.order, event if event.mismatch else None
        elif event.kind == "tombstone" and event.order == self.order:
            self.shows = None


def reference(events: Iterable[Event]) -> dict[str, Product]:
    """Return what a sequential run over these events knows of each product in the end."""
    products: dict[str, Product] = {}
    for event in events:
        products.setdefault(event.product, Product()).take(event)
    return products


class _Maker:
    """Draws events; which of a product's ways to fail there are follows from its number."""

    def __init__(self, rng: random.Random, hosts: Mapping[Host, str], *, broken_images: bool, poison: bool) -> None:
        self._rng = rng
        self._hosts = hosts
        self._broken_images, self._poison = broken_images, poison
        self._last: dict[int, Event] = {}
        self._newest: dict[int, int] = {}

    def event(self, number: int, product: int) -> Event:
        """Return event `number`, an update of the product or something that is none."""
        last, chance = self._last.get(product), self._rng.random()
        if chance < 0.02:
            return Event(f"p{product}", b'{"id": "p', "malformed", accepted=False)
        if last is not None and chance < 0.05:
            return last
        newest = self._newest.get(product, 0)
        if newest > 0 and chance < 0.08:
            return self._update(self._rng.randrange(newest), product)  # late
        event = self._tombstone(number, product) if chance > 0.97 else self._update(number, product)
        self._last[product] = event
        self._newest[product] = max(event.order or 0, newest)
        return event

    def _tombstone(self, number: int, product: int) -> Event:
        name = f"p{product}"
        if product % 2:
            return Event(name, None, "tombstone")
        return Event(name, orjson.dumps({"id": name, "version": number, "deleted": True}), "tombstone", number)

    def _update(self, version: int, product: int) -> Event:
        host = self._host(product)
        poison = self._poison and product % 10 == 1
        mismatch = not poison and self._rng.random() < 0.4
        red, green = MISMATCH if mismatch else MATCH, POISON if poison else 0
        gone = self._rng.random() < GONE and host in ANSWERS
        picture = MISSING if gone else f"{red:02x}{green:02x}{self._rng.randrange(COLOURS):02x}.png"
        title = f"Mug number {self._rng.randrange(TEXTS)}"
        url = f"http://{self._hosts[host]}/{picture}" + (f"?{version}" if host == "flaky" else "")
        fields = {"id": f"p{product}", "version": version, "title": title, "image_link": url}
        accepted = host in ANSWERS and not poison and not gone
        return Event(f"p{product}", orjson.dumps(fields), "update", version, mismatch, accepted, picture, title)

    def _host(self, product: int) -> Host:
        if not self._broken_images or product % 10 != 0:
            return "good"
        return HOSTS[1 + product // 10 % (len(HOSTS) - 1)]


def draw(
    events: int, seed: int, hosts: Mapping[Host, str], *, broken_images: bool = False, poison: bool = False
) -> list[Event]:
    """Return the events of a run, in order.

    Args:
        events: how many.
        seed: of everything random.
        hosts: HOST:PORT of each image host.
        broken_images: a tenth of the products have their pictures on hosts that fail.
        poison: a tenth of the products have pictures that the engine can never score.
    """
    rng = random.Random(seed)
    maker = _Maker(rng, hosts, broken_images=broken_images, poison=poison)
    products = max(20, events // UPDATES_OF_A_PRODUCT)
    return [maker.event(number, rng.randrange(products)) for number in range(1, events + 1)]
