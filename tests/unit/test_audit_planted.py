"""`benchmarks/audit_planted.py`: exchanges that leave the split alone, and a list compared with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import audit_planted
import msgspec
import pytest
from audit_planted import CATEGORY, RANDOM, RECOLORED, Row
from PIL import Image
from rich.progress import Progress

from engines.build.listing import list_folder
from engines.build.report.audit import Judged, write_lists

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engines.build.listing import Listing

COLORS, TYPES = ("red", "blue", "green"), ("mugs", "caps")
PRODUCTS = 36


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of products, the first two of which share a photo; the third has two photos."""
    folder = tmp_path_factory.mktemp("data") / "shop"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(PRODUCTS):
        Image.new("RGB", (8, 8), (max(number, 1), 0, 0)).save(folder / "images" / f"{number}.png")
        line = {
            "id": f"p{number}",
            "title": f"thing {number}",
            "color": COLORS[number % 3],
            "product_type": TYPES[number % 2],
            "image_link": f"images/{number}.png",
        }
        if number == 2:
            Image.new("RGB", (8, 8), (0, 9, 0)).save(folder / "images" / "more.png")
            line["additional_image_link"] = ["images/more.png"]
        lines.append(msgspec.json.encode(line))
    (folder / "catalog.jsonl").write_bytes(b"\n".join(lines))
    return folder


def listed(folder: Path) -> Listing:
    """Return the folder's products."""
    with Progress(disable=True) as progress:
        return list_folder(folder, progress)


def test_plant_exchanges_the_share_in_equal_kinds(shop: Path) -> None:
    """Both ways, each product once, as alike as the kind says; the same for the same seed."""
    listing = listed(shop)
    planted = audit_planted.plant(listing, 0.5, seed=0)
    of = {item.id: item.fields for item in listing.items}
    assert len(planted) == 18
    assert all(planted[other] == (one, kind) for one, (other, kind) in planted.items())
    kinds = [kind for _, kind in planted.values()]
    assert [kinds.count(kind) for kind in (RANDOM, CATEGORY, RECOLORED)] == [6, 6, 6]
    for one, (other, kind) in planted.items():
        assert kind == RANDOM or of[one]["product_type"] == of[other]["product_type"]
        assert kind != RECOLORED or of[one]["color"] != of[other]["color"]
    assert planted == audit_planted.plant(listing, 0.5, seed=0)
    assert planted != audit_planted.plant(listing, 0.5, seed=1)


def test_plant_leaves_products_alone_that_share_a_photo(shop: Path) -> None:
    """One of them would keep the photo, so text and photo would still be a match somewhere."""
    assert not {"p0", "p1"} & audit_planted.plant(listed(shop), 1.0, seed=0).keys()


def test_plant_of_nothing_is_nothing(shop: Path) -> None:
    """The share 0 is the catalogue as it is."""
    assert audit_planted.plant(listed(shop), 0.0, seed=0) == {}


def test_plant_without_colors_exchanges_with_any(shop: Path) -> None:
    """A kind that no partner has does not end the exchanges."""
    listing = listed(shop)
    for item in listing.items:
        del item.fields["color"]
    kinds = [kind for _, kind in audit_planted.plant(listing, 0.5, seed=0).values()]
    assert (len(kinds), kinds.count(RECOLORED)) == (18, 0)


def test_planted_folder_shows_the_others_pictures_and_splits_as_before(shop: Path, tmp_path: Path) -> None:
    """Texts stay; every picture of both moves, and nothing else does."""
    listing = listed(shop)
    planted: Mapping[str, tuple[str, str]] = {"p2": ("p7", RANDOM), "p7": ("p2", RANDOM)}
    audit_planted.write_planted(shop, listing, planted, tmp_path / "planted")
    found = listed(tmp_path / "planted")
    before = dict(zip([item.id for item in listing.items], listing.digests, strict=True))
    after = dict(zip([item.id for item in found.items], found.digests, strict=True))
    assert after == before | {"p2": before["p7"], "p7": before["p2"]}
    assert [item.fields for item in found.items] == [item.fields for item in listing.items]
    assert found.components == listing.components


