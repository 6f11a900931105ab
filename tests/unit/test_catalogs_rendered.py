"""The rendered catalogue: seeded, honest in its text, visible in its pictures."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from rich.progress import Progress

from engines.catalogs.folder import read_folder
from engines.catalogs.rendered import (
    RenderedProduct,
    differing_attribute,
    draw,
    jpeg,
    render_catalog,
    siblings,
    write_folder,
)
from engines.catalogs.rendered.attributes import (
    AXES,
    COLORS,
    COUNTS,
    KINDS,
    MATERIALS,
    NEW_KINDS,
    NEW_PATTERNS,
    PATTERNS,
)
from engines.catalogs.rendered.wording import words_for
from engines.fields import NAMED_FIELDS

if TYPE_CHECKING:
    from pathlib import Path

VALUES = {"color": COLORS, "pattern": PATTERNS, "material": tuple(MATERIALS), "count": COUNTS}


@pytest.fixture(scope="module")
def catalog() -> list[RenderedProduct]:
    """Return a catalogue large enough to hold every kind, colour, pattern and material."""
    return render_catalog(1200, seed=5)


def says(text: str, attribute: str, value: str) -> bool:
    """Return whether the text names the value of the attribute by one of its words."""
    words = "|".join(re.escape(word) for word in words_for(attribute, value))
    return re.search(rf"(?<![\w-])({words})(?![\w-])", text, re.IGNORECASE) is not None


def test_catalog_of_one_seed_is_always_the_same(catalog: list[RenderedProduct]) -> None:
    """Products and texts are a function of count and seed."""
    assert render_catalog(1200, seed=5) == catalog


def test_catalog_of_another_seed_shares_nothing(catalog: list[RenderedProduct]) -> None:
    """A test catalogue holds no product, group or photo of the training catalogue."""
    other = render_catalog(1200, seed=6)

    assert {p.id for p in catalog}.isdisjoint(p.id for p in other)
    assert {p.item_group_id for p in catalog}.isdisjoint(p.item_group_id for p in other)
    assert {p.image_seed for p in catalog}.isdisjoint(p.image_seed for p in other)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 23])
def test_catalog_has_the_count_asked_for_and_no_lonely_variant(count: int) -> None:
    """Every product has a sibling, but where only one product was asked for."""
    products = render_catalog(count, seed=1)

    assert len({p.id for p in products}) == count
    assert all(siblings(products).values()) == (count > 1)


def test_catalog_of_no_products_is_refused() -> None:
    """A count below one is the caller's mistake."""
    with pytest.raises(ValueError, match="count is 0"):
        render_catalog(0, seed=1)


def test_groups_hold_two_to_five_variants_along_one_axis(catalog: list[RenderedProduct]) -> None:
    """Every two variants of a group differ in the same one attribute, which is never the kind."""
    groups: dict[str, list[RenderedProduct]] = {}
    for product in catalog:
        groups.setdefault(product.item_group_id, []).append(product)

    for group in groups.values():
        axes = {differing_attribute(a, b) for a, b in combinations(group, 2)}
        assert 2 <= len(group) <= 5
        assert len(axes) == 1
        assert axes <= set(AXES)


def test_siblings_are_the_other_variants_of_the_group(catalog: list[RenderedProduct]) -> None:
    """A swap with any sibling contradicts exactly one attribute."""
    by_id = {p.id: p for p in catalog}

    for product_id, others in siblings(catalog).items():
        assert others
        for other in others:
            assert by_id[other].item_group_id == by_id[product_id].item_group_id
            assert differing_attribute(by_id[product_id], by_id[other]) in AXES


def test_differing_attribute_of_the_same_product_is_refused(catalog: list[RenderedProduct]) -> None:
    """Two products that do not differ in exactly one attribute have no such attribute."""
    with pytest.raises(ValueError, match="differ in nothing"):
        differing_attribute(catalog[0], catalog[0])


def test_catalog_holds_every_kind_and_value(catalog: list[RenderedProduct]) -> None:
    """Nothing that is drawn or worded is out of reach."""
    assert {p.kind for p in catalog} == set(KINDS)
    for attribute, values in VALUES.items():
        assert {p.attributes[attribute] for p in catalog} == set(values)


