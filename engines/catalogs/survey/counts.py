"""Counting a catalogue folder product by product: each is remembered by a few numbers, so that many take tens of MB."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from engines.catalogs.groups import placeholders
from engines.catalogs.survey.figures import Column, Distribution, Placeholder, Shared, SharedValue
from engines.fields import NAMED_FIELDS, CodeColumns
from engines.markup import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engines.catalogs.folder import CatalogItem

TOP: Final = 20
MAX_VALUES: Final = 50_000  # of one column that are told apart
MAX_COLUMNS: Final = 200
MAX_TEXT_CHARS: Final = 8192  # of a field that is searched for HTML
MAX_VALUE_CHARS: Final = 80  # of a value that is kept to be shown
MAX_BINS: Final = 30
LARGEST: Final = 6  # of the values that products share
SHOWN: Final = 8  # of the products that share one

_CONTENT_ADDRESSED = re.compile(r"[0-9a-f]{64}")
_STRUCTURE = ("item_group_id", "price", "additional_image_link")
_RECORD = ("id", "image_link", "schema_version", "version", "updated_at", "deleted", "attributes")  # not counted


class _ColumnTally:
    def __init__(self) -> None:
        self.filled = 0
        self.capped = False
        self.values: Counter[str | int] = Counter()  # a long value by its hash

    def add(self, value: str) -> None:
        self.filled += 1
        key = value if len(value) <= MAX_VALUE_CHARS else hash(value)
        if key in self.values or len(self.values) < MAX_VALUES:
            self.values[key] += 1
        else:
            self.capped = True

    def most_common(self) -> tuple[str, int] | None:
        value, count = next(iter(self.values.most_common(1)), ("", 0))
        return (value, count) if isinstance(value, str) and count > 1 else None


class ProductTally:
    """What all products together say; one number of 64 bits stands for each title, group and picture."""

    def __init__(self) -> None:
        self.products = self.html_texts = 0
        self.picture_paths: dict[int, str] = {}
        self.title_chars, self.description_chars, self.own_pictures = array("L"), array("L"), array("L")
        self._columns: defaultdict[str, _ColumnTally] = defaultdict(_ColumnTally)
        self._title_keys = array("Q")
        self._group_owners, self._group_keys = array("Q"), array("Q")
        self._picture_owners, self._picture_keys = array("Q"), array("Q")
        self._first_color: dict[int, str] = {}
        self._conflicts: set[int] = set()
        self._text_columns: set[str] = set()
        self._codes = CodeColumns()

    def add(self, item: CatalogItem) -> None:
        """Count one product."""
        self._add_columns(item)
        self._add_lengths(item)
        title = item.fields.get("title", item.id).casefold()  # what a split goes by
        self._title_keys.append(_key("title", title))
        if item.item_group_id is not None:
            self._group_owners.append(self.products)
            self._group_keys.append(_key("group", item.item_group_id))
        self._add_pictures(item)
        self.html_texts += any(
            plain(value[:MAX_TEXT_CHARS]) != value[:MAX_TEXT_CHARS] for value in item.fields.values()
        )
        self.products += 1

    def _add_columns(self, item: CatalogItem) -> None:
        self._text_columns |= item.fields.keys()
        self._codes.add(item.fields)
        unread = item.raw.keys() - item.fields.keys() - {*_RECORD, *NAMED_FIELDS}
        others = {name: str(item.raw[name]) for name in item.raw if name in unread}
        said = {name: value for name, value in others.items() if value.strip() not in ("", "None", "[]")}
        for name, value in (item.fields | said).items():
            if name in self._columns or len(self._columns) < MAX_COLUMNS:
                self._columns[name].add(value)

    def _add_lengths(self, item: CatalogItem) -> None:
        for name, lengths in (("title", self.title_chars), ("description", self.description_chars)):
            if name in item.fields:
                lengths.append(len(item.fields[name]))
        self.own_pictures.append(1 + len(item.additional_image_paths))

    def _add_pictures(self, item: CatalogItem) -> None:
        keys: dict[int, None] = {}
        for path in (item.image_path, *item.additional_image_paths):
            key = _key("picture", _content(path))
            keys[key] = None
            self.picture_paths.setdefault(key, str(path))
        self._picture_owners.extend([self.products] * len(keys))
        self._picture_keys.extend(keys)
        color = item.fields.get("color", "").casefold()
        main = next(iter(keys))
        if color and self._first_color.setdefault(main, color) != color:
            self._conflicts.add(main)

    def columns(self) -> tuple[Column, ...]:
        """Return every column: the named ones first, filled or not, then the others."""
        others = [name for name in self._columns if name not in NAMED_FIELDS and name not in _STRUCTURE]
        names = (*NAMED_FIELDS, *others, *_STRUCTURE)
        return tuple(self._column(name, self._columns.get(name) or _ColumnTally()) for name in names)

    def _column(self, name: str, tally: _ColumnTally) -> Column:
        return Column(
            name=name,
            text=name in NAMED_FIELDS or name in self._text_columns - self._codes.found(),
            filled=tally.filled,
            missing=self.products - tally.filled,
            distinct=len(tally.values),
            distinct_capped=tally.capped,
            most_common=tally.most_common(),
        )

    def top(self, column: str) -> tuple[tuple[str, int], ...]:
        """Return the most common values of a column."""
        tally = self._columns.get(column)
        common = [] if tally is None else tally.values.most_common(TOP)
        return tuple((value, count) for value, count in common if isinstance(value, str))

    def connecting_keys(self) -> Iterator[list[int]]:
        """Yield what connects each product with others: its pictures, its title, its item group."""
        groups = dict(zip(self._group_owners, self._group_keys, strict=True))
        beside_anything = self._placeholders().keys()
        position = 0
        for index, title in enumerate(self._title_keys):
            own = [title, *([groups[index]] if index in groups else [])]
            main = position
            while position < len(self._picture_owners) and self._picture_owners[position] == index:
                if position == main or self._picture_keys[position] not in beside_anything:
                    own.append(self._picture_keys[position])
                position += 1
            yield own

    def same_title(self) -> Shared:
        """Return titles, upper and lower case alike, that several products have."""
        return shared(range(self.products), self._title_keys)

    def same_picture(self) -> Shared:
        """Return pictures, byte for byte, that several products have."""
        return shared(self._picture_owners, self._picture_keys)

    def color_conflicts(self) -> Shared:
        """Return the first pictures whose products name different colours."""
        keys = self._picture_keys
        pairs = [(owner, keys[i]) for i, owner in enumerate(self._picture_owners) if keys[i] in self._conflicts]
        return shared([owner for owner, _ in pairs], [key for _, key in pairs])

    def placeholders(self, folder: Path) -> tuple[Placeholder, ...]:
        """Return the pictures that many products of different titles share, the most shared one first.

        The products of one item group count as one title.
        """
        found = [
            Placeholder(
                file=Path(self.picture_paths[key]).relative_to(folder).as_posix(),
                products=len(own),
                titles=len(set(self._named(set(own)).values())),
            )
            for key, own in self._placeholders().items()
        ]
        return tuple(sorted(found, key=lambda one: (-one.products, one.file)))

    def _placeholders(self) -> dict[int, list[int]]:
        return placeholders(self._picture_owners, self._picture_keys, self.products, self._named)

    def _named(self, products: set[int]) -> dict[int, int]:
        """Return of each of these products the key of its item group, else of its title."""
        groups = zip(self._group_owners, self._group_keys, strict=True)
        titles = {product: self._title_keys[product] for product in products}
        return titles | {owner: key for owner, key in groups if owner in products}

    def groups(self) -> Shared:
        """Return item groups of several products."""
        return shared(self._group_owners, self._group_keys)

    def variants(self) -> list[int]:
        """Return how many products each item group of several has."""
        return [count for count in Counter(self._group_keys).values() if count > 1]


class PictureTally:
    """What the files of the pictures say of themselves; nothing is decoded."""

    def __init__(self) -> None:
        self.bytes = self.unreadable = 0
        self.formats: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        self.shorter_sides = array("L")

    def add(self, path: str) -> None:
        """Count one picture."""
        self.bytes += Path(path).stat().st_size
        try:
            with Image.open(path) as picture:
                width, height, name = *picture.size, picture.format or "?"
        except Exception:  # noqa: BLE001 - Pillow raises anything on hostile bytes, and a survey only counts them
            self.unreadable += 1
            return
        self.formats[name] += 1
        self.sizes[f"{width}x{height}"] += 1
        self.shorter_sides.append(min(width, height))


def distribution(values: Sequence[int]) -> Distribution | None:
    """Return the distribution of whole numbers, or None of none at all."""
    if not len(values):
        return None
    numbers = np.asarray(values, dtype=np.int64)
    low, high = int(numbers.min()), int(np.ceil(np.quantile(numbers, 0.99)))
    width = max(1, -(-(high - low + 1) // MAX_BINS))  # whole numbers: a bin that held one more than its neighbour lies
    edges = np.arange(low, high + width + 1, width)
    counts, _ = np.histogram(np.minimum(numbers, edges[-1] - 1), bins=edges)
    median, p95 = np.quantile(numbers, [0.5, 0.95])
    return Distribution(
        count=len(numbers),
        minimum=low,
        median=float(median),
        p95=float(p95),
        maximum=int(numbers.max()),
        edges=tuple(map(float, edges)),
        counts=tuple(map(int, counts)),
    )


def shared(owners: Sequence[int], keys: Sequence[int]) -> Shared:
    """Return which keys several owners have; owner i of `owners` has key i of `keys`, each pair once."""
    if not len(keys):
        return Shared(values=0, products=0, largest=())
    order = np.argsort(np.asarray(keys, dtype=np.uint64), kind="stable")
    sorted_keys, sorted_owners = np.asarray(keys, dtype=np.uint64)[order], np.asarray(owners, dtype=np.int64)[order]
    bounds = [0, *(np.flatnonzero(np.diff(sorted_keys)) + 1).tolist(), len(order)]
    spans = [span for span in pairwise(bounds) if span[1] - span[0] > 1]
    largest = sorted(spans, key=lambda span: (span[0] - span[1], int(sorted_owners[span[0]])))[:LARGEST]
    members: list[int] = [int(owner) for start, end in spans for owner in sorted_owners[start:end]]
    return Shared(
        values=len(spans),
        products=len(set(members)),
        largest=tuple(
            SharedValue(products=end - start, shown=tuple(map(int, sorted_owners[start:end][:SHOWN])))
            for start, end in largest
        ),
    )


def _key(kind: str, value: str) -> int:
    """Return 64 bits for a value. A million of them collide once in thirty million catalogues."""
    return int.from_bytes(hashlib.blake2b(f"{kind}\0{value}".encode(), digest_size=8).digest(), "little")


def _content(path: Path) -> str:
    """Return the SHA-256 of a file; a collected picture is named by it."""
    if _CONTENT_ADDRESSED.fullmatch(path.stem):
        return path.stem
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
