"""A product's columns → `attributes`: the ONE definition, used in training and in scoring.

    {"price": "52.00 USD", "color": "Red", "price_history": ["60", "52"]}  →  float32 (A, 2): value, known

Numbers go in as `sign(x) * log(1 + |x|)`, since prices span magnitudes; the graph standardises them. A category's value
is its place among the manifest's values, or the place behind the last for any other. What is absent, or not to be read
as what its column holds, is not known: value 0, known 0. numpy only.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from engines.contract import AttributeColumns

_CURRENCY: Final = r"(?:[A-Z]{3}\s|(?:Rs|[Kk]r|R\$|[$€£¥₹])\.?)?"
_DIGITS: Final = r"\d{1,3}(?:[ \u00a0\u202f']\d{3})+(?:[.,]\d{1,2})?(?!\d)|\d(?:[\d,.]*\d)?|\.\d+"
_NUMBER: Final = re.compile(rf"\s*{_CURRENCY}\s*([-+]?(?:{_DIGITS}))")
_DECIMAL_COMMA: Final = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:\.\d{3})+),\d{1,2}")
_POINTS_GROUP: Final = re.compile(r"[-+]?\d{1,3}(?:\.\d{3}){2,}")
_DECIMAL_POINT: Final = re.compile(r"[-+]?\d*(?:\.\d+)?")
_MAX_CHARS: Final = 512
_SEPARATORS: Final = re.compile(r"[\s;|]+")


class AttributeReader:
    """Reads the columns of a release from products' values."""

    def __init__(self, columns: AttributeColumns) -> None:
        self.columns = columns
        self._places = [{value: place for place, value in enumerate(values)} for values in columns.categories.values()]

    def read(self, values: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return float32 (A, 2), value and known of each column: numbers, categories, history, the oldest first."""
        columns = self.columns
        numbers = [_scaled(number(values.get(name))) for name in columns.numbers]
        places = [self._place(index, values.get(name)) for index, name in enumerate(columns.categories)]
        past = [_scaled(number(value)) for value in _past(values.get(columns.history or ""))]
        past = past[-columns.history_length :] if columns.history_length else []
        read = [*numbers, *places, *[None] * (columns.history_length - len(past)), *past]
        return np.array([(0.0, 0.0) if one is None else (one, 1.0) for one in read], dtype=np.float32).reshape(-1, 2)

    def without(self, attributes: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """Return the attributes (A, 2) with a column, if there is one of that name, not known."""
        columns = self.columns
        named = [*columns.numbers, *columns.categories, *[columns.history] * columns.history_length]
        return np.where(np.array([one == name for one in named], dtype=np.bool_)[:, None], np.float32(0), attributes)

    def _place(self, index: int, value: object) -> float | None:
        said = category(value)
        return float(self._places[index].get(said, len(self._places[index]))) if said else None


def number(value: object) -> float | None:
    """Return the number that a value is or begins with; None: there is none.

    `52`, `"1,299.00 USD"`, `"€12,50"`, `"1.299,00 €"`, `"1 299,00"`; of `"1.299"` alone the point is the decimal one.
    """
    if isinstance(value, str):
        found = _NUMBER.match(value[:_MAX_CHARS])
        if found is None:
            return None
        value = float(_with_point(re.sub(r"[\s']", "", found[1])))
    if isinstance(value, (int, float)) and abs(value) < float("inf"):
        return float(value)
    return None


def _with_point(digits: str) -> str:
    """Return a number as Python reads it: no signs between groups of digits, a point before decimals."""
    if _DECIMAL_COMMA.fullmatch(digits):
        return digits.replace(".", "").replace(",", ".")
    if _POINTS_GROUP.fullmatch(digits):
        return digits.replace(".", "")
    found = _DECIMAL_POINT.match(digits.replace(",", ""))
    return found[0] if found else digits


def category(value: object) -> str:
    """Return what a value says, in one spelling: NFKC, lower case, single spaces; empty where it says nothing."""
    if isinstance(value, list):
        value = ", ".join(map(str, cast("list[object]", value)))
    if value is None or isinstance(value, dict):
        return ""
    return " ".join(unicodedata.normalize("NFKC", str(value)[:_MAX_CHARS]).casefold().split())


def _past(value: object) -> list[object]:
    """Return the values of a history: a list, or numbers in one string behind spaces, semicolons or bars."""
    if isinstance(value, str):
        return [part for part in _SEPARATORS.split(value.strip()) if part]
    return cast("list[object]", value) if isinstance(value, list) else []


def _scaled(value: float | None) -> float | None:
    return None if value is None else math.copysign(math.log1p(abs(value)), value)
