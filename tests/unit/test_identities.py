"""What shows the same is never a mismatch: sizes of one item, and copies of one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
from PIL import Image
from rich.progress import Progress

from engines.build import grades
from engines.build.dataset import Catalog, Product
from engines.build.evaluate import MATCH
from engines.build.listing import files_of, list_folder
from engines.build.mining import Miner
from engines.build.traits import traits
from engines.catalogs.survey import take_survey

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TEE = {"item_group_id": "tee", "color": "Red"}
COLORS = ("red", "blue", "", "red", "green", "red")
LOOKS = np.array([[1.0, 0, 0], [1, 0.01, 0], [1, 0, 0.01], [1, 0.01, 0.01], [0, 1, 0], [0, 0, 1]])


def identities(folder: Path, *rows: dict[str, str]) -> list[int]:
    """Return the identities of products whose pictures all differ."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4), (0, 0, 255)).save(folder / "images/chart.png")
    for number in range(len(rows)):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"images/{number}.png")
    lines = [{"id": str(n), "image_link": f"images/{n}.png", **row} for n, row in enumerate(rows)]
    (folder / "catalog.jsonl").write_bytes(b"\n".join(orjson.dumps(line) for line in lines))
    with Progress(disable=True) as progress:
        return list(list_folder(folder, progress).identities)


def catalog(colors: tuple[str, ...] = COLORS, category: str = "tees", brand: str = "") -> Catalog:
    """Return products of these colors; the first four of the default ones show copies of one picture."""
    products = tuple(
        Product({"title": f"tee {i}", "brand": brand}, (color,), i, str(i), category) for i, color in enumerate(colors)
    )
    return Catalog(products, ("color",), np.zeros((len(colors), 3, 1, 1), np.uint8), np.arange(len(colors)))


def shown(data: Catalog, looks: NDArray[np.float64]) -> dict[str, dict[int, int]]:
    """Return for each grade whose picture stands beside whose text."""
    pairs = grades.graded_pairs(data, looks, seed=0)
    found: dict[str, dict[int, int]] = {}
    for grade, text, picture in zip(pairs.difference, pairs.product, pairs.picture, strict=True):
        found.setdefault(str(grade), {})[int(text)] = int(picture)
    return found


def test_rows_that_differ_in_size_only_are_one_identity(tmp_path: Path) -> None:
    """A merchant's feed has a row for each size, with a title and a picture of its own."""
    found = identities(
        tmp_path,
        {**TEE, "title": "Tee - S", "size": "S"},
        {**TEE, "title": "Tee - M", "size": "M", "color": "RED"},
        {**TEE, "title": "Tee, striped - M", "pattern": "striped"},
        {**TEE, "title": "Tee, blue - M", "color": "Blue"},
        {**TEE, "title": "Tee, hers - M", "gender": "female"},
    )
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_size_chart_beside_every_photo_connects_nobody(tmp_path: Path) -> None:
    """What stands beside anything is no picture of a product: it is not trained on, and no key of a split."""
    chart = {"additional_image_link": ["images/chart.png"]}
    rows = [{"title": f"Tee {n}", "color": "red"} | chart for n in range(30)]
    few = identities(tmp_path / "few", *rows[:4])
    assert len(set(few)) == 1, "four may well be one"
    assert len(set(identities(tmp_path / "many", *rows))) == 30
    with Progress(disable=True) as progress:
        listing = list_folder(tmp_path / "many", progress)
        survey = take_survey(tmp_path / "many", progress=progress)
    assert len(set(listing.components)) == survey.components == 30
    assert {files_of(item) for item in listing.items} == {(item.image_path,) for item in listing.items}
    assert {len(own) for own in listing.digests} == {1}


def test_rows_of_a_group_whose_looks_nobody_tells_stay_apart(tmp_path: Path) -> None:
    """Without a color, a pattern or a material, titles may name what differs."""
    mugs = [{"item_group_id": "mug", "title": f"Mug {name}"} for name in ("red", "blue")]
    assert len(set(identities(tmp_path, *mugs))) == 2


