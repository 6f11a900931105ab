"""What was scored, kept for those who judge it later: pictures by their digest, and of each product what it said.

    EVIDENCE/images/<ab>/<sha256>/picture          the bytes as they were fetched
    EVIDENCE/images/<ab>/<sha256>/<product>        an empty mark: this product showed it
    EVIDENCE/products/<ab>/<product>/<item>.json   a ScoredItem
    EVIDENCE/products/<ab>/<product>/alert-<id>    the item that an alert is about

`<product>` is the SHA-256 of its id: ids never stand in names, and erasing a product is deleting its folder and the
pictures that no other product shows. Written by scorers, read and erased by the label worker, which also erases what
comes back (`streamer.sweeping`). Blocks: for threads.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
import structlog

from engines.catalogs.erased import digest
from streamer.blobs import Blobs
from streamer.errors import RejectedEvent
from streamer.reviews import ConfirmedLabel, ScoredItem, encode_item, item_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

log = structlog.get_logger(__name__)

SETTING = "STREAMER_EVIDENCE__STORE"

_PICTURE = "picture"
_SHOWN = "picture-"  # before the digest of a picture that a product shows


class EvidenceStore:
    """The evidence under one URL.

    Args:
        url: a folder, or a URL that fsspec knows.

    Raises:
        FatalError: settings_invalid.
    """

    def __init__(self, url: str) -> None:
        self._blobs = Blobs(url, setting=SETTING)

    def keep(self, item: ScoredItem, picture: bytes | None) -> ScoredItem:
        """Write the picture, then the item: an item that is there has its picture. Return what is kept of it.

        Of an item that is drawn for the audit once more, the greatest chance stays: draws are by a hash, so that is how
        likely it was to be drawn at all.

        Args:
            item: what was scored.
            picture: its bytes; None where the caller knows that they are kept already.

        Raises:
            TransientError: store_unavailable.
        """
        product = _product_folder(item.product_id)
        before = self._item(product, item.item_id) if item.sampled == "audit" else None
        if before is not None and before.sampling_probability >= item.sampling_probability:
            return before
        folder = _image_folder(item.image_sha256)
        # Both first: who erases must see that the picture is shown, and find it, whatever comes between.
        self._blobs.put(f"{product}/{_SHOWN}{item.image_sha256}", b"")
        self._blobs.put(f"{folder}/{digest(item.product_id)}", b"")
        if picture is not None and not self._blobs.exists(f"{folder}/{_PICTURE}"):
            self._blobs.put(f"{folder}/{_PICTURE}", picture)
        self._blobs.put(f"{product}/{item.item_id}.json", encode_item(item))
        return item

    def point(self, product_id: str, alert_id: str, item: str) -> None:
        """Remember which item an alert is about.

        Raises:
            TransientError: store_unavailable.
        """
        self._blobs.put(f"{_product_folder(product_id)}/alert-{alert_id}", item.encode("ascii"))

    def find(self, label: ConfirmedLabel) -> ScoredItem:
        """Return what the label is about.

        Raises:
            RejectedEvent: item_unknown.
            TransientError: store_unavailable.
        """
        item = self._by_digests(label) if label.names_digests else self._by_alert(label)
        if item is None:
            raise RejectedEvent(
                "item_unknown",
                "nothing is kept of what this label judges: it was never an alert or in the audit, it was erased, "
                "evidence was off, or what is there is damaged",
            )
        return item

    def _by_alert(self, label: ConfirmedLabel) -> ScoredItem | None:
        pointed = self._blobs.get(f"{_product_folder(label.product_id)}/alert-{label.alert_id}")
        return None if pointed is None else self._item(_product_folder(label.product_id), pointed.decode("ascii"))

    def _by_digests(self, label: ConfirmedLabel) -> ScoredItem | None:
        assert label.image_sha256 is not None
        assert label.text_sha256 is not None
        if label.release is not None:
            name = item_id(label.product_id, label.image_sha256, label.text_sha256, label.release)
            if (item := self._item(_product_folder(label.product_id), name)) is not None:
                return item  # else another release has decided than the one that scored
        judged = (label.image_sha256, label.text_sha256)
        found = [item for item in self.items(label.product_id) if (item.image_sha256, item.text_sha256) == judged]
        return max(found, key=lambda item: item.scored_at, default=None)

    def items(self, product_id: str) -> Iterator[ScoredItem]:
        """Yield all that is kept of a product.

        Raises:
            TransientError: store_unavailable.
        """
        folder = _product_folder(product_id)
        yield from self._items(folder, self._blobs.names(folder))

    def _items(self, folder: str, names: Collection[str]) -> Iterator[ScoredItem]:
        for name in names:
            stem, dot, _ = name.partition(".json")
            if dot and (item := self._item(folder, stem)) is not None:
                yield item

    def _item(self, folder: str, name: str) -> ScoredItem | None:
        content = self._blobs.get(f"{folder}/{name}.json")
        try:
            return None if content is None else msgspec.json.decode(content, type=ScoredItem)
        except msgspec.DecodeError as error:  # no outage, which passes: whoever asks goes on without it
            log.warning("evidence.damaged", item=name, message=str(error))
            return None

    def picture(self, sha256: str) -> bytes:
        """Return the bytes of a picture.

        Raises:
            RejectedEvent: item_unknown, when they are gone or are not those any more.
            TransientError: store_unavailable.
        """
        content = self._blobs.get(f"{_image_folder(sha256)}/{_PICTURE}")
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            raise RejectedEvent("item_unknown", f"the picture {sha256[:12]}… is not in the evidence store any more")
        return content

    def erase(self, product_id: str) -> int:
        """Remove all that is kept of a product, and pictures that no other one shows; return how many items it had.

        Raises:
            TransientError: store_unavailable; erase it once more.
        """
        return self.erase_digest(digest(product_id))

    def erase_digest(self, product: str) -> int:
        """Erase a product of which only the digest of its id is known, as `engines.catalogs.erased` makes it.

        Raises:
            TransientError: store_unavailable; erase it once more.
        """
        product_folder = _folder(product)
        names = self._blobs.names(product_folder)
        items = list(self._items(product_folder, names))
        shown = {name.removeprefix(_SHOWN) for name in names if name.startswith(_SHOWN)}
        for image in shown | {item.image_sha256 for item in items}:
            folder = _image_folder(image)
            self._blobs.delete(f"{folder}/{product}")
            if not [name for name in self._blobs.names(folder) if name != _PICTURE]:
                self._blobs.delete(folder)
        # Last, and the marks of pictures behind all others: until then, erasing again finds the pictures. Only what was
        # looked at: what a scorer has written since then is there to be found, too.
        for name in sorted(names, key=lambda name: name.startswith(_SHOWN)):
            self._blobs.delete(f"{product_folder}/{name}")
        if not self._blobs.names(product_folder):
            self._blobs.delete(product_folder)  # with what a scorer that was killed had half written
        return len(items)

    def kept(self, products: Collection[str]) -> set[str]:
        """Return those of which anything may be kept, by the digests of their ids.

        It takes one listing for the products whose digests begin alike, however many they are.

        Raises:
            TransientError: store_unavailable.
        """
        begun = {_begins(product) for product in products}
        return {name for two in begun for name in self._blobs.names(f"products/{two}")}.intersection(products)


def _product_folder(product_id: str) -> str:
    return _folder(digest(product_id))


def _folder(product: str) -> str:
    return f"products/{_begins(product)}/{product}"


def _begins(digits: str) -> str:
    return digits[:2]


def _image_folder(sha256: str) -> str:
    return f"images/{_begins(sha256)}/{sha256}"
