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

_VAGUE: Final = frozenset({"unisex", "multi", "multicolor", "multicolour", "assorted", "other", "na", "n"})
"""Words of values that contradict no picture."""


def words(value: str) -> frozenset[str]:
    """Return what a value says, whatever the order and the case."""
    return frozenset(re.findall(r"\w+", value.casefold()))


class Values:
    """The values of one attribute, each once, in order."""

    def __init__(self, values: Iterable[str]) -> None:
        self.names = sorted(set(values))
        said = [words(name) for name in self.names]
        self._clear = np.array([bool(each) and not each & _VAGUE for each in said], dtype=np.bool_)
        self._holders: defaultdict[str, list[int]] = defaultdict(list)
        for number, each in enumerate(said):
            for word in each:
                self._holders[word].append(number)

    def contradicting(self, said: AbstractSet[str]) -> NDArray[np.bool_]:
        """Return which values contradict these words, bool (V,); none where they say nothing, or nothing certain."""
        if not said or said & _VAGUE:
            return np.zeros_like(self._clear)
        found = self._clear.copy()
        for word in said:
            found[self._holders.get(word, [])] = False
        return found
