"""A catalogue folder: `catalog.jsonl`, one product a line in Google Merchant field names, and its pictures.

    shop/catalog.jsonl   {"id": "1", "title": "Blue mug", "color": "Blue", "image_link": "images/1.jpg", ...}
    shop/images/1.jpg

`image_link` and `additional_image_link` are relative to the folder and may not leave it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson

from engines.catalogs import erased
from engines.errors import CatalogInvalid
from engines.fields import text_fields

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

CATALOG_FILE = "catalog.jsonl"


@dataclass(frozen=True)
class CatalogItem:
    """One product of a folder: what its text says by field, and where its pictures are."""

    id: str
    fields: dict[str, str]
    image_path: Path
    additional_image_paths: tuple[Path, ...]
    item_group_id: str | None
    raw: dict[str, Any]


class Line(NamedTuple):
    """A line of a catalogue, before its pictures are looked at; `where` is how an error names it."""

    content: bytes
    where: str
    id: str
    raw: dict[str, Any]

    @property
    def digest(self) -> str:
        """What its product is called when it is erased."""
        return erased.digest(self.id)

    def picture_names(self) -> set[str]:
        """Return what the files of its pictures are called, without their folder.

        Raises:
            CatalogInvalid: `additional_image_link` is not a list.
        """
        links = [self.raw.get("image_link"), *_links(self.raw.get("additional_image_link"), self.where)]
        return {PurePosixPath(link).name for link in links if isinstance(link, str)}


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of the catalogue folder at `path`; blank ones are skipped.

    Raises:
        CatalogInvalid: there is no readable `catalog.jsonl`, or a line is not a product; the message names the line
            and says what to do.
    """
    catalog = path / CATALOG_FILE
    for number, line in enumerate(_lines(catalog), start=1):
        if line.strip():
            yield _line(line, f"{catalog}, line {number}")


def read_folder(path: Path, *, without: Collection[str] = erased.NOTHING) -> list[CatalogItem]:
    """Return the products of the catalogue folder at `path`, in the order of its lines.

    Args:
        path: of the folder.
        without: digests of products that are left out, as if they did not stand there (`engines.catalogs.erased`).

    Raises:
        CatalogInvalid: as `read_lines`; or a line has no picture in the folder.
    """
    items: dict[str, CatalogItem] = {}
    for line in read_lines(path):
        if without and line.digest in without:
            continue
        if line.id in items:
            raise CatalogInvalid(f"{line.where}: the id {line.id!r} was used above; give each product its own id")
        items[line.id] = _item(line, path)
    if not items:
        raise CatalogInvalid(f"{path / CATALOG_FILE} holds no products; write one JSON object a line")
    return list(items.values())


def _lines(catalog: Path) -> list[bytes]:
    try:
        return catalog.read_bytes().split(b"\n")
    except OSError as error:
        raise CatalogInvalid(f"cannot read {catalog}: {error.strerror}; a catalogue folder holds that file") from error


def read_item(line: bytes, folder: Path, where: str) -> CatalogItem:
    """Return the product of one line; `where` is how an error names it.

    Raises:
        CatalogInvalid: the line is not a product with a picture in the folder.
    """
    return _item(_line(line, where), folder)


def _line(content: bytes, where: str) -> Line:
    raw = _parse(content, where)
    product_id = raw.get("id")
    if not isinstance(product_id, (str, int)) or isinstance(product_id, bool) or product_id == "":
        raise CatalogInvalid(f'{where}: no `id`; add one, as in {{"id": "SKU-1"}}')
    return Line(content, where, str(product_id), raw)


def _item(line: Line, folder: Path) -> CatalogItem:
    raw, where = line.raw, line.where
    group = raw.get("item_group_id")
    return CatalogItem(
        id=line.id,
        fields=text_fields(raw),
        image_path=_picture(raw.get("image_link"), folder, where),
        additional_image_paths=tuple(
            _picture(link, folder, where) for link in _links(raw.get("additional_image_link"), where)
        ),
        item_group_id=None if group in (None, "") else str(group),
        raw=raw,
    )


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        raw = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise CatalogInvalid(f"{where}: not JSON ({error}); write one JSON object a line") from error
    if not isinstance(raw, dict):
        raise CatalogInvalid(f"{where}: a {type(raw).__name__}, not a product; write one JSON object a line")
    return cast("dict[str, Any]", raw)


def _links(value: object, where: str) -> list[object]:
    """Return the links of `additional_image_link`: a list, or one string of links separated by commas."""
    if value in (None, ""):
        return []
    if isinstance(value, str):
        return [link.strip() for link in value.split(",") if link.strip()]
    if isinstance(value, list):
        return cast("list[object]", value)
    raise CatalogInvalid(f"{where}: `additional_image_link` is not a list; write a list of paths in the folder")


def _picture(link: object, folder: Path, where: str) -> Path:
    """Return the path of a picture that stands in the folder, symbolic links followed."""
    if not isinstance(link, str) or not link:
        raise CatalogInvalid(f"{where}: no `image_link`; write the picture's path in the folder, as in images/1.jpg")
    relative = PurePosixPath(link)
    outside = relative.is_absolute() or ".." in relative.parts or "\\" in link or "\0" in link
    if outside or not (folder / relative).resolve().is_relative_to(folder.resolve()):
        raise CatalogInvalid(f"{where}: the picture {link!r} is outside the folder; copy it into images/ and link that")
    picture = folder / relative
    if not picture.is_file():
        raise CatalogInvalid(f"{where}: there is no picture {link!r} in the folder; add it or remove the line")
    return picture
