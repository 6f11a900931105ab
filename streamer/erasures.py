"""The list of erased products: an empty mark for each beside the label data set, named by the SHA-256 of its id.

    DATASET/erased/<sha256 of the id>

Written by the label worker before it erases anything, so that whoever looks later knows: a product stands on the list
until `streamer labels restore` takes it off. Meanwhile nothing that is said of it is recorded, `streamer collect` and
`adapt` leave it out, and no retraining learns from it. Blocks: for threads.
"""

from __future__ import annotations

from typing import Final

from engines.catalogs.erased import digest
from streamer.blobs import Blobs

SETTING: Final = "STREAMER_LABELS__DATASET"
FOLDER: Final = "erased"


class Erasures:
    """The list beside one data set.

    Args:
        url: of the data set: a folder, or a URL that fsspec knows.

    Raises:
        FatalError: settings_invalid.
    """

    def __init__(self, url: str) -> None:
        self._blobs = Blobs(url, setting=SETTING)

    def add(self, product_id: str) -> None:
        """Put a product on the list; nothing changes where it stands there.

        Raises:
            TransientError: store_unavailable; add it once more.
        """
        self._blobs.put(_mark(product_id), b"")

    def remove(self, product_id: str) -> bool:
        """Take a product off the list; return whether it stood there.

        Raises:
            TransientError: store_unavailable; remove it once more.
        """
        stood = product_id in self
        self._blobs.delete(_mark(product_id))
        return stood

    def __contains__(self, product_id: str) -> bool:
        """Whether a product stands on the list.

        Raises:
            TransientError: store_unavailable.
        """
        return self._blobs.get(_mark(product_id)) is not None

    def all(self) -> frozenset[str]:
        """Return the digests of all products on the list.

        Raises:
            TransientError: store_unavailable.
        """
        return frozenset(self._blobs.names(FOLDER))


def _mark(product_id: str) -> str:
    return f"{FOLDER}/{digest(product_id)}"
