"""A folder catalogue as it is written: lines aside first, put in place together when the feed has ended."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

import msgspec
import orjson

from engines.catalogs.collection import COLLECTION_FILE, REFUSED_FILE, Collection, Refusal
from engines.catalogs.folder import CATALOG_FILE
from streamer.pictures import PARTIAL_FOLDER, writing
from streamer.updates import MAX_TITLE_CHARS, ProductUpdate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamer.errors import StreamerError
    from streamer.feeds import Row

PRODUCT_ERASED: Final = "product_erased"
ID_DUPLICATE: Final = "id_duplicate"

_KEPT = (
    "id", "title", "description", "brand", "color", "material", "pattern", "gender", "size", "product_type",
    "item_group_id", "price",
)  # fmt: skip
_CONTRACT = frozenset(column.name for column in msgspec.structs.fields(ProductUpdate))


@dataclass
class Collected:
    """What one run has done so far; `brought` counts pictures that earlier runs had not.

    `advice` is for people, "" unless most rows were refused.
    """

    rows: int = 0
    products: int = 0
    refused: int = 0
    links: int = 0
    pictures_left_out: int = 0
    brought: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    advice: str = ""

    @property
    def rows_that_count(self) -> int:
        """Rows but those of products that a later row has again: a file may hold a whole feed twice."""
        return self.rows - self.reasons[ID_DUPLICATE]

    @property
    def refused_for_good(self) -> int:
        """Of those, the refused ones."""
        return self.refused - self.reasons[ID_DUPLICATE]


@dataclass(frozen=True)
class RowOutcome:
    """What became of a row: a product of the catalogue or none, and what was refused."""

    product: dict[str, Any] | None
    refusals: Sequence[Refusal]


class CatalogWriter:
    """The lines of the catalogue, written aside and put in place together when the feed has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        with writing(folder):
            (folder / COLLECTION_FILE).unlink(missing_ok=True)  # until this run has ended, nothing here is complete
            self._products, self._refused = map(self._open, (CATALOG_FILE, REFUSED_FILE))

    def _open(self, name: str) -> BinaryIO:
        return self._stack.enter_context((self._folder / PARTIAL_FOLDER / name).open("wb"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the files: their last lines are written now, which a full disk refuses."""
        with writing(self._folder) if kind is None else suppress(OSError):  # the first error says enough
            self._stack.close()

    def write(self, outcome: RowOutcome) -> None:
        with writing(self._folder):
            if outcome.product is not None:
                self._products.write(orjson.dumps(outcome.product, option=orjson.OPT_APPEND_NEWLINE))
            self._refused.writelines(msgspec.json.encode(refusal) + b"\n" for refusal in outcome.refusals)

    def leave_refusals(self) -> None:
        """Put in place why rows were refused, of a run that leaves no catalogue."""
        with writing(self._folder):
            self._stack.close()
            (self._folder / PARTIAL_FOLDER / REFUSED_FILE).replace(self._folder / REFUSED_FILE)

    def finish(self, feed: Path, done: Collected) -> None:
        """Put everything in place; `collection.json` comes last and says that the rest is whole."""
        summary = Collection(
            feed=str(feed),
            rows=done.rows,
            products=done.products,
            refused=done.refused,
            links=done.links,
            pictures_left_out=done.pictures_left_out,
        )
        with writing(self._folder):
            self._stack.close()
        partial = self._folder / PARTIAL_FOLDER
        with writing(self._folder):
            (partial / COLLECTION_FILE).write_bytes(msgspec.json.encode(summary) + b"\n")
            for name in (CATALOG_FILE, REFUSED_FILE, COLLECTION_FILE):
                (partial / name).replace(self._folder / name)


def refusal(row: Row, error: StreamerError, link: str | None = None, *, product_kept: bool = False) -> Refusal:
    """Say why, with what the row itself says of its product, as far as it can be read and was not erased."""
    if error.code == PRODUCT_ERASED:
        return Refusal(line=row.line, id=None, title=None, reason=error.code, message=str(error))
    return Refusal(
        line=row.line,
        id=_cell(row, "id"),
        title=_cell(row, "title"),
        reason=error.code,
        message=_unicode(str(error)),
        link=None if link is None else _unicode(link),
        product_kept=product_kept,
    )


def catalog_line(update: ProductUpdate, files: Sequence[str]) -> dict[str, Any]:
    """Return the line of the catalogue: every column stands at the top, as `engines.catalogs.folder` reads it."""
    named = {name: getattr(update, name) for name in _KEPT}
    others = {name: value for name, value in update.attributes.items() if name not in _CONTRACT}
    line: dict[str, Any] = {name: value for name, value in (named | others).items() if value is not None}
    line["image_link"] = files[0]
    if files[1:]:
        line["additional_image_link"] = list(files[1:])
    return line


def _cell(row: Row, name: str) -> str | None:
    """Return what a column says as `product_update` reads it: a purge finds a refusal by the product's own id."""
    if not isinstance(row.fields, dict) or row.fields.get(name) is None:
        return None
    return _unicode(str(row.fields[name]).strip())[:MAX_TITLE_CHARS]


def _unicode(text: str) -> str:
    """Return the text without what has no UTF-8 form: bytes of a damaged CSV are kept as surrogates until here."""
    return text.encode("utf-8", "replace").decode("utf-8")
