"""Which products belong together: the one rule by which a catalogue is split and by which its survey counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable


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


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index
