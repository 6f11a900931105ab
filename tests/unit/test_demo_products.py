"""The demo's products, from both kinds of catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest
from PIL import Image

from engines.errors import CatalogInvalid
from streamer.demo.products import DemoProduct, Fact, difference, folder_catalogue, rendered_catalogue
from tests.unit.demo_records import product

if TYPE_CHECKING:
    from pathlib import Path


def _write_folder(folder: Path, rows: list[dict[str, str]]) -> Path:
    (folder / "images").mkdir()
    for row in rows:
        row["image_link"] = f"images/{row['id']}.jpg"
        Image.new("RGB", (8, 8), (200, 30, 30)).save(folder / row["image_link"])
    (folder / "catalog.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    return folder


ROWS = [
    {"id": "a1", "title": "Cap", "color": "Red", "item_group_id": "a", "product_type": "Caps"},
    {"id": "a2", "title": "Cap", "color": "Blue", "item_group_id": "a", "product_type": "Caps"},
    {"id": "b", "title": "Beanie", "color": "Blue", "product_type": "Caps"},
    {"id": "c", "title": "Mug", "product_type": "Mugs"},
]


def test_folder_catalogue_mix_ups_prefer_colours_then_types_then_anything(tmp_path: Path) -> None:
    """Another colour of the same item; else the same type; else any other product."""
    catalogue = folder_catalogue(_write_folder(tmp_path, ROWS), count=10, seed=1)
    siblings = {product.id: set(product.siblings) for product in catalogue.products}
    assert siblings == {"a1": {"a2"}, "a2": {"a1"}, "b": {"a1", "a2"}, "c": {"a1", "a2", "b"}}


def test_folder_catalogue_writes_photos_as_they_are(tmp_path: Path) -> None:
    """The image host serves the folder's own bytes."""
    folder, root = _write_folder(tmp_path, ROWS), tmp_path / "root"
    root.mkdir()
    catalogue = folder_catalogue(folder, count=10, seed=1)
    for item in catalogue.products:
        catalogue.write_picture(item, root)
        assert (root / item.picture).read_bytes() == (folder / f"images/{item.id}.jpg").read_bytes()


def test_folder_catalogue_takes_no_more_than_asked(tmp_path: Path) -> None:
    """A large folder is sampled."""
    assert len(folder_catalogue(_write_folder(tmp_path, ROWS), count=2, seed=1).products) == 2


def test_folder_catalogue_missing_folder_is_refused(tmp_path: Path) -> None:
    """The reader's own words reach the user."""
    with pytest.raises(CatalogInvalid):
        folder_catalogue(tmp_path / "none", count=2, seed=1)


def test_rendered_catalogue_siblings_differ_in_one_fact() -> None:
    """Each product has mix-ups, and each differs from it in exactly one visible fact."""
    catalogue = rendered_catalogue(count=24, seed=1)
    by_id = {product.id: product for product in catalogue.products}
    assert len(by_id) == 24
    for item in catalogue.products:
        assert item.siblings
        for other in (by_id[sibling] for sibling in item.siblings):
            assert sum(item.facts[name].value != other.facts[name].value for name in item.facts) == 1


def test_difference_between_variants_is_the_fact() -> None:
    """The colour is what a wrong variant's picture contradicts."""
    found = difference(product(1, "red", ()), product(1, "blue", ()))
    assert (found.attribute, found.says, found.shows, found.phrases) == ("color", "red", "blue", ("red",))


def test_difference_between_two_things_is_what_they_are() -> None:
    """Between unrelated products the title's own words are untrue, not some fact that happens to differ."""
    lamp = DemoProduct(
        id="lamp",
        fields={"title": "Desk lamp red"},
        facts={"color": Fact(value="green", phrases=("green",))},
        item_group_id=None,
        picture="lamp.jpg",
        siblings=(),
    )
    found = difference(product(1, "red", ()), lamp)
    assert found.attribute == "product"
    assert found.phrases == ("mug",)
