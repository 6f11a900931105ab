"""Which products belong together: the one rule by which a catalogue is split and by which its survey counts.

Products that share a picture do, unless it is one that a shop puts beside anything: a size chart, a banner, "photo to
come". As an additional picture such a one says nothing of its product, and connects it with none.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

_PLACEHOLDER_SHARE: Final = 0.01  # of the products
_PLACEHOLDER_NAMES: Final = 5


def connected(keys: Iterable[Iterable[Hashable]]) -> list[int]:
    """Return the component of each item, numbered from 0: items that share any key, directly or not, are connected."""
    parents: list[int] = []
    holders: dict[Hashable, int] = {}
    for index, own in enumerate(keys):
        parents.append(index)
        for key in own:
            parents[_root(parents, index)] = _root(parents, holders.setdefault(key, index))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(_root(parents, index), len(numbers)) for index in range(len(parents))]


def placeholders(
    owners: Sequence[int], keys: Sequence[int], products: int, named: Callable[[set[int]], Mapping[int, Hashable]]
) -> dict[int, list[int]]:
    """Return the pictures that more than one product in a hundred shows, of five names or more, and which products.

    Args:
        owners: the product of each picture, numbers below `products`; each pair with `keys` stands there once.
        keys: which picture it is, 64 bits each.
        products: how many there are.
        named: returns of some products their names: the item group, whose products share pictures, or else the title.
    """
    each, counts = np.unique(np.asarray(keys, dtype=np.uint64), return_counts=True)
    many = set(each[counts > max(_PLACEHOLDER_SHARE * products, _PLACEHOLDER_NAMES - 1)].tolist())
    shown_by: defaultdict[int, list[int]] = defaultdict(list)
    for owner, key in zip(owners, keys, strict=True):
        if key in many:
            shown_by[key].append(owner)
    names = named({owner for own in shown_by.values() for owner in own})
    return {key: own for key, own in shown_by.items() if len({names[one] for one in own}) >= _PLACEHOLDER_NAMES}


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index
