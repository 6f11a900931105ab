"""`engines.build.audit`: what is said of a product, and the lists."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
from pyarrow import parquet
from rich.progress import Progress

from engines.build.audit import CSV_FILE, PARQUET_FILE, Judged, judge, write_lists
from engines.build.dataset import Catalog, Product
from engines.contract import AttributeColumns
from tests.fakes import SIDE, FakeEngine, WordTokenizer, manifest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.contract import Batch

MINDED = 3  # the fourth word, `navy` in `title: mug` and `color: navy`


class MindfulEngine(FakeEngine):
    """Minds the fourth word of texts with red pictures."""

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        logits = super().infer(batch)
        return np.where(batch.attention_mask[:, MINDED] > 0, logits, -10.0).astype(np.float32)


def judged(number: int, title: str, probability: float) -> Judged:
    """Return a row of the list."""
    return Judged(str(number), title, "mugs", probability, alert=probability > 0.5, contradicts="", fold=0)


def test_judge_names_what_an_alerting_product_contradicts() -> None:
    """A red picture of a navy mug alerts and says why; a black one is believed and costs one inference."""
    fields = {"title": "mug", "color": "navy"}
    products = tuple(Product(fields, (), i, str(i), "mugs", id=str(i)) for i in range(2))
    pixels = np.zeros((2, 3, SIDE, SIDE), np.uint8)
    pixels[1, 0] = 255
    with Progress(disable=True) as progress:
        probabilities, contradicted = judge(
            MindfulEngine(),
            WordTokenizer(),  # type: ignore[arg-type]
            Catalog(products, (), pixels, np.arange(2)),
            progress,
        )
    assert probabilities[0] < 0.01
    assert probabilities[1] > 0.99
    assert contradicted == ["", "color: navy"]


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


class ColorReader(FakeEngine):
    """Minds a red picture as long as text or attributes name a color."""

    def __init__(self) -> None:
        super().__init__()
        self.manifest = manifest(attributes=AttributeColumns(categories={"color": ("navy",)}))

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        assert batch.attributes is not None
        said = (batch.attributes[:, 0, 1] > 0) | (batch.attention_mask[:, MINDED] > 0)
        return np.where(said, super().infer(batch), -10.0).astype(np.float32)


def test_judge_leaves_a_claim_out_of_the_attributes_too() -> None:
    """Else the color that the engine reads beside the text would keep every claim from being named."""
    fields = {"title": "mug", "color": "navy"}
    product = Product(fields, (), 0, "0", "mugs", columns=fields)
    red = np.zeros((1, 3, SIDE, SIDE), np.uint8)
    red[:, 0] = 255
    with Progress(disable=True) as progress:
        _, contradicted = judge(
            ColorReader(),
            WordTokenizer(),  # type: ignore[arg-type]
            Catalog((product,), (), red, np.arange(1)),
            progress,
        )
    assert contradicted == ["color: navy"]
