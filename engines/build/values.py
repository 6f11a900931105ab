"""Which values of an attribute contradict each other, by the words they say: `Red` and `Navy Blue`, not `Blue` and it.

Labels are what people have typed: `Black/White` is `White/Black`, and a `Navy Blue` thing is blue. So two values are
others only where they have no word in common, and neither says that it may be anything. No torch.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray

_VAGUE: Final = frozenset({"unisex", "multi", "assorted", "various", "mixed", "other", "unknown", "none", "na", "n"})
"""Words of values that contradict no picture."""

_VAGUE_COLORS: Final = frozenset(
    {"multicolor", "multicolors", "multicolored", "printed", "color", "colored", "default", "specified", "unspecified"}
)
_SPELLED: Final = (("grey", "gray"), ("colour", "color"))
_LEAST_LETTERS: Final = 3  # of a color within another's name; less of scripts that need few


def words(value: str) -> frozenset[str]:
    """Return what a value says, whatever the order, the case and the side of the Atlantic."""
    folded = value.casefold()
    for british, american in _SPELLED:
        folded = folded.replace(british, american)
    return frozenset(re.findall(r"\w+", folded))


class Values:
    """The values of one attribute, each once, in order.

    Args:
        values: of it.
        colors: whether they are colors, of which one may be named in another's name (`Blau`, `Dunkelblau`), as a gender
            may not.
    """

    def __init__(self, values: Iterable[str], *, colors: bool = False) -> None:
        self.names = sorted(set(values))
        self._vague = _VAGUE | _VAGUE_COLORS if colors else _VAGUE
        self._colors = colors
        said = [words(name) for name in self.names]
        self._clear = np.array([bool(each) and not each & self._vague for each in said], dtype=np.bool_)
        self._holders: defaultdict[str, list[int]] = defaultdict(list)
        for number, each in enumerate(said):
            for word in each:
                self._holders[word].append(number)
        self._holding: dict[str, list[int]] = {}

    def contradicting(self, said: AbstractSet[str]) -> NDArray[np.bool_]:
        """Return which values contradict these words, bool (V,); none where they say nothing, or nothing certain."""
        if not said or said & self._vague:
            return np.zeros_like(self._clear)
        found = self._clear.copy()
        for word in said:
            found[self._that_hold(word)] = False
        return found

    def _that_hold(self, word: str) -> list[int]:
        """Return the values that have this word, or a color of its name."""
        if not self._colors:
            return self._holders.get(word, [])
        if word not in self._holding:
            alike = [other for other in self._holders if _within(word, other) or _within(other, word)]
            self._holding[word] = [number for other in alike for number in self._holders[other]]
        return self._holding[word]


def _within(word: str, other: str) -> bool:
    return word in other and (word == other or len(word) >= (_LEAST_LETTERS if word.isascii() else 1))
