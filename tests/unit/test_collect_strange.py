"""Feeds that nobody here has seen: a whole Merchant row, other names, ids twice, and ends that say what to do."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from PIL import Image
from rich.console import Console

from engines.build.recipe import TEXT_FIELDS
from engines.catalogs.collection import COLLECTION_FILE, read_refusals
from engines.catalogs.folder import read_folder
from engines.contract import TextSpec
from engines.text import compose
from streamer.adapt import collect_folder
from streamer.cli import main
from streamer.collect import CollectOptions
from streamer.columns import Columns
from streamer.errors import FatalError
from streamer.settings import LabelSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from streamer.catalogs import Collected

MERCHANT = {
    "g:id": "TEA-7",
    "g:title": "Blue stoneware teapot &amp; lid",
    "g:description": "<p>Holds <b>two</b> cups.</p><ul><li>Dishwasher safe</li></ul>",
    "g:link": "https://shop.example/p/tea-7?ref=feed",
    "g:mobile_link": "https://m.shop.example/p/tea-7",
    "g:image_link": "pot.jpg",
    "g:additional_image_link": "",
    "g:availability": "in_stock",
    "g:availability_date": "2026-11-30T00:00+0100",
    "g:price": "39.00 EUR",
    "g:sale_price": "29.00 EUR",
    "g:sale_price_effective_date": "2026-11-01T00:00+0100/2026-11-30T23:59+0100",
    "g:google_product_category": "2169",
    "g:product_type": "Home > Kitchen > Teapots",
    "g:brand": "Druvex",
    "g:gtin": "4006381333931",
    "g:mpn": "DX-7741",
    "g:identifier_exists": "yes",
    "g:condition": "new",
    "g:age_group": "adult",
    "g:color": "Blue",
    "g:material": "Stoneware",
    "g:item_group_id": "TEA",
    "g:shipping": "DE::Standard:4.90 EUR",
    "g:shipping_weight": "1.2 kg",
    "g:tax": "US:CA:9.25:y",
    "g:custom_label_0": "margin-high",
    "g:ads_redirect": "https://ads.example/tea-7",
    "g:product_highlight": "Fits two cups",
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with one picture."""
    folder = tmp_path / "shop"
    folder.mkdir()
    Image.new("RGB", (20, 10), "blue").save(folder / "pot.jpg")
    return folder


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write a feed of JSON lines."""
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def collected(feed: Path, out: Path, *columns: str) -> tuple[Collected, str]:
    """Collect as the command does; return how it went, and what was shown."""
    shown = io.StringIO()
    options = CollectOptions(feed=feed, out=out, columns=Columns.of(columns))
    settings = Settings(labels=LabelSettings(dataset=str(out.parent / "labels")))
    return collect_folder(options, settings, Console(file=shown, width=300), asyncio.run), shown.getvalue()


def texts(folder: Path) -> list[str]:
    """Return what an engine reads of each product."""
    return [compose(item.fields, TextSpec(max_tokens=64, fields=TEXT_FIELDS)) for item in read_folder(folder)]


@pytest.mark.parametrize(("name", "delimiter"), [("feed.tsv", "\t"), ("feed.csv", ","), ("feed.csv", ";")])
def test_collect_merchant_row_says_what_a_picture_shows(shop: Path, tmp_path: Path, name: str, delimiter: str) -> None:
    """Of 29 columns with `g:` names, the text is what describes: title, what can be seen, then the description."""
    with (shop / name).open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([MERCHANT.keys(), MERCHANT.values()])
    collected(shop / name, tmp_path / "out")
    (text,) = texts(tmp_path / "out")
    assert text.split("\n") == [
        "title: Blue stoneware teapot & lid",
        "color: Blue",
        "material: Stoneware",
        "product_type: Home > Kitchen > Teapots",
        "age_group: adult",
        "product_highlight: Fits two cups",
        "description: Holds two cups. Dishwasher safe",
        "brand: Druvex",
    ]
    (item,) = read_folder(tmp_path / "out")
    assert (item.item_group_id, item.raw["price"], item.raw["gtin"]) == ("TEA", "39.00 EUR", "4006381333931")


def test_collect_feed_of_other_names_is_understood(shop: Path, tmp_path: Path) -> None:
    """As a shop's export has them, with what its owner says of the rest."""
    row = {"SKU": 7, "Name": "Teapot", "Colour": "Blue", "category": ["Home", "Teapots"], "images": ["pot.jpg"],
           "look": "Round", "version": "2.1", "updated_at": "yesterday"}  # fmt: skip
    done, _ = collected(write(shop / "feed.jsonl", [row]), tmp_path / "out", "pattern=look")
    assert (done.products, done.advice) == (1, "")
    assert texts(tmp_path / "out") == [
        "title: Teapot\ncolor: Blue\npattern: Round\nproduct_type: Home > Teapots"
    ]  # fmt: skip


