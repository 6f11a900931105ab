"""Erased products out of a folder that `streamer collect` has made: lines, refusals, pictures that nobody else shows.

The index forgets where their pictures came from first, while lines tell which those are. Of one that another product
shows, too, it cannot tell whose source is whose: the next collection brings it again. Lines go next, all at once, so
that the folder can be read at any moment; then what no line names any more. Whoever is killed in between leaves
pictures without a line, which the next purge finds. The folder's survey goes, too, since it shows products. Nothing is
removed from a folder that was made otherwise.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from engines.catalogs.collection import (
    COLLECTION_FILE,
    IMAGES_FOLDER,
    REFUSED_FILE,
    SURVEY_FOLDER,
    Collection,
    Refusal,
    read_collection,
    read_refusals,
)
from engines.catalogs.erased import digest
from engines.catalogs.folder import CATALOG_FILE, Line, read_lines
from streamer.errors import FatalError
from streamer.pictures import INDEX_FILE, open_index

if TYPE_CHECKING:
    from collections.abc import Collection as Digests
    from pathlib import Path

_PICTURE: Final = re.compile(r"[0-9a-f]{64}\.[a-z]+")  # as `streamer.pictures` names them


class Purged(NamedTuple):
    """What left a folder."""

    products: int
    pictures: int


class Standing(NamedTuple):
    """What a folder holds after a purge, by digests: other products, and erased ones that had to stay, and why.

    `said` is for people, "" where there is nothing to say.
    """

    products: frozenset[str]
    erased: frozenset[str]
    said: str


def purge_if_possible(folder: Path, erased: frozenset[str]) -> Standing:
    """Remove erased products from a catalogue folder where that can be done; return what stands there then.

    Raises:
        CatalogInvalid: the folder cannot be read.
    """
    purged, why = Purged(0, 0), "`streamer collect` has not made it"
    if erased and (folder / INDEX_FILE).exists():
        try:
            purged = purge(folder, erased)
        except FatalError as error:
            why = str(error)
    products = frozenset(line.digest for line in read_lines(folder))
    still = products & erased
    if still:
        said = f"left out: {len(still)} erased products stand in {folder} still: delete them there ({why})"
    elif any(purged):
        said = f"removed from {folder}: {purged.products} erased products, {purged.pictures} pictures without a line"
    else:
        said = ""
    return Standing(products - still, still, said)


def purge(folder: Path, erased: Digests[str]) -> Purged:
    """Remove erased products from a folder that was collected; it may be done again at any time.

    Args:
        folder: of the catalogue, which has an index of its pictures.
        erased: digests of products.

    Raises:
        FatalError: out_unusable, when it cannot be written, or is being collected into.
        CatalogInvalid: the folder cannot be read.
    """
    try:
        with closing(open_index(folder / INDEX_FILE)) as index:
            return _purge(folder, erased, index)
    except (OSError, sqlite3.Error) as error:
        raise FatalError("out_unusable", f"{folder}: {error}") from error


def _purge(folder: Path, erased: Digests[str], index: sqlite3.Connection) -> Purged:
    lines = list(read_lines(folder))
    kept = [line for line in lines if line.digest not in erased]
    refusals = list(read_refusals(folder))
    # Stripped, as the id of a line is: earlier versions wrote what the feed's cell said.
    told = [refusal for refusal in refusals if refusal.id is None or digest(refusal.id.strip()) not in erased]
    _forget_sources(index, {name for line in lines if line.digest in erased for name in line.picture_names()})
    if len(kept) < len(lines) or len(told) < len(refusals):
        shutil.rmtree(folder / SURVEY_FOLDER, ignore_errors=True)
        _write(folder / CATALOG_FILE, b"".join(line.content + b"\n" for line in kept))
        index.execute("DELETE FROM pictures WHERE file IS NULL")  # links that were refused; they are asked for again
        _write(folder / REFUSED_FILE, msgspec.json.Encoder().encode_lines(told))
    _count_anew(folder, kept, told)
    return Purged(len(lines) - len(kept), _drop_pictures(folder, kept, index))


def _count_anew(folder: Path, kept: list[Line], told: list[Refusal]) -> None:
    """Let `collection.json` say what it would if the feed had not had the others."""
    before = read_collection(folder)
    if before is None:
        return
    refused = sum(not refusal.product_kept for refusal in told)
    after = Collection(
        feed=before.feed,
        rows=len(kept) + refused,
        products=len(kept),
        refused=refused,
        links=sum(len(line.picture_names()) for line in kept),
        pictures_left_out=len(told) - refused,
    )
    if after != before:
        _write(folder / COLLECTION_FILE, msgspec.json.encode(after) + b"\n")


def _drop_pictures(folder: Path, kept: list[Line], index: sqlite3.Connection) -> int:
    """Remove pictures that no line shows; return how many there were."""
    shown = {name for line in kept for name in line.picture_names()}
    there = [path for path in (folder / IMAGES_FOLDER).iterdir() if _PICTURE.fullmatch(path.name)]
    orphans = [path for path in there if path.name not in shown]
    _forget_sources(index, {path.name for path in orphans})
    for path in orphans:
        path.unlink()
    return len(orphans)


def _forget_sources(index: sqlite3.Connection, pictures: set[str]) -> None:
    """Let the index forget what led to these files."""
    files = [(f"{IMAGES_FOLDER}/{name}",) for name in pictures]
    index.executemany("DELETE FROM pictures WHERE file = ?", files)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)
