"""`streamer.evidence`: what was scored is found again as it was, or is gone for good."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from streamer.errors import FatalError, RejectedEvent, TransientError
from streamer.evidence import EvidenceStore
from tests.review import IMAGE_SHA256, ITEM, LABEL, PICTURE, item, label

ALERT = "a" * 32


@pytest.fixture
def store(store_url: str) -> EvidenceStore:
    """Give an empty store of each kind."""
    return EvidenceStore(store_url)


def test_item_is_found_by_digests_and_by_its_alert(store: EvidenceStore) -> None:
    """With all that was known of it, and the bytes of its picture."""
    store.keep(ITEM, PICTURE)
    store.point(ITEM.product_id, ALERT, ITEM.item_id)
    by_alert = msgspec.structs.replace(LABEL, alert_id=ALERT, image_sha256=None, text_sha256=None, release=None)
    for one in (LABEL, msgspec.structs.replace(LABEL, release=None), by_alert):
        assert store.find(one) == ITEM
    assert store.picture(IMAGE_SHA256) == PICTURE


def test_item_of_two_releases_is_the_later_one_where_a_label_does_not_say(store: EvidenceStore) -> None:
    """The one that people saw last."""
    later = item(release="fusion-ffffffffffff", scored_at=ITEM.scored_at + timedelta(days=1))
    store.keep(ITEM, PICTURE)
    store.keep(later, None)
    assert store.find(LABEL) == ITEM
    assert store.find(msgspec.structs.replace(LABEL, release=None)) == later


@pytest.mark.parametrize("chances", [(0.1, 0.4, 0.2), (0.4, 0.1, 0.4), (0.4, 0.4)])
def test_item_drawn_more_than_once_keeps_its_greatest_chance(store: EvidenceStore, chances: tuple[float, ...]) -> None:
    """How likely it was to be drawn at all: with the chance of the last draw, figures would be biased."""
    for chance in chances:
        kept = store.keep(item(sampled="audit", sampling_probability=chance), PICTURE)
    assert kept.sampling_probability == 0.4
    assert store.find(LABEL) == kept


def test_item_that_alerts_replaces_what_the_audit_kept_of_it(store: EvidenceStore) -> None:
    """Its category has another threshold now; what alerts is kept for sure, also when it alerts no more."""
    audited = item(sampled="audit", sampling_probability=0.1)
    store.keep(audited, PICTURE)
    assert store.keep(ITEM, None) == ITEM
    assert store.keep(audited, PICTURE) == ITEM


@pytest.mark.parametrize(
    "changes",
    [
        {"product_id": "other"},
        {"image_sha256": "0" * 64},
        {"alert_id": "b" * 32, "image_sha256": None},
    ],
)
def test_label_of_what_was_never_kept_is_rejected(store: EvidenceStore, changes: dict[str, str | None]) -> None:
    """Each way to name an item may name none."""
    store.keep(ITEM, PICTURE)
    with pytest.raises(RejectedEvent) as caught:
        store.find(msgspec.structs.replace(LABEL, **changes))
    assert caught.value.code == "item_unknown"


def test_erased_product_leaves_nothing_but_pictures_that_others_show(store: EvidenceStore) -> None:
    """Its own are gone, a shared one stays until the other product is erased, too."""
    own = item(picture=b"another picture")
    other = item("mug-red")
    store.keep(ITEM, PICTURE)
    store.keep(own, b"another picture")
    store.keep(other, PICTURE)
    store.point(ITEM.product_id, ALERT, ITEM.item_id)
    assert store.erase(ITEM.product_id) == 2
    assert list(store.items(ITEM.product_id)) == []
    with pytest.raises(RejectedEvent):
        store.picture(own.image_sha256)
    assert store.picture(IMAGE_SHA256) == PICTURE
    assert store.find(label(other)) == other
    assert store.erase("mug-red") == 1
    assert store.erase("mug-red") == 0
    assert store._blobs.names("images/" + IMAGE_SHA256[:2]) == []


def test_picture_whose_item_was_never_written_is_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is killed between the picture and the item: who erases the product finds the picture all the same."""
    store = EvidenceStore(str(tmp_path))
    put = store._blobs.put

    def killed_before_the_item(name: str, content: bytes) -> None:
        if name.endswith(".json"):
            raise KeyboardInterrupt
        put(name, content)

    monkeypatch.setattr(store._blobs, "put", killed_before_the_item)
    with pytest.raises(KeyboardInterrupt):
        store.keep(ITEM, PICTURE)
    assert PICTURE in [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    store.erase(ITEM.product_id)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_item_that_is_kept_while_its_product_is_erased_is_found_by_the_next_erasure(
    store: EvidenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes behind the erasure's look at what there is: it stands there whole, and its picture with it."""
    names, late = store._blobs.names, item(picture=b"another picture")
    store.keep(ITEM, PICTURE)

    def meanwhile(folder: str) -> list[str]:
        found = names(folder)
        if folder.startswith("products/"):
            monkeypatch.setattr(store._blobs, "names", names)
            store.keep(late, b"another picture")
        return found

    monkeypatch.setattr(store._blobs, "names", meanwhile)
    assert store.erase(ITEM.product_id) == 1
    assert list(store.items(ITEM.product_id)) == [late]
    assert store.erase(ITEM.product_id) == 1
    assert store._blobs.names(f"images/{late.image_sha256[:2]}") == []


def test_folder_that_is_erased_while_it_is_written_into_is_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write whose folder goes under it is tried again, and is no end of the scorer."""
    with monkeypatch.context() as gone:
        gone.setattr(Path, "mkdir", lambda *_, **__: None)
        with pytest.raises(TransientError) as caught:
            EvidenceStore(str(tmp_path)).keep(ITEM, PICTURE)
    assert caught.value.code == "store_unavailable"


def test_picture_that_is_not_what_it_was_is_unknown(tmp_path: Path) -> None:
    """Nobody trains on bytes that were not scored."""
    store = EvidenceStore(str(tmp_path))
    store.keep(ITEM, PICTURE)
    (tmp_path / "images" / IMAGE_SHA256[:2] / IMAGE_SHA256 / "picture").write_bytes(b"other")
    with pytest.raises(RejectedEvent) as caught:
        store.picture(IMAGE_SHA256)
    assert caught.value.code == "item_unknown"


@pytest.mark.parametrize("content", [b"", b"{", b'{"item_id": "a"}', b"\xff"])
def test_item_that_is_damaged_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    """Its label is rejected with a reason, and its product can still be erased; nobody asks again for ever."""
    store = EvidenceStore(str(tmp_path))
    store.keep(ITEM, PICTURE)
    next((tmp_path / "products").rglob("*.json")).write_bytes(content)
    with pytest.raises(RejectedEvent) as caught:
        store.find(LABEL)
    assert caught.value.code == "item_unknown"
    assert store.erase(ITEM.product_id) == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_store_that_cannot_be_written_is_for_later(tmp_path: Path) -> None:
    """It raises what is tried again; a URL that nothing knows is the settings' fault."""
    (tmp_path / "images").write_bytes(b"in the way")
    with pytest.raises(TransientError) as caught:
        EvidenceStore(str(tmp_path)).keep(ITEM, PICTURE)
    assert caught.value.code == "store_unavailable"
    with pytest.raises(FatalError):
        EvidenceStore("nosuch://bucket")


def test_names_in_the_store_do_not_tell_the_product(tmp_path: Path) -> None:
    """Ids may be of people; a listing of names shows none."""
    EvidenceStore(str(tmp_path)).keep(ITEM, PICTURE)
    assert not [path for path in tmp_path.rglob("*") if ITEM.product_id in path.name]
