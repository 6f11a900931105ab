"""What a feed calls its columns → Google Merchant's names: other spellings, usual other names, and what its owner says.

A name of ours always wins, then what the owner says, then the first of the usual names that a row has a value under.
No I/O.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from engines.fields import column
from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Fields = dict[str, Any]

USUAL_NAMES: Final = {
    "id": ("sku", "variant_sku", "product_id", "item_id", "offer_id", "article_id", "product_code", "uniq_id"),
    "title": ("name", "product_name", "product_title", "item_name", "product_display_name", "prod_name"),
    "description": ("product_description", "long_description", "body_html", "body_(html)", "desc", "detail_desc"),
    "brand": ("brand_name", "manufacturer", "vendor"),
    "color": ("colour", "colors", "colours", "color_name", "colour_name", "base_color", "base_colour", "product_color"),
    "material": ("materials",),
    "size": ("sizes",),
    "product_type": (
        "product_types", "category", "product_category", "category_path", "category_name", "categories",
        "product_category_tree", "product_type_name", "google_product_category",
    ),
    "item_group_id": ("item_group", "group_id", "parent_id", "parent_sku"),
    "image_link": (
        "image", "image_url", "img", "img_url", "img_link", "image_src", "image_path", "main_image", "main_image_url",
        "picture", "picture_url", "photo", "photo_url", "image_links", "image_urls", "images",
    ),
    "additional_image_link": (
        "additional_image_links", "additional_images", "additional_image_urls", "additional_image",
    ),
}  # fmt: skip
"""What shops and data sets call a field, the surest first; upper and lower case, `_` and spaces make no difference."""

MAPPED: Final = (*USUAL_NAMES, "pattern", "gender", "price")
NEEDED: Final = ("id", "title", "image_link")
SHOWN: Final = 30  # columns of an error's message
MAX_NAME_CHARS: Final = 40


def _squashed(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


_USUAL: Final = {
    _squashed(name): (wanted, rank) for wanted, names in USUAL_NAMES.items() for rank, name in enumerate(names)
}


@dataclass(frozen=True)
class Columns:
    """How the columns of one feed are read; `given` maps fields of ours to what the feed calls them."""

    given: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Iterable[str]) -> Columns:
        """Return what `--column FIELD=COLUMN`, given once or more, says.

        Raises:
            FatalError: settings_invalid.
        """
        given: dict[str, str] = {}
        for option in options:
            name, separator, theirs = option.partition("=")
            wanted = column(name)
            if not separator or not theirs.strip() or wanted not in MAPPED or wanted in given:
                raise FatalError(
                    "settings_invalid",
                    f"--column {option}: write FIELD=COLUMN, as in title=name, once for a field; FIELD is one of "
                    f"{', '.join(sorted(MAPPED))}",
                )
            given[wanted] = column(theirs)
        return cls(given)

    def read(self, fields: Mapping[str, object]) -> Fields:
        """Return the row's values under our names; those without a value are left out, and so is what was renamed."""
        names = _in_our_spelling(tuple(fields))
        said = {name: value for name, value in zip(names, fields.values(), strict=True) if not is_empty(value)}
        places = self._places(said)
        if not places and not self.given:
            return said
        gone = {*places.values(), *self.given}
        kept = {name: value for name, value in said.items() if name not in gone}
        return kept | {wanted: said[theirs] for wanted, theirs in places.items()}

    def read_as(self, fields: Mapping[str, object]) -> dict[str, str]:
        """Return which of our names each column of such a row is read as; its own, in our spelling, for most."""
        names = _in_our_spelling(tuple(fields))
        places = self._places(dict(zip(names, fields.values(), strict=True)))
        fields_of = {theirs: wanted for wanted, theirs in places.items()}
        return {str(given): fields_of.get(name, name) for given, name in zip(fields, names, strict=True)}

    def has_id(self, names: Iterable[str]) -> bool:
        """Return whether one of these columns is read as the id."""
        return "id" in self.read_as(dict.fromkeys(names)).values()

    def missing_from(self, names: Iterable[str]) -> list[str]:
        """Return the columns of `--column` that are not among these names."""
        there = set(map(column, names))
        return [theirs for theirs in self.given.values() if theirs not in there]

    def advice(self, found: Mapping[str, object]) -> str:
        """Return which columns a feed has, what they are read as, and what to do where one is missing.

        Args:
            found: the columns of its first rows, each with a value.
        """
        if not found:
            return ""
        taken = self.read_as(found)
        listed = [_listed(name, taken[name]) for name in list(taken)[:SHOWN]]
        more = f" and {len(taken) - SHOWN} more" if len(taken) > SHOWN else ""
        missing = [name for name in NEEDED if name not in taken.values()]
        advice = f"Its columns: {', '.join(listed)}{more}."
        if absent := self.missing_from(found):
            advice += f" There is no {' and no '.join(absent)}, which --column names."
        if missing:
            advice += (
                f" None of them is read as {' or '.join(missing)}: say which one is, as in "
                f"--column {missing[0]}=COLUMN."
            )
        return advice

    def _places(self, said: Mapping[str, object]) -> dict[str, str]:
        """Return for fields that stand under another name which of the names in `said` that is."""
        places = {wanted: theirs for wanted, theirs in self.given.items() if theirs in said}
        best: dict[str, tuple[int, str]] = {}
        for name, wanted, rank in _candidates(tuple(said)):
            if wanted not in self.given and name not in self.given.values() and _fits(wanted, said[name]):
                best[wanted] = min(best.get(wanted, (rank, name)), (rank, name))
        return places | {wanted: name for wanted, (_, name) in best.items()}


@functools.lru_cache(maxsize=1024)
def _in_our_spelling(names: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(column(str(name)) for name in names)


@functools.lru_cache(maxsize=1024)
def _candidates(names: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """Return which of these columns may stand for a field that is not among them, and how sure that is."""
    usual = [(name, *_USUAL.get(_squashed(name), ("", 0))) for name in names]
    return [(name, wanted, rank) for name, wanted, rank in usual if wanted and wanted not in names]


def _fits(wanted: str, value: object) -> bool:
    """Whether a value can stand for the field; a category that is only a number says nothing."""
    if isinstance(value, bool) or (isinstance(value, dict) and wanted != "image_link"):
        return False
    return wanted != "product_type" or not str(value).strip().isdigit()


def is_empty(value: object) -> bool:
    """Whether a cell says nothing."""
    if isinstance(value, float):
        return math.isnan(value)  # pandas writes missing cells so
    return value is None or (isinstance(value, str) and not value.strip()) or value == []


def _listed(name: str, taken: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in name[:MAX_NAME_CHARS])
    return f"{shown} (read as {taken})" if taken in MAPPED and taken != name else shown
