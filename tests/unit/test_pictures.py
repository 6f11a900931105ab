"""The picture store: what it keeps it has checked, and its failures are told apart from the pictures'."""

from __future__ import annotations

import hashlib
import io
import shutil
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from streamer.errors import FatalError, RejectedEvent
from streamer.pictures import INDEX_FILE, PARTIAL_FOLDER, PictureStore

if TYPE_CHECKING:
    from pathlib import Path


def picture(form: str = "JPEG", size: tuple[int, int] = (20, 10)) -> bytes:
    """Return a picture in a format."""
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, form)
    return buffer.getvalue()


def store(folder: Path) -> PictureStore:
    """Open a store with small limits."""
    return PictureStore(folder, max_pixels=1000, max_bytes=5000, threads=1)


@pytest.mark.parametrize(
    ("form", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("GIF", ".gif"), ("AVIF", ".avif")]
)
async def test_store_names_a_picture_by_its_content_and_format(tmp_path: Path, form: str, suffix: str) -> None:
    """The suffix is what the bytes say, whatever the link said."""
    body = picture(form)
    with store(tmp_path) as pictures:
        file = await pictures.add("https://cdn.example/picture.bin", body)
    assert file == f"images/{hashlib.sha256(body).hexdigest()}{suffix}"
    assert (tmp_path / file).read_bytes() == body


async def test_store_remembers_across_runs(tmp_path: Path) -> None:
    """What was kept or refused in one run is known in the next, and nothing half-written is left."""
    with store(tmp_path) as pictures:
        file = await pictures.add("a", picture())
        pictures.refuse("b", RejectedEvent("image_not_found", "gone"))
    (tmp_path / PARTIAL_FOLDER).mkdir()
    (tmp_path / PARTIAL_FOLDER / "half").write_bytes(b"half")
    with store(tmp_path) as pictures:
        assert list((tmp_path / PARTIAL_FOLDER).iterdir()) == []
        assert pictures.known("a") == file
        assert pictures.known("c") is None
        with pytest.raises(RejectedEvent, match="gone"):
            pictures.known("b")


async def test_store_keeps_a_local_picture_that_is_written_over(tmp_path: Path) -> None:
    """What is named by its content keeps it, whatever becomes of the file that it came from."""
    source = tmp_path / "1.jpg"
    source.write_bytes(picture())
    with store(tmp_path / "out") as pictures:
        file = await pictures.add_file("1", source)
    source.write_bytes(picture(size=(9, 9)))
    assert (tmp_path / "out" / file).read_bytes() == picture()


async def test_store_refuses_what_is_too_large(tmp_path: Path) -> None:
    """In bytes before it is read whole, in pixels before it is decoded."""
    (tmp_path / "a.jpg").write_bytes(picture() + bytes(5000))
    with store(tmp_path / "out") as pictures:
        with pytest.raises(RejectedEvent) as caught:
            await pictures.add_file("a", tmp_path / "a.jpg")
        assert caught.value.code == "image_too_large_bytes"
        with pytest.raises(RejectedEvent) as caught:
            await pictures.add("b", picture(size=(100, 100)))
        assert caught.value.code == "image_too_large"
        with pytest.raises(RejectedEvent) as caught:
            await pictures.add_file("c", tmp_path)
        assert caught.value.code == "image_unreadable"


async def test_store_that_cannot_write_stops_the_run(tmp_path: Path) -> None:
    """A full disk is no fault of the picture: it must not be recorded as one."""
    with store(tmp_path) as pictures:
        shutil.rmtree(tmp_path / PARTIAL_FOLDER)
        with pytest.raises(FatalError) as caught:
            await pictures.add("a", picture())
        assert caught.value.code == "out_unusable"
        assert pictures.known("a") is None


def test_store_index_that_is_damaged_says_what_to_do(tmp_path: Path) -> None:
    """Deleting it costs time, not pictures."""
    (tmp_path / INDEX_FILE).write_bytes(b"no database" * 100)
    with pytest.raises(FatalError, match="delete it, and pictures are brought again"):
        store(tmp_path)


def test_store_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file stands where the folder should."""
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(FatalError, match="give --out another folder"):
        store(tmp_path / "out")
