"""The products of a catalogue folder by position: whoever wants to show one reads its line again.

What stays in memory of each is where its line begins, so that hundreds of thousands of them take a few MB.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from engines.catalogs.folder import CATALOG_FILE, CatalogItem, read_item
from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Products:
    """The products of a folder by position, read from its file whenever they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Find where each product's line begins.

        Raises:
            CatalogInvalid: there is no readable `catalog.jsonl`, or it holds no products.
        """
        self.folder = folder
        self._file = folder / CATALOG_FILE
        self._starts = array("Q")
        position = 0
        for line in self._lines():
            if line.strip():
                self._starts.append(position)
            position += len(line)
        if not self._starts:
            raise CatalogInvalid(f"{self._file} holds no products; write one JSON object a line")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> CatalogItem:
        with self._file.open("rb") as file:
            file.seek(self._starts[index])
            return self._item(index, file.readline())

    def __iter__(self) -> Iterator[CatalogItem]:
        for index, line in enumerate(line for line in self._lines() if line.strip()):
            yield self._item(index, line)

    def _lines(self) -> Iterator[bytes]:
        try:
            with self._file.open("rb") as file:
                yield from file
        except OSError as error:
            raise CatalogInvalid(f"cannot read {self._file}: {error.strerror}") from error

    def _item(self, index: int, line: bytes) -> CatalogItem:
        return read_item(line, self.folder, f"{self._file}, product {index + 1}")