def test_collect_last_row_of_an_id_counts(shop: Path, tmp_path: Path) -> None:
    """As it does when the feed is published: an engine would learn what is not said any more."""
    rows = [
        {"id": n, "title": title, "image_link": "pot.jpg"} for n, title in ((1, "Old"), (2, "Other"), ("1 ", "New"))
    ]
    done, _ = collected(write(shop / "feed.jsonl", rows), tmp_path / "out")
    assert [(item.id, item.fields["title"]) for item in read_folder(tmp_path / "out")] == [("2", "Other"), ("1", "New")]
    assert (done.products, done.refused) == (2, 1)
    (refusal,) = read_refusals(tmp_path / "out")
    assert (refusal.line, refusal.reason) == (1, "id_duplicate")
    assert "row 3" in refusal.message


def test_collect_file_that_holds_a_feed_twice_is_not_hopeless(shop: Path, tmp_path: Path) -> None:
    """Its first half is replaced row by row, and nothing is wrong with it."""
    rows = [{"id": n, "title": title, "image_link": "pot.jpg"} for title in ("Old", "New") for n in range(150)]
    done, _ = collected(write(shop / "feed.jsonl", rows), tmp_path / "out")
    assert (done.products, done.reasons, done.advice) == (150, {"id_duplicate": 150}, "")


def test_collect_product_that_a_later_row_deletes_is_left_out(shop: Path, tmp_path: Path) -> None:
    """The last row says that it is gone."""
    rows = [{"id": n, "title": "Pot", "image_link": "pot.jpg"} for n in (1, 2)]
    collected(write(shop / "feed.jsonl", [*rows, {"id": 1, "deleted": True}]), tmp_path / "out")
    assert [item.id for item in read_folder(tmp_path / "out")] == ["2"]


def test_collect_feed_without_pictures_says_which_columns_it_has(shop: Path, tmp_path: Path) -> None:
    """The first refusal in its own words, what was taken for what, the option to give, and where the rest stands."""
    feed = write(shop / "feed.jsonl", ({"sku": n, "name": "Pot", "Bild": "pot.jpg"} for n in range(300)))
    with pytest.raises(FatalError) as caught:
        collected(feed, tmp_path / "out")
    said = str(caught.value)
    assert (
        "image_missing (100). Line 1: the row has no `image_link`. Its columns: sku (read as id), name (read as "
        in said
    )
    assert "None of them is read as image_link: say which one is, as in --column image_link=COLUMN." in said
    assert f"{tmp_path / 'out' / 'refused.jsonl'}." in said
    assert len(list(read_refusals(tmp_path / "out"))) >= 100
    assert not (tmp_path / "out" / COLLECTION_FILE).exists()
    assert collected(feed, tmp_path / "out", "image_link=Bild")[0].products == 300


def test_collect_feed_that_is_mostly_refused_says_why(shop: Path, tmp_path: Path) -> None:
    """One good row among bad ones is no success."""
    rows = [{"id": n, "title": "Pot", "image_link": "pot.jpg" if n == 0 else f"{n}.jpg"} for n in range(5)]
    done, shown = collected(write(shop / "feed.jsonl", rows), tmp_path / "out")
    assert (
        "image_not_found (4). Line 2: there is no such file (1.jpg). Its columns: id, title, image_link." in done.advice
    )
    assert f"most rows were refused: {done.advice}" in shown


def test_commands_take_what_a_feed_calls_its_columns(shop: Path, tmp_path: Path) -> None:
    """`--column` reaches the reader of each, and a misspelt field ends before anything is read."""
    feed = write(shop / "feed.jsonl", [{"Nr": 1, "name": "Pot", "Bild": "https://h.example/pot.jpg"}])
    given = ["--column", "id=Nr", "--column", "image_link=Bild"]
    with pytest.raises(SystemExit) as checked:
        main(["publish", str(feed), "--dry-run", *given])
    write(feed, [{"Nr": 1, "name": "Pot", "Bild": "pot.jpg"}])
    with pytest.raises(SystemExit) as brought:
        main(["collect", str(feed), "--out", str(tmp_path / "out"), "--no-survey", *given])
    with pytest.raises(SystemExit) as misspelt:
        main(["adapt", str(feed), "--out", str(tmp_path / "release"), "--family", "compact", "--column", "titel=name"])
    assert (checked.value.code, brought.value.code, misspelt.value.code) == (0, 0, 2)
    assert [item.id for item in read_folder(tmp_path / "out")] == ["1"]
    assert not (tmp_path / "release.work").exists()