@pytest.mark.parametrize(("kind", "partners"), [("random", {1, 4, 5}), ("category", {1, 4, 5}), ("nearest", {1, 4, 5})])
def test_miner_draws_no_copy_of_a_picture_unless_its_color_contradicts(kind: str, partners: set[int]) -> None:
    """Of four copies the blue one is another product; one without a color, or of the same, may be right."""
    miner = Miner(catalog(), LOOKS, seed=0)
    miner.look(np.random.default_rng(0).normal(size=LOOKS.shape))  # a model that has learned sees them apart
    assert set(miner.partners(np.zeros(99, np.int64), {kind: 1.0}).tolist()) == partners
    assert miner.same(np.array([0])).tolist() == [[True, False, True, True, False, False]]


def test_graded_pairs_show_no_copy_of_a_picture_unless_its_color_contradicts() -> None:
    """The nearest look of all would be a copy."""
    found = shown(catalog(), LOOKS)
    for grade in found.keys() - {MATCH}:
        assert found[grade][0] in {1, 4, 5}
    assert found[grades.NEAREST][0] == 1


def test_colors_that_share_a_word_are_no_other_color() -> None:
    """`Navy Blue` is no wrong color of something blue; red is."""
    every = np.arange(4)
    known = traits(catalog(("blue", "navy blue", "multicolor", "red")))
    assert known.contradicts(every)[0].tolist() == [False, False, False, True]
    assert (known.contradicts(every) == known.contradicts(every).T).all()
    assert not known.contradicts(every)[2].any()


@pytest.mark.parametrize(
    ("category", "brand", "missing"),
    [("", "Anvil", {grades.MEDIUM, grades.BRAND, grades.HARD, grades.HARD_RULE}), ("tees", "", {grades.BRAND})],
)
def test_grades_that_a_catalogue_cannot_have_are_absent(category: str, brand: str, missing: set[str]) -> None:
    """Without categories a wrong picture of the same category is just any, which is the easy grade."""
    found = shown(catalog(category=category, brand=brand), np.eye(6))
    assert grades.MEANINGS.keys() - found.keys() == missing | {grades.VARIANT}


def test_miner_without_category_brand_color_and_group_draws_from_all() -> None:
    """What a catalogue lacks takes nothing away from the mix: its share goes to what there is."""
    miner = Miner(catalog(("",) * 6, category=""), np.eye(6), seed=0)
    for kind in Miner.kinds:
        assert set(miner.partners(np.zeros(99, np.int64), {kind: 1.0}).tolist()) == {1, 2, 3, 4, 5}


def test_miner_finds_a_partner_where_nearly_all_show_the_same() -> None:
    """A placeholder stands for most of a catalogue; what is left is still there to be exchanged."""
    looks = np.concatenate([np.ones((400, 2)), [[1.0, -1.0]]])
    drawn = Miner(catalog(("red",) * 401), looks, seed=0).partners(np.arange(5), {"random": 1.0})
    assert set(drawn.tolist()) == {400}


def test_miner_of_brands_draws_the_same_category_and_brand() -> None:
    """An Anvil tee beside an Anvil tee, not beside an Anvil mug or a tee of nobody."""
    wanted = (("tees", "Anvil"), ("tees", "anvil"), ("mugs", "Anvil"), ("tees", ""), ("tees", "Bolt"))
    products = tuple(
        Product({"brand": brand}, ("",), i, str(i), category) for i, (category, brand) in enumerate(wanted)
    )
    data = Catalog(products, ("color",), np.zeros((5, 3, 1, 1), np.uint8), np.arange(5))
    miner = Miner(data, np.eye(5), seed=0)
    assert set(miner.partners(np.zeros(50, np.int64), {"brand": 1.0}).tolist()) == {1}
    assert set(miner.partners(np.full(50, 3), {"brand": 1.0}).tolist()) == {0, 1, 4}  # of its category, instead


@pytest.mark.parametrize(
    ("colors", "by_text"),
    [(("",) * 40, set(range(28, 40))), (("red",) * 39 + ("blue",), {39})],
    ids=["no color", "colors"],
)
def test_miner_finds_neighbours_of_pictures_and_of_texts(colors: tuple[str, ...], by_text: set[int]) -> None:
    """Whose picture fits the text is a hard partner, too, unless it is of the same kind and color: it may be right."""
    miner = Miner(catalog(colors), np.eye(40), seed=0)
    angle = np.arange(40) * 0.01
    pictures = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    miner.look(pictures, pictures[::-1])
    assert set(miner.partners(np.zeros(400, np.int64), {"nearest": 1.0}).tolist()) == {*range(1, 13), *by_text}