def test_new_kinds_come_only_where_they_are_asked_for(catalog: list[RenderedProduct]) -> None:
    """They are sold in patterns of their own, along the axes that are asked for, and said and drawn like all others."""
    new = render_catalog(60, seed=5, kinds=tuple(NEW_KINDS), axis_odds=(0.0, 1.0, 0.0, 0.0))
    assert {p.kind for p in new} == set(NEW_KINDS)
    assert {p.attributes["pattern"] for p in new} == set(NEW_PATTERNS)
    assert {p.kind for p in catalog}.isdisjoint(NEW_KINDS)
    by_id = {p.id: p for p in new}
    for product in new:
        text = " / ".join(product.fields.values())
        assert all(says(text, name, value) for name, value in product.attributes.items())
        assert not any(
            says(text, "pattern", p) for p in (*PATTERNS, *NEW_PATTERNS) if p != product.attributes["pattern"]
        )
        other = by_id[siblings(new)[product.id][0]]
        assert differing_attribute(product, other) == "pattern"
        pictures = (np.asarray(draw(p, 96, image_seed=9), dtype=np.float64) for p in (product, other))
        assert (np.abs(np.subtract(*pictures)).max(axis=2) > 24).mean() > 0.005


def test_text_names_every_attribute(catalog: list[RenderedProduct]) -> None:
    """Whatever a picture may contradict stands in the text."""
    for product in catalog:
        text = " / ".join(product.fields.values())
        for attribute, value in product.attributes.items():
            assert says(text, attribute, value), (attribute, value, text)


def test_text_names_no_other_value(catalog: list[RenderedProduct]) -> None:
    """No filler, brand or category says a colour, pattern, material or count that the product does not have."""
    for product in catalog:
        text = " / ".join(product.fields.values())
        for attribute, values in VALUES.items():
            wrong = [v for v in values if v != product.attributes[attribute] and says(text, attribute, v)]
            assert not wrong, (attribute, wrong, text)


def test_text_fields_stand_in_the_scorers_order(catalog: list[RenderedProduct]) -> None:
    """Fields are named and ordered as everywhere else, and never empty."""
    for product in catalog:
        assert list(product.fields) == [name for name in NAMED_FIELDS if name in product.fields]
        assert all(product.fields.values())


def test_catalog_and_photos_are_the_same_in_another_process() -> None:
    """Neither depends on the process's hash seed: what is trained here can be tested elsewhere."""
    code = (
        "import hashlib; from engines.catalogs.rendered import draw, render_catalog;"
        "products = render_catalog(200, 5); photos = b''.join(draw(p, 96).tobytes() for p in products[:6]);"
        "print(hashlib.sha256(repr(products).encode() + photos).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True
        ).stdout
        for seed in ("1", "2")
    }

    assert len(digests) == 1


def test_photo_of_every_kind_and_material_has_the_size_asked_for(catalog: list[RenderedProduct]) -> None:
    """Each kind can be drawn in each of its materials, at any size."""
    for kind, facts in KINDS.items():
        for material in facts.materials:
            product = replace(
                catalog[0], kind=kind, attributes={**catalog[0].attributes, "kind": kind, "material": material}
            )
            photo = draw(product, 64)
            assert (photo.size, photo.mode) == ((64, 64), "RGB")


def test_photo_of_another_seed_is_another_photo_of_the_same_thing(catalog: list[RenderedProduct]) -> None:
    """`image_seed` changes the picture; the product's own seed is the default."""
    product = catalog[0]

    assert draw(product, 96) == draw(product, 96)
    assert draw(product, 96) == draw(product, 96, image_seed=product.image_seed)
    assert draw(product, 96) != draw(product, 96, image_seed=product.image_seed + 1)


@pytest.mark.parametrize("axis", AXES)
def test_photos_that_differ_in_one_attribute_differ_visibly(catalog: list[RenderedProduct], axis: str) -> None:
    """With backdrop, light and place held still, a one-attribute swap changes the picture by more than noise."""
    by_id = {p.id: p for p in catalog}
    pairs = [(by_id[i], by_id[others[0]]) for i, others in siblings(catalog).items()]
    along = [(a, b) for a, b in pairs if differing_attribute(a, b) == axis][:40]

    for a, b in along:
        pictures = (np.asarray(draw(p, 128, image_seed=9), dtype=np.float64) for p in (a, b))
        changed = np.abs(np.subtract(*pictures)).max(axis=2) > 24
        assert changed.mean() > 0.005, (a.attributes, b.attributes)


def test_jpeg_is_a_picture_of_the_size_asked_for(catalog: list[RenderedProduct]) -> None:
    """The file that an image host would serve."""
    photo = Image.open(io.BytesIO(jpeg(catalog[0], 160)))

    assert (photo.format, photo.size) == ("JPEG", (160, 160))


def test_written_folder_reads_back_as_the_same_products(catalog: list[RenderedProduct], tmp_path: Path) -> None:
    """A rendered catalogue can be used wherever a folder of real photos can."""
    with Progress(disable=True) as progress:
        write_folder(catalog[:8], tmp_path / "shop", 64, progress=progress)

    items = read_folder(tmp_path / "shop")

    assert [(i.id, i.fields, i.item_group_id) for i in items] == [
        (p.id, p.fields, p.item_group_id) for p in catalog[:8]
    ]
    assert items[0].image_path.read_bytes() == jpeg(catalog[0], 64)
