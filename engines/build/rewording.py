"""Texts that are wrong in one attribute: a product's own, with its color, gender, … exchanged for another value.

    title: Red cotton tee / color: Red   →   title: Navy cotton tee / color: Navy

Values are the catalogue's own, if there are any from products of the same category. A value is exchanged in its field
and wherever else the text says it, so that the text does not contradict itself: only the picture does. No torch.

Source: hard negative texts as in NegCLIP, Yuksekgonul et al. 2023, "When and why vision-language models behave like
bags-of-words".
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engines.build.values import Values, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engines.build.dataset import Catalog, Product

FIELDS: Final = ("color", "gender", "material", "pattern")
COUNT: Final = "count"
"""What `Rewording.attribute` says where a quantity was exchanged, which stands in the title."""

_QUANTITY: Final = re.compile(
    r"\b(?:set|pack|box|bundle|lot)\s+of\s+(\d+|two|three|four|five|six|eight|ten|twelve)\b"
    r"|\b(\d+)(?=[-\s]?(?:pack|piece|pc|count|ct|set|pair)s?\b)",
    re.IGNORECASE,
)


class Rewording(NamedTuple):
    """A product's fields with one attribute exchanged."""

    attribute: str
    old: str
    new: str
    fields: dict[str, str]

    def applied(self, product: Product) -> Product:
        """Return the product as it says of itself now; its columns say the same as its text."""
        changed = {name: text for name, text in self.fields.items() if text != product.fields[name]}
        columns = {name: changed.get(name, value) for name, value in product.columns.items()}
        return replace(product, fields=self.fields, columns=columns)


class Reworder:
    """Draws wrong texts of a catalogue's products."""

    def __init__(self, catalog: Catalog, *, seed: int) -> None:
        self._products = catalog.products
        self._generator = np.random.default_rng(seed)
        of_category: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        of_all: defaultdict[str, set[str]] = defaultdict(set)
        self._said: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
        for product in self._products:
            for attribute, value in _values(product.fields):
                of_category[attribute, product.category].add(value)
                of_all[attribute].add(value)
                self._said[product.identity, attribute] |= words(value)
        self._of_category = {key: Values(values, colors=key[0] == "color") for key, values in of_category.items()}
        self._of_all = {attribute: Values(values, colors=attribute == "color") for attribute, values in of_all.items()}

    def reword(self, product: int) -> Rewording | None:
        """Return a wrong text of the product; None where no attribute has another value.

        It contradicts what all products of the same identity, so all with the same picture, say of that attribute.
        """
        one = self._products[product]
        values = list(_values(one.fields))
        for number in self._generator.permutation(len(values)):
            attribute, old = values[number]
            said = self._said[one.identity, attribute]
            for vocabulary in (self._of_category[attribute, one.category], self._of_all[attribute]):
                (others,) = np.nonzero(vocabulary.contradicting(said))
                if len(others):
                    new = vocabulary.names[int(others[int(self._generator.integers(len(others)))])]
                    return Rewording(attribute, old, new, _exchanged(one.fields, attribute, old, new))
        return None


def _values(fields: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield attributes that can be exchanged, and what the product says of them."""
    for name in FIELDS:
        if fields.get(name, "").strip():
            yield name, fields[name].strip()
    found = _QUANTITY.search(fields.get("title", ""))
    if found:
        yield COUNT, found[1] or found[2]


def _exchanged(fields: Mapping[str, str], attribute: str, old: str, new: str) -> dict[str, str]:
    if attribute == COUNT:
        return {**fields, "title": _QUANTITY.sub(lambda found: _with_number(found, old, new), fields["title"])}
    mention = re.compile(rf"(?<!\w){re.escape(old)}(?!\w)", re.IGNORECASE)
    changed = {name: mention.sub(lambda found: _cased(new, found[0]), value) for name, value in fields.items()}
    return changed | {attribute: new}


def _with_number(found: re.Match[str], old: str, new: str) -> str:
    group = 1 if found[1] else 2
    if found[group].casefold() != old.casefold():
        return found[0]
    at = found.start(group) - found.start()
    return found[0][:at] + _cased(new, found[group]) + found[0][at + len(found[group]) :]


def _cased(new: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return new.upper()
    return new.lower() if like.islower() else new
