"""Reading a catalogue folder: what is kept, and how a wrong line is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from engines.catalogs import erased
from engines.catalogs.folder import read_folder
from engines.errors import CatalogInvalid
from engines.fields import NAMED_FIELDS, text_fields
from streamer.updates import ProductUpdate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a catalogue folder with two pictures and no catalogue yet."""
    shop = tmp_path / "shop"
    (shop / "images").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):
        (shop / "images" / name).write_bytes(b"jpeg")
    return shop


def write(folder: Path, *lines: dict[str, Any] | bytes) -> None:
    """Write the lines as the folder's catalogue."""
    rows = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
    (folder / "catalog.jsonl").write_bytes(b"\n".join(rows) + b"\n")


def test_folder_line_of_a_product_keeps_text_pictures_and_group(folder: Path) -> None:
    """Text columns become fields in the scorer's order; identifiers, links and price do not."""
    row = {
        "id": "A",
        "climate": "Cool",
        "color": " Blue ",
        "title": "Mug",
        "material": "",
        "price": "5",
        "item_group_id": "G",
        "image_link": "images/1.jpg",
        "additional_image_link": ["images/2.jpg"],
        "sizes": ["S", "M"],
        "weight": 3,
        "new": True,
    }
    write(folder, row, b"")

    [item] = read_folder(folder)

    assert list(item.fields.items()) == [
        ("title", "Mug"),
        ("color", "Blue"),
        ("climate", "Cool"),
        ("sizes", "S, M"),
        ("weight", "3"),
    ]
    assert item.image_path == folder / "images" / "1.jpg"
    assert item.additional_image_paths == (folder / "images" / "2.jpg",)
    assert item.item_group_id == "G"
    assert item.raw == row


def test_text_fields_of_a_catalogue_match_those_of_the_event() -> None:
    """The model is trained on the same fields in the same order as the stream scores."""
    named = {name: name.upper() for name in reversed(NAMED_FIELDS)}

    update = ProductUpdate(id="A", attributes={"climate": "Cool"}, **named)  # type: ignore[arg-type]

    assert list(update.text_fields().items()) == list(text_fields({**named, "climate": "Cool"}).items())


def test_folder_without_catalogue_is_refused(tmp_path: Path) -> None:
    """The message names the file that is missing."""
    with pytest.raises(CatalogInvalid, match=r"catalog\.jsonl"):
        read_folder(tmp_path)


def test_folder_with_an_empty_catalogue_is_refused(folder: Path) -> None:
    """A catalogue of blank lines is a mistake, not an empty shop."""
    write(folder, b"", b"  ")

    with pytest.raises(CatalogInvalid, match="no products"):
        read_folder(folder)


GOOD = {"id": "A", "title": "Mug", "image_link": "images/1.jpg"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"id": "B", ', "not JSON"),
        (b"[1]", "a list, not a product"),
        ({"title": "Mug", "image_link": "images/1.jpg"}, "no `id`"),
        ({"id": "B", "title": "Mug"}, "no `image_link`"),
        ({**GOOD, "id": "B", "image_link": "images/3.jpg"}, "there is no picture"),
        ({**GOOD, "id": "B", "additional_image_link": 7}, "is not a list"),
        (GOOD, "was used above"),
    ],
)
def test_folder_with_a_wrong_line_names_the_line(folder: Path, line: dict[str, Any] | bytes, words: str) -> None:
    """Whoever reads the message finds the line and learns what is wrong with it."""
    write(folder, GOOD, line)

    with pytest.raises(CatalogInvalid, match=f"line 2: .*{words}"):
        read_folder(folder)


@pytest.mark.parametrize("link", ["../secret.jpg", "/etc/hostname", "images/../../secret.jpg", "..\\secret.jpg"])
def test_folder_picture_outside_the_folder_is_refused(folder: Path, link: str) -> None:
    """A catalogue from someone else cannot read the files around it."""
    (folder.parent / "secret.jpg").write_bytes(b"secret")
    write(folder, {**GOOD, "image_link": link})

    with pytest.raises(CatalogInvalid, match="outside the folder"):
        read_folder(folder)


def test_folder_picture_that_links_outside_is_refused(folder: Path) -> None:
    """A symbolic link is followed before it is trusted."""
    (folder.parent / "secret.jpg").write_bytes(b"secret")
    (folder / "images" / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    write(folder, {**GOOD, "image_link": "images/link.jpg"})

    with pytest.raises(CatalogInvalid, match="outside the folder"):
        read_folder(folder)


def test_folder_is_read_without_erased_products(folder: Path) -> None:
    """As if they did not stand there: their pictures may be gone already; an id that is a number is its digits."""
    write(folder, {"id": 1, "title": "Mug", "image_link": "images/gone.jpg"}, {"id": "2", "image_link": "images/2.jpg"})
    gone = frozenset({erased.digest("1")})
    assert [item.id for item in read_folder(folder, without=gone)] == ["2"]
    with pytest.raises(CatalogInvalid, match="holds no products"):
        read_folder(folder, without=gone | {erased.digest("2")})
