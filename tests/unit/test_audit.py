"""`engines.build.report.audit`: the lists and the page."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from pyarrow import parquet

from engines.build.report.audit import CSV_FILE, PARQUET_FILE, Judged, write_lists

if TYPE_CHECKING:
    from pathlib import Path


def judged(number: int, title: str, probability: float) -> Judged:
    """Return a row of the list."""
    return Judged(str(number), title, "mugs", probability, alert=probability > 0.5, contradicts="", fold=0)


def test_lists_hold_every_product_in_its_rank(tmp_path: Path) -> None:
    """CSV for people, Parquet for programs: the same rows."""
    listed = [judged(2, "blue mug", 0.9), judged(1, "red mug", 0.2)]
    write_lists(listed, tmp_path)
    with (tmp_path / CSV_FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["id"], row["title"], row["alert"]) for row in rows] == [
        ("1", "2", "blue mug", "True"),
        ("2", "1", "red mug", "False"),
    ]
    table = parquet.read_table(tmp_path / PARQUET_FILE).to_pylist()
    assert [row["id"] for row in table] == ["2", "1"]
    assert table[0]["probability"] == 0.9


def test_lists_do_not_run_as_formulas(tmp_path: Path) -> None:
    """A title is a shop's; a spreadsheet must show it, not run it."""
    write_lists([judged(1, '=HYPERLINK("https://evil.example")', 0.9)], tmp_path)
    with (tmp_path / CSV_FILE).open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["title"].startswith("'=")
