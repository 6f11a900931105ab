"""Products that have been erased, known by the SHA-256 of their ids: which of a catalogue's are left out.

A list of digests tells of a product only to who knows its id. As a file it has one a line.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NOTHING: frozenset[str] = frozenset()


def digest(product_id: str) -> str:
    """Return what an erased product is called: 64 hex digits."""
    return hashlib.sha256(product_id.encode()).hexdigest()


def read(path: Path) -> frozenset[str]:
    """Return the digests that a file lists.

    Raises:
        CatalogInvalid: it cannot be read.
    """
    try:
        return frozenset(path.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogInvalid(f"cannot read {path}: {error}; it lists erased products, a SHA-256 a line") from error


def write(path: Path, digests: Iterable[str]) -> None:
    """Write the digests into a file, which is there whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    partial = path.with_suffix(".partial")
    partial.write_text("".join(f"{one}\n" for one in sorted(digests)), encoding="ascii")
    partial.replace(path)
