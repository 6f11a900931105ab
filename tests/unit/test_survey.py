"""The survey: its figures are right, its page is whole, and hostile text stays text."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
import pytest
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from engines.catalogs.collection import Collection, Refusal
from engines.catalogs.survey import take_survey, write_survey
from engines.catalogs.survey.counts import distribution, shared
from engines.catalogs.survey.figures import Survey
from engines.catalogs.survey.notes import notes
from engines.catalogs.survey.page import swatch
from engines.catalogs.survey.products import Products
from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = '<img src=x onerror=alert(1)> $\\frac{1}{0}$ & "Mug"'


def picture(color: str, size: tuple[int, int] = (40, 30)) -> bytes:
    """Return a picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(folder: Path, rows: list[dict[str, Any]], pictures: dict[str, bytes]) -> Path:
    """Write a catalogue folder."""
    folder.mkdir(parents=True)
    (folder / "catalog.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    return folder


def mug(number: int, image: str, **more: object) -> dict[str, Any]:
    """Return a product with a title of its own."""
    return {"id": str(number), "title": f"Mug {number}", "image_link": image} | more


def quiet() -> Progress:
    """Return a progress bar that nobody sees."""
    return Progress(console=Console(file=io.StringIO()))


def survey_of(folder: Path) -> Survey:
    """Return the figures."""
    return take_survey(folder, progress=quiet())


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Five products: two share a picture in two colours, two a title, two a group; one stands alone."""
    rows = [
        mug(0, "a.png", color="Red", product_type="Mugs"),
        mug(1, "copy-of-a.png", color="Navy Blue", product_type="Mugs", additional_image_link=["b.png"]),
        mug(2, "b.png", color="Red", item_group_id="g", description="It holds tea. " * 20),
        mug(3, "c.png", item_group_id="g", title="MUG 4", price="3 EUR"),
        mug(4, "d.png", title="mug 4", stock=3),
        mug(5, "e.png", title=HOSTILE, brand="<script>alert(2)</script>"),
    ]
    red = picture("red")
    pictures = {"a.png": red, "copy-of-a.png": red, "b.png": picture("blue", (50, 90))}
    pictures |= {f"{name}.png": picture(color) for name, color in (("c", "lime"), ("d", "black"), ("e", "white"))}
    return write_folder(tmp_path / "shop", rows, pictures)


def test_survey_duplicates_are_counted_by_content_title_and_group(shop: Path) -> None:
    """The same bytes under two names are one picture; five products hang together through all three."""
    survey = survey_of(shop)
    assert (survey.products, survey.pictures) == (6, 5)
    assert (survey.same_picture.values, survey.same_picture.products) == (2, 3)
    assert (survey.same_title.values, survey.same_title.products) == (1, 2)
    assert (survey.groups.values, survey.groups.products) == (1, 2)
    assert survey.connected.largest[0].shown == (0, 1, 2, 3, 4)
    assert survey.components == 2
    assert survey.color_conflicts.largest[0].shown == (0, 1)


def test_survey_columns_count_what_is_missing(shop: Path) -> None:
    """Named columns are listed even where nobody fills them, others as they come."""
    columns = {column.name: column for column in survey_of(shop).columns}
    assert (columns["color"].filled, columns["color"].missing, columns["color"].distinct) == (3, 3, 2)
    assert columns["color"].most_common == ("Red", 2)
    assert columns["material"].missing == 6
    assert (columns["stock"].filled, columns["price"].filled, columns["additional_image_link"].filled) == (1, 1, 1)


def test_survey_distributions_say_what_is_usual(shop: Path) -> None:
    """Lengths are of those that have one; a picture's shorter side is counted once for each content."""
    survey = survey_of(shop)
    assert survey.description_chars is not None
    assert survey.description_chars.count == 1
    assert survey.pictures_per_product is not None
    assert (survey.pictures_per_product.minimum, survey.pictures_per_product.maximum) == (1, 2)
    assert survey.shorter_side_px is not None
    assert survey.shorter_side_px.counts[0] == 4
    assert survey.sizes[0] == ("40x30", 4)


def test_survey_refusals_are_told_by_reason_with_examples(shop: Path) -> None:
    """What collecting left out stands on the page: how many for which reason, and some of them."""
    summary = Collection(feed="feed.csv", rows=8, products=6, refused=2, links=7, pictures_left_out=1)
    refusals = [
        Refusal(line=7, id="x", title=HOSTILE, reason="image_not_found", message="no such <file>"),
        Refusal(line=8, id=None, title=None, reason="malformed_json", message="not JSON"),
        Refusal(line=2, id="1", title="Mug", reason="image_not_found", message="gone", product_kept=True),
    ]
    (shop / "collection.json").write_bytes(msgspec.json.encode(summary))
    (shop / "refused.jsonl").write_bytes(b"".join(msgspec.json.encode(refusal) + b"\n" for refusal in refusals))
    first, second = survey_of(shop).reasons
    assert (first.code, first.products, first.pictures, len(first.examples)) == ("image_not_found", 1, 1, 2)
    assert (second.code, second.products) == ("malformed_json", 1)
    page = write_survey(shop, shop / "survey", progress=quiet()).read_text()
    assert "6 products of feed.csv" in page
    assert "2 of 8 rows (25.0%) were refused" in page
    assert "no such &lt;file&gt;" in page


def test_survey_page_needs_nothing_from_outside_and_escapes_text(shop: Path, tmp_path: Path) -> None:
    """Pictures and charts are inside; a title cannot become markup, nor mathematics in a chart."""
    page = write_survey(shop, tmp_path / "survey", progress=quiet()).read_text()
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,|#)', page.replace("xlink:href", ""))
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert page.count("<svg") >= 2
    for heading in ("Fields", "Refused", "Categories", "Colours", "Item groups", "One title, several products"):
        assert heading in page
    assert "background:#000080" in page


def test_survey_figures_file_holds_the_same_numbers(shop: Path, tmp_path: Path) -> None:
    """A program reads what the page shows."""
    write_survey(shop, tmp_path / "survey", progress=quiet())
    assert msgspec.json.decode((tmp_path / "survey/survey.json").read_bytes(), type=Survey) == survey_of(shop)


def test_survey_sample_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    """Two people who look at the same catalogue see the same products."""
    folder = write_folder(tmp_path / "shop", [mug(n, "a.png") for n in range(200)], {"a.png": picture("red")})
    first, second = (take_survey(folder, progress=quiet(), seed=seed).sample for seed in (1, 2))
    assert first == take_survey(folder, progress=quiet(), seed=1).sample != second


def test_survey_picture_that_cannot_be_read_is_counted_and_shown_as_such(tmp_path: Path) -> None:
    """A folder that nobody has checked still has its page."""
    folder = write_folder(tmp_path / "shop", [mug(1, "a.png")], {"a.png": b"nothing"})
    assert survey_of(folder).pictures_unreadable == 1
    assert "unreadable" in write_survey(folder, tmp_path / "survey", progress=quiet()).read_text()


def test_survey_folder_without_products_is_refused(tmp_path: Path) -> None:
    """There is nothing to show."""
    with pytest.raises(CatalogInvalid):
        survey_of(write_folder(tmp_path / "shop", [], {}))


def test_survey_html_in_texts_is_counted(tmp_path: Path) -> None:
    """An engine would read tags and entities as words; a plain `&` or `<` is none."""
    titles = ["Tea &trade;", "<b>Tea</b>", "Salt & Pepper", "3 < 5"]
    rows = [mug(n, "a.png", title=title) for n, title in enumerate(titles)]
    assert survey_of(write_folder(tmp_path / "shop", rows, {"a.png": picture("red")})).html_texts == 2


def test_survey_notes_begin_with_what_should_be_done(shop: Path) -> None:
    """A small catalogue and contradicting colours come before what is merely worth knowing."""
    found = notes(survey_of(shop))
    assert [note.tone for note in found] == sorted((note.tone for note in found), key=lambda tone: tone != "bad")
    assert any("Only 6 products" in note.text for note in found)
    assert any("name different colours" in note.text for note in found)


def test_products_are_read_again_by_position(shop: Path) -> None:
    """A product is its line, wherever that stands."""
    products = Products(shop)
    assert [products[index].id for index in (5, 0, 3)] == ["5", "0", "3"]


def test_distribution_last_bin_takes_the_tail() -> None:
    """One product with a million characters does not flatten the others."""
    found = distribution([*range(1000), 10**6])
    assert found is not None
    assert found.maximum == 10**6
    assert found.edges[-1] < 1100
    assert sum(found.counts) == found.count == 1001


def test_shared_counts_values_owners_and_largest() -> None:
    """Two values are shared, by three owners in all."""
    found = shared([0, 0, 1, 2, 2, 3], [7, 8, 7, 8, 7, 9])
    assert (found.values, found.products) == (2, 3)
    assert found.largest[0].products == 3
    assert found.largest[0].shown == (0, 1, 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Navy Blue", "#000080"), ("light-blue", "#add8e6"), ("red;}", None), ("#ff0000", None), ("Steel", None)],
)
def test_swatch_shows_only_colours_that_have_a_name(name: str, expected: str | None) -> None:
    """What is not a colour's name never reaches the page's style."""
    assert swatch(name) == expected
