"""What collecting a feed leaves beside `catalog.jsonl` and `images/`: what was refused and why, and how it went.

shop/collection.json   one Collection; it is written last, so a folder that has it is complete
shop/refused.jsonl     one Refusal a line
shop/survey/           what the catalogue holds (`engines.catalogs.survey`)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COLLECTION_FILE: Final = "collection.json"
REFUSED_FILE: Final = "refused.jsonl"
IMAGES_FOLDER: Final = "images"
SURVEY_FOLDER: Final = "survey"


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a product, or one picture of it, is not in the catalogue.

    `reason` is a stable code. `product_kept` is true where only an additional picture was left out. `link` is the
    picture's, without credentials and query. `line` is the feed's, in Parquet the row.
    """

    line: int
    id: str | None
    title: str | None
    reason: str
    message: str
    link: str | None = None
    product_kept: bool = False


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """How a feed became a folder: of `rows`, `products` are in it and `refused` are not.

    `links` counts the links of the products that are kept, `pictures_left_out` additional pictures that were refused.
    """

    schema_version: int = 1
    feed: str
    rows: int
    products: int
    refused: int
    links: int
    pictures_left_out: int


def read_collection(folder: Path) -> Collection | None:
    """Return how the folder was collected, or None where it has not been, or not to the end.

    Raises:
        CatalogInvalid: the file is there and cannot be read.
    """
    path = folder / COLLECTION_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Collection)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise CatalogInvalid(f"cannot read {path}: {error}; delete it and collect again") from error


def read_refusals(folder: Path) -> Iterator[Refusal]:
    """Yield what was refused, in the order of the feed; nothing where the folder was not collected.

    Raises:
        CatalogInvalid: a line is not a Refusal.
    """
    path = folder / REFUSED_FILE
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(Refusal)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError as error:
                raise CatalogInvalid(f"{path}, line {number}: {error}; delete it and collect again") from error
