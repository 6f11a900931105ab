"""Which of a catalogue's columns an engine may read as attributes, found in the training products. No torch.

A column of numbers, or of few values that come again and again. Titles, ids and prose are neither; stock and its like
would have each change scored anew.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from engines.attributes import category, number
from engines.contract import AttributeColumns
from engines.fields import PRICE_HISTORY, is_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HISTORY_LENGTH: Final = 12
MAX_COLUMNS: Final = 16  # of numbers, and of categories: those that most products have
MAX_VALUES: Final = 64

_NEVER: Final = frozenset({"title", "description", PRICE_HISTORY})
_PRICES: Final = frozenset({"price", "sale_price"})
_LEAST_KNOWN: Final = 0.05  # of the products
_NUMERIC: Final = 0.95  # of a column's values are numbers
_REPEATED: Final = 0.8  # of a column's values are among those that are kept
_LEAST_PRODUCTS: Final = 3  # with one value


def find_columns(products: Sequence[Mapping[str, object]]) -> AttributeColumns | None:
    """Return the columns that are worth reading, those that most products have first; None: there are none.

    Args:
        products: of each product what is known by column.
    """
    counts = Counter(name for values in products for name in values if _may_be_read(name))
    names = [name for name, _ in counts.most_common() if counts[name] >= _LEAST_KNOWN * len(products)]
    numbers: list[str] = []
    categories: dict[str, tuple[str, ...]] = {}
    for name in names:
        values = [values[name] for values in products if name in values]
        if _is_numeric(values):
            numbers.append(name)
        elif kept := _values(values):
            categories[name] = kept
    past = any(values.get(PRICE_HISTORY) for values in products)
    found = AttributeColumns(
        numbers=tuple(numbers[:MAX_COLUMNS]),
        categories=dict(list(categories.items())[:MAX_COLUMNS]),
        history=PRICE_HISTORY if past else None,
        history_length=HISTORY_LENGTH if past else 0,
    )
    return found if found.count else None


def _may_be_read(name: str) -> bool:
    return name not in _NEVER and (name in _PRICES or is_text(name))


def _is_numeric(values: list[object]) -> bool:
    said = [value for value in values if category(value)]
    read = [value for value in said if number(value) is not None]
    return bool(said) and len(read) >= _NUMERIC * len(said)


def _values(values: list[object]) -> tuple[str, ...]:
    """Return the values that are kept, the most frequent first; none where most are seldom."""
    counts = Counter(said for value in values if (said := category(value)))
    kept = [value for value, count in counts.most_common(MAX_VALUES) if count >= _LEAST_PRODUCTS]
    return tuple(kept) if sum(counts[value] for value in kept) >= _REPEATED * max(1, counts.total()) else ()
