"""`engines.build.judging`: what an engine says of a product, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.progress import Progress

from engines.build.dataset import Catalog, Product
from engines.build.judging import explain, judge
from engines.contract import AttributeColumns
from tests.fakes import SIDE, FakeEngine, WordTokenizer, manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.contract import Batch

MINDED = 3  # the fourth word, `navy` in `title: mug` and `color: navy`


class MindfulEngine(FakeEngine):
    """Minds the fourth word of texts with red pictures."""

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        logits = super().infer(batch)
        return np.where(batch.attention_mask[:, MINDED] > 0, logits, -10.0).astype(np.float32)


def catalog(products: tuple[Product, ...], red: set[int]) -> Catalog:
    """Return products with one picture each, black unless red."""
    pixels = np.zeros((len(products), 3, SIDE, SIDE), np.uint8)
    pixels[sorted(red), 0] = 255
    return Catalog(products, (), pixels, np.arange(len(products)))


def test_judge_believes_what_fits_and_nothing_else() -> None:
    """A red picture of a navy mug is wrong, a black one is not."""
    products = tuple(Product({"title": "mug", "color": "navy"}, (), i, str(i), "mugs", id=str(i)) for i in range(2))
    with Progress(disable=True) as progress:
        probabilities = judge(
            MindfulEngine(),
            WordTokenizer(),  # type: ignore[arg-type]
            catalog(products, red={1}),
            progress,
        )
    assert probabilities[0] < 0.01
    assert probabilities[1] > 0.99


def test_explain_names_what_a_picture_contradicts() -> None:
    """The red picture of a navy mug contradicts its color."""
    product = Product({"title": "mug", "color": "navy"}, (), 0, "0", "mugs")
    with Progress(disable=True) as progress:
        contradicted = explain(
            MindfulEngine(),
            WordTokenizer(),  # type: ignore[arg-type]
            catalog((product,), red={0}),
            progress,
        )
    assert contradicted == ["color: navy"]


class ColorReader(FakeEngine):
    """Minds a red picture as long as text or attributes name a color."""

    def __init__(self) -> None:
        super().__init__()
        self.manifest = manifest(attributes=AttributeColumns(categories={"color": ("navy",)}))

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        assert batch.attributes is not None
        said = (batch.attributes[:, 0, 1] > 0) | (batch.attention_mask[:, MINDED] > 0)
        return np.where(said, super().infer(batch), -10.0).astype(np.float32)


def test_explain_leaves_a_claim_out_of_the_attributes_too() -> None:
    """Else the color that the engine reads beside the text would keep every claim from being named."""
    fields = {"title": "mug", "color": "navy"}
    product = Product(fields, (), 0, "0", "mugs", columns=fields)
    with Progress(disable=True) as progress:
        contradicted = explain(
            ColorReader(),
            WordTokenizer(),  # type: ignore[arg-type]
            catalog((product,), red={0}),
            progress,
        )
    assert contradicted == ["color: navy"]
