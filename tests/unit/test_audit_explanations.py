"""`engines.build.audit`: which rows of its list name a field, and which cards show where."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from rich.progress import Progress

from engines.build import audit
from engines.build.recipe import AdaptRecipe
from engines.build.report.audit import CSV_FILE
from tests.fakes import SIDE, MindfulEngine, WordTokenizer

if TYPE_CHECKING:
    from pathlib import Path

PRODUCTS, RED = 220, 20
NAVY = "color: navy"


def picture(number: int) -> bytes:
    """Return a picture like no other; the first ones are red within a margin."""
    made, buffer = Image.new("RGB", (SIDE, SIDE), (0, number, 0)), io.BytesIO()
    if number < RED:
        made.paste((255, number, 0), (1, 1, SIDE - 1, SIDE - 1))
    made.save(buffer, "PNG")
    return buffer.getvalue()


class Shop:
    """Navy mugs, some of whose pictures are red, and an engine that minds those; `trained` lists the folds' parts."""

    def __init__(self, folder: Path) -> None:
        self.trained: list[object] = []
        self._folder = folder
        (folder / "shop").mkdir()
        lines = []
        for number in range(PRODUCTS):
            (folder / "shop" / f"{number}.png").write_bytes(picture(number))
            lines.append({"id": str(number), "title": f"mug{number}", "color": "navy", "image_link": f"{number}.png"})
        (folder / "shop" / "catalog.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")

    def train(self, parts: object, *_: Any, **__: Any) -> Path:  # noqa: ANN401 - takes what comes
        """Return the name of a release."""
        self.trained.append(parts)
        return self._folder / "release"

    def audit(self, explained: int, heat_maps: int) -> tuple[list[dict[str, str]], str]:
        """Return the list and the page of an audit."""
        with Progress(disable=True) as progress:
            page = audit.audit_folder(
                self._folder / "shop",
                self._folder / "out",
                self._folder / "work",
                AdaptRecipe(seed=0, model={"image_size": SIDE}),
                folds=2,
                precision=0.5,
                progress=progress,
                explained=explained,
                heat_maps=heat_maps,
            )
        with (page.parent / CSV_FILE).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file)), page.read_text(encoding="utf-8")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Return a shop whose engines need no training."""
    made = Shop(tmp_path)
    monkeypatch.setattr(audit, "adapt_parts", made.train)
    monkeypatch.setattr(audit, "load", lambda _: MindfulEngine())
    monkeypatch.setattr(audit, "load_tokenizer", lambda _: WordTokenizer())
    return made


def test_audit_names_a_field_in_every_alerted_row_and_shows_the_first_heat_maps(shop: Shop) -> None:
    """Of all alerts the list says why, of the first cards the page says where."""
    rows, page = shop.audit(explained=RED, heat_maps=5)
    assert {row["id"] for row in rows if row["alert"] == "True"} == {str(number) for number in range(RED)}
    assert [row["contradicts"] for row in rows] == [NAVY] * RED + [""] * (PRODUCTS - RED)
    assert page.count('<img class="heat"') == 5


def test_audit_run_again_for_more_explanations_trains_and_judges_nothing_anew(shop: Shop) -> None:
    """The bound can be lifted afterwards; the page says where it held."""
    rows, page = shop.audit(explained=2, heat_maps=0)
    assert [row["contradicts"] for row in rows].count(NAVY) == 2 * 2
    assert "most suspicious of its fold" in page
    assert '<img class="heat"' not in page
    rows, page = shop.audit(explained=RED, heat_maps=1)
    assert [row["contradicts"] for row in rows].count(NAVY) == RED
    assert "most suspicious of its fold" not in page
    assert page.count('<img class="heat"') == 1
    assert len(shop.trained) == 2, "one engine a fold"
