"""`streamer.purge`: erased products leave a folder that was collected, whatever cuts it short, and others do not."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import orjson
import pytest
from PIL import Image

from engines.catalogs.collection import REFUSED_FILE, read_collection, read_refusals
from engines.catalogs.erased import digest
from engines.catalogs.folder import CATALOG_FILE, read_folder
from streamer import purge as purging
from streamer.collect import CollectOptions, collect
from streamer.errors import FatalError
from streamer.pictures import INDEX_FILE, open_index
from streamer.purge import Purged, purge, purge_if_possible
from streamer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.catalogs import Collected
    from streamer.feeds import Feed

ERASED = frozenset({digest("2"), digest("4"), digest("elsewhere")})


class Nobody:
    """A watch that looks away."""

    def collected(self, feed: Feed, done: Collected, *, finished: bool = False) -> None:
        """Nothing to show."""


def picture(shade: int) -> bytes:
    """Return a small picture of one shade."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A collected folder of four products; the second shares a picture with the first, and has one of its own.

    The third lacks its second picture, the fourth its only one, and stands among the refusals; a survey shows them all.
    """
    feed = tmp_path / "feed"
    feed.mkdir()
    for shade in (1, 2, 3):
        (feed / f"{shade}.png").write_bytes(picture(shade))
    pictures = {1: ["1.png"], 2: ["1.png", "2.png"], 3: ["3.png", "gone.png"], 4: ["none.png"]}
    rows = [
        {"id": number, "title": f"Mug {number}", "image_link": first, "additional_image_link": more}
        for number, (first, *more) in pictures.items()
    ]
    (feed / "feed.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    out = tmp_path / "shop"
    await collect(CollectOptions(feed=feed / "feed.jsonl", out=out), Settings(), Nobody())
    (out / "survey").mkdir()
    (out / "survey" / "index.html").write_text("Mug 2")
    return out


def standing(folder: Path) -> dict[str, str]:
    """Return every file of a folder but the index and what it writes beside it, as text."""
    return {
        str(path.relative_to(folder)): path.read_bytes().decode("latin-1")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(INDEX_FILE)
    }


def index_of(folder: Path) -> bytes:
    """Return the bytes of the index and of what it writes beside it."""
    return b"".join(path.read_bytes() for path in folder.glob(f"{INDEX_FILE}*"))


def test_purge_removes_lines_refusals_and_pictures_of_nobody_else(folder: Path) -> None:
    """The picture that another product shows stays, and the folder counts as if the feed had not had the others."""
    assert purge(folder, ERASED) == Purged(products=1, pictures=1)
    items = read_folder(folder)
    assert [item.id for item in items] == ["1", "3"]
    assert [item.image_path.read_bytes() for item in items] == [picture(1), picture(3)]
    assert len(list((folder / "images").iterdir())) == 2
    assert [(refusal.id, refusal.product_kept) for refusal in read_refusals(folder)] == [("3", True)]
    counted = read_collection(folder)
    assert counted is not None
    assert (counted.rows, counted.products, counted.refused, counted.links, counted.pictures_left_out) == (
        2,
        2,
        0,
        2,
        1,
    )
    left = standing(folder)
    assert not [name for name, content in left.items() if "Mug 2" in content or "Mug 4" in content]
    assert "survey/index.html" not in left
    index = index_of(folder)
    assert (b"/2.png" in index, b"none.png" in index) == (False, False)


def test_purge_that_has_nothing_to_remove_changes_nothing(folder: Path) -> None:
    """Its survey stays, too."""
    before = standing(folder)
    assert purge(folder, frozenset({digest("elsewhere")})) == Purged(0, 0)
    assert standing(folder) == before
    assert purge_if_possible(folder, frozenset()).said == ""


@pytest.mark.parametrize(
    ("step", "call"), [("_write", 1), ("_write", 2), ("_count_anew", 1), ("_write", 3), ("_drop_pictures", 1)]
)
def test_purge_that_is_cut_leaves_a_folder_that_the_next_one_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    """Before any of its steps: every product that has a line has its pictures, and the end is the same."""
    calls, real = 0, getattr(purging, step)

    def cut(*given: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patched:
        patched.setattr(purging, step, cut)
        with pytest.raises(KeyboardInterrupt):
            purge(folder, ERASED)
    assert {"1", "3"} <= {item.id for item in read_folder(folder)}
    purge(folder, ERASED)
    left = standing(folder)
    assert [item.id for item in read_folder(folder)] == ["1", "3"]
    assert sum(name.startswith("images/") for name in left) == 2
    counted = read_collection(folder)
    assert counted is not None
    assert (counted.rows, counted.products) == (2, 2)
    assert not [name for name, content in left.items() if "Mug 2" in content or "Mug 4" in content]


async def test_purged_folder_is_collected_into_again(folder: Path, tmp_path: Path) -> None:
    """The product comes back when it is on no list. What is brought: its own picture, and the one that it shared."""
    purge(folder, ERASED)
    done = await collect(CollectOptions(feed=tmp_path / "feed" / "feed.jsonl", out=folder), Settings(), Nobody())
    assert (done.products, done.brought) == (3, 2)
    assert [item.id for item in read_folder(folder)] == ["1", "2", "3"]


@pytest.mark.parametrize("cut", [False, True], ids=["at once", "after it was cut"])
async def test_purge_forgets_what_a_shared_picture_was_called(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, cut: bool
) -> None:
    """The same picture under a name of the product's own: the file stays, and the name does not."""
    feed = tmp_path / "feed"
    (feed / "anna.png").write_bytes(picture(1))
    rows = [{"id": 1, "title": "Mug 1", "image_link": "1.png"}, {"id": 2, "title": "Mug 2", "image_link": "anna.png"}]
    (feed / "feed.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    await collect(CollectOptions(feed=feed / "feed.jsonl", out=folder), Settings(), Nobody())
    if cut:
        with monkeypatch.context() as patched:
            patched.setattr(purging, "_drop_pictures", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                purge(folder, ERASED)
    purge(folder, ERASED)
    assert [item.image_path.read_bytes() for item in read_folder(folder)] == [picture(1)]
    assert b"anna.png" not in index_of(folder)


@pytest.mark.parametrize(("name", "title"), [("id", "title"), ("g:ID", "g:Title")])
async def test_purge_finds_refusals_however_the_feed_writes_their_ids(tmp_path: Path, name: str, title: str) -> None:
    """A refusal's id is what a product's would be: without spaces around it, of a column of any spelling."""
    feed = tmp_path / "feed.jsonl"
    (tmp_path / "1.png").write_bytes(picture(1))
    rows = [{name: f" {n} ", title: f"Mug {n}", "image_link": f"{n}.png"} for n in (1, 2, 3)]
    feed.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    out = tmp_path / "shop"
    await collect(CollectOptions(feed=feed, out=out), Settings(), Nobody())
    assert [refusal.id for refusal in read_refusals(out)] == ["2", "3"]
    purge(out, ERASED)
    assert [(refusal.id, refusal.title) for refusal in read_refusals(out)] == [("3", "Mug 3")]


def test_purge_finds_refusals_of_earlier_versions(folder: Path) -> None:
    """They wrote ids with the spaces of the feed."""
    refused = folder / REFUSED_FILE
    refused.write_bytes(refused.read_bytes().replace(b'"id":"4"', b'"id":" 4 "'))
    purge(folder, ERASED)
    assert [refusal.id for refusal in read_refusals(folder)] == ["3"]


def test_folder_that_is_being_collected_into_is_told_and_left(folder: Path) -> None:
    """Nobody writes beside the run that does; what stands there is told apart."""
    before = standing(folder)
    index = open_index(folder / INDEX_FILE)
    try:
        with pytest.raises(FatalError, match="is another run collecting"):
            purge(folder, ERASED)
        found = purge_if_possible(folder, ERASED)
    finally:
        index.close()
    assert standing(folder) == before
    assert (found.products, found.erased) == ({digest("1"), digest("3")}, {digest("2")})
    assert found.said.startswith(f"left out: 1 erased products stand in {folder} still: delete them there (")


def test_folder_that_was_made_otherwise_is_told_and_left(folder: Path) -> None:
    """Its owner deletes what is in it."""
    for path in folder.glob(f"{INDEX_FILE}*"):
        path.unlink()
    before = standing(folder)
    found = purge_if_possible(folder, ERASED)
    assert standing(folder) == before
    assert found.erased == {digest("2")}
    assert "`streamer collect` has not made it" in found.said
    assert not (folder / INDEX_FILE).exists()


def test_purge_of_every_product_leaves_an_empty_catalogue(folder: Path) -> None:
    """Nothing of it stands, and nothing fails on the way."""
    everything = frozenset(map(digest, "1234"))
    assert purge(folder, everything) == Purged(products=3, pictures=3)
    assert (folder / CATALOG_FILE).read_bytes() == b""
    assert purge_if_possible(folder, everything).products == frozenset()
