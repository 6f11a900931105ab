"""The values that a catalogue's facets (color, product type, ...) have, as numbers to be learned. numpy only, no torch.

A picture is asked for the value that it shows, a text for the value that it states; where the two differ, the picture
is a surprise (`engines.build.models.compact`). Both learn from the catalogue's own fields.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.build.dataset import Catalog

_MIN_PRODUCTS: Final = 5  # a value that fewer have cannot be learned


@dataclass(frozen=True)
class Facets:
    """The facets that can be learned, and of each the values that can.

    A label is a value's number; the number after the last is for all other values, the one after that for none.
    """

    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, catalog: Catalog, *, least: int = _MIN_PRODUCTS) -> Self:
        """Return what the products of a catalogue teach: facets with two values or more that `least` products have."""
        known = {}
        for index, name in enumerate(catalog.facet_names):
            counts = Counter(product.facets[index] for product in catalog.products)
            frequent = tuple(sorted(value for value in counts if value and counts[value] >= least))
            if len(frequent) > 1:
                known[name] = frequent
        return cls(tuple(known), tuple(known.values()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each facet has, others and none not counted."""
        return tuple(len(values) for values in self.values)

    def labels(self, catalog: Catalog) -> NDArray[np.int64]:
        """Return int64 (N, F)."""
        columns = [
            [_label(numbers, product.facets[index]) for product in catalog.products]
            for numbers, index in (
                ({value: number for number, value in enumerate(values)}, catalog.facet_names.index(name))
                for name, values in zip(self.names, self.values, strict=True)
            )
        ]
        return np.array(columns, dtype=np.int64).reshape(len(self.names), len(catalog.products)).T


def _label(numbers: dict[str, int], value: str) -> int:
    if not value:
        return len(numbers) + 1
    return numbers.get(value, len(numbers))