def test_found_counts_heads_alerts_and_expected_errors() -> None:
    """Four planted: three among the first four, two alerted, of three alerts."""
    planted = {f"p{n}": ("", RANDOM if n < 2 else RECOLORED) for n in range(4)}
    order = [("p0", 0.9, True), ("x1", 0.8, True), ("p1", 0.7, True), ("p2", 0.4, False), ("x2", 0.2, False)]
    found = audit_planted.found([Row(*row) for row in [*order, ("p3", 0.1, False)]], planted)
    assert found["heads"]["4"] == {"precision": 0.75, "recall": 0.75}
    assert found["alerts"] == {
        "count": 3,
        "right": 2,
        "precision": 2 / 3,
        "recall": 0.5,
        "recall_by_kind": {RANDOM: 1.0, RECOLORED: 0.0},
    }
    assert found["expected"] == {"in_alerts": pytest.approx(2.4), "in_all": pytest.approx(3.1)}
    assert found["places"] == [0, 2, 3, 5]


def test_list_gives_ids_as_the_catalogue_has_them(tmp_path: Path) -> None:
    """An id that a spreadsheet would run stands there behind an apostrophe."""
    (tmp_path / "audit.csv").write_text("id,probability,alert\n'=1,0.5,True\n'tis,0.25,False\n")
    assert audit_planted.read_list(tmp_path) == [Row("=1", 0.5, alert=True), Row("'tis", 0.25, alert=False)]


def test_table_and_plot_have_a_column_for_each_share(tmp_path: Path) -> None:
    """Where nothing was planted, what cannot be said is left empty."""
    rows = [Row("p0", 0.9, alert=True), Row("x1", 0.2, alert=False)]
    shares = {"0": audit_planted.found(rows, {}), "0.5": audit_planted.found(rows, {"p0": ("", CATEGORY)})}
    facts = {"catalog": "shop", "seed": 0, "shares": shares}
    text = audit_planted.as_markdown(facts)
    assert "| share of products | 0% | 50% |" in text
    assert "| recall of the alerts |  | 1.00 |" in text
    assert "| precision, and recall, of as many as were planted |  | 1.00 |" in text
    audit_planted.draw(facts, tmp_path / "planted.png")
    assert (tmp_path / "planted.png").read_bytes().startswith(b"\x89PNG")


def test_measure_audits_each_share_and_compares_it_with_what_was_planted(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An audit that sees which picture is whose finds all that was planted, and nothing where nothing was."""
    usual = dict(zip([item.id for item in listed(shop).items], listed(shop).digests, strict=True))

    def audit(path: Path, out: Path, *_: object, **__: object) -> None:
        listing = listed(path)
        wrong = {item.id for item, own in zip(listing.items, listing.digests, strict=True) if own != usual[item.id]}
        ordered = sorted(usual, key=lambda one: one not in wrong)
        out.mkdir(parents=True)
        write_lists([Judged(one, "", "", float(one in wrong), one in wrong, "", 0) for one in ordered], out)

    monkeypatch.setattr(audit_planted, "audit_folder", audit)
    audit_planted.measure(tmp_path, shop, (0.0, 0.5, 0.5), threads=1)
    facts = msgspec.json.decode((tmp_path / "planted.json").read_bytes())
    assert facts["shares"].keys() == {"0", "0.5"}
    assert facts["shares"]["0"]["alerts"]["count"] == 0
    half = facts["shares"]["0.5"]
    assert (half["planted"], half["alerts"]["right"], half["alerts"]["precision"]) == (18, 18, 1.0)
    assert half["heads"]["18"] == {"precision": 1.0, "recall": 1.0}
    assert half["expected"] == {"in_alerts": 18.0, "in_all": 18.0}
    assert (tmp_path / "planted.md").read_text(encoding="utf-8").startswith("# shop, seed 0")
