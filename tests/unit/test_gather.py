"""`engines.build.gather` and `engines.build.listing`: from a folder to parts whose pictures are where they belong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
from PIL import Image
from rich.progress import Progress

from engines.build.gather import decode_pictures, gather_listed, gather_parts
from engines.build.listing import list_folder
from engines.contract import ImageSpec
from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPEC = ImageSpec(height=8, width=8)


@pytest.fixture(name="progress")
def silent() -> Iterator[Progress]:
    """Return progress that nobody sees."""
    with Progress(disable=True) as progress:
        yield progress


def folder(path: Path, products: int) -> Path:
    """Return a folder whose product i has a picture of gray i, and the even ones a second, of gray 255 - i."""
    (path / "images").mkdir(parents=True)
    lines = []
    for i in range(products):
        shown = {f"images/{i}.png": i} | ({f"images/{i}b.png": 255 - i} if i % 2 == 0 else {})
        for name, gray in shown.items():
            Image.new("RGB", (20 + i, 10), (gray, gray, gray)).save(path / name)
        main, *others = shown
        lines.append({"id": str(i), "title": f"mug {i}", "image_link": main, "additional_image_link": others})
    (path / "catalog.jsonl").write_bytes(b"\n".join(orjson.dumps(line) for line in lines))
    return path


def test_gather_keeps_pictures_with_their_products(tmp_path: Path, progress: Progress) -> None:
    """Some products of a listing: their own pictures only, the main one first, with the size that they came in."""
    listing = list_folder(folder(tmp_path / "shop", 6), progress).subset([4, 1])
    catalog = gather_listed(listing, image=SPEC, progress=progress, most_pictures=3)
    assert [product.id for product in catalog.products] == ["4", "1"]
    assert catalog.pixel_values[:, 0, 4, 4].tolist() == [4, 251, 1]
    assert catalog.picture_owner.tolist() == [0, 0, 1]
    assert [product.shorter_side_px for product in catalog.products] == [10, 10]


def test_pictures_stand_in_a_file_that_leaves_nothing_behind(
    tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of a large catalogue need not fit into memory, and nobody has to remove them."""
    shop = folder(tmp_path / "shop", 4)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    pictures = decode_pictures([shop / f"images/{i}.png" for i in (3, 0)], image=SPEC, progress=progress)
    assert isinstance(pictures.pixels, np.memmap)
    assert pictures.pixels[:, 0, 4, 4].tolist() == [3, 0]
    assert not list((tmp_path / "temporary").iterdir())


def test_parts_are_limited_and_share_nothing(tmp_path: Path, progress: Progress) -> None:
    """Of a large catalogue so many products are trained on; the parts that measure stay whole."""
    parts = gather_parts(
        folder(tmp_path / "shop", 250), image=SPEC, seed=0, progress=progress, shares=(0.6, 0.2, 0.2), most=60
    )
    assert [len(part.products) for part in parts] == [60, 50, 50]
    ids = [product.id for part in parts for product in part.products]
    assert len(set(ids)) == len(ids)


def test_parts_of_a_small_catalogue_are_refused_before_a_picture_is_decoded(tmp_path: Path, progress: Progress) -> None:
    """The message says how many products each part would have, how many are needed, and how many are connected."""
    shop = folder(tmp_path / "shop", 60)
    (shop / "images" / "7.png").write_bytes(b"no picture")
    with pytest.raises(CatalogInvalid, match="splits into") as caught:
        gather_parts(shop, image=SPEC, seed=0, progress=progress)
    for part in ("[42, 9, 9]", "334 products are enough", "152 at --shares", "0 of 60 products share"):
        assert part in str(caught.value)


def test_picture_that_cannot_be_decoded_is_named(tmp_path: Path, progress: Progress) -> None:
    """Whoever reads the message finds the file."""
    shop = folder(tmp_path / "shop", 2)
    (shop / "images" / "1.png").write_bytes(b"no picture")
    with pytest.raises(CatalogInvalid, match=r"images/1\.png"):
        gather_listed(list_folder(shop, progress), image=SPEC, progress=progress)


def test_parts_have_three_pictures_of_what_is_trained_on_and_one_of_what_is_judged(
    tmp_path: Path, progress: Progress
) -> None:
    """Features of further pictures would fill the disk, and no figure is taken on them."""
    (tmp_path / "images").mkdir()
    lines = []
    for i in range(200):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"images/{i}.png")
        own = f"images/{i}.png"
        lines.append({"id": str(i), "title": f"mug {i}", "image_link": own, "additional_image_link": [own] * 4})
    (tmp_path / "catalog.jsonl").write_bytes(b"\n".join(orjson.dumps(line) for line in lines))
    parts = gather_parts(tmp_path, image=SPEC, seed=0, progress=progress, shares=(0.4, 0.3, 0.3))
    pictures = [np.bincount(part.picture_owner) for part in parts]
    assert [set(each.tolist()) for each in pictures] == [{3}, {1}, {1}]
    assert parts[2].pixel_values[:, 0, 4, 4].tolist() == [int(product.id) for product in parts[2].products]
