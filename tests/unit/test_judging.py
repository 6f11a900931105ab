"""`engines.build.judging`: what an engine says of a pair, why, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.progress import Progress

from engines.build.dataset import Catalog, Product
from engines.build.evaluate import OTHER, Pairs
from engines.build.judging import Inquiry, own_pairs
from engines.contract import AttributeColumns
from tests.fakes import MINDED, SIDE, FakeEngine, MindfulEngine, WordTokenizer, manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.contract import Batch


def catalog(products: tuple[Product, ...], red: set[int]) -> Catalog:
    """Return products with one picture each, black unless red."""
    pixels = np.zeros((len(products), 3, SIDE, SIDE), np.uint8)
    pixels[sorted(red), 0] = 255
    return Catalog(products, (), pixels, np.arange(len(products)))


def test_probabilities_believe_what_fits_and_nothing_else() -> None:
    """A red picture of a navy mug is wrong, a black one is not."""
    products = tuple(Product({"title": "mug", "color": "navy"}, (), i, str(i), "mugs", id=str(i)) for i in range(2))
    pictured = catalog(products, red={1})
    inquiry = Inquiry(MindfulEngine(), WordTokenizer(), pictured, own_pairs(pictured))  # type: ignore[arg-type]
    with Progress(disable=True) as progress:
        probabilities = inquiry.probabilities(inquiry.logits(progress))
    assert probabilities[0] < 0.01
    assert probabilities[1] > 0.99


def reasons(engine: FakeEngine, pictured: Catalog, pairs: Pairs | None = None) -> list[str]:
    """Return what an engine finds contradicted, in words."""
    inquiry = Inquiry(engine, WordTokenizer(), pictured, pairs or own_pairs(pictured))  # type: ignore[arg-type]
    with Progress(disable=True) as progress:
        return [reason.words for reason in inquiry.reasons(progress)]


def mugs(count: int) -> tuple[Product, ...]:
    """Return navy mugs."""
    return tuple(Product({"title": "mug", "color": "navy"}, (), i, str(i), "mugs") for i in range(count))


def test_reasons_name_what_a_picture_contradicts() -> None:
    """The red picture of a navy mug contradicts its color."""
    assert reasons(MindfulEngine(), catalog(mugs(1), red={0})) == ["color: navy"]


def test_reasons_ask_about_several_pairs_in_one_batch() -> None:
    """A text makes one claim or a few: batches of one pair each would leave cores without work."""
    engine = MindfulEngine()
    assert reasons(engine, catalog(mugs(8), red=set(range(8)))) == ["color: navy"] * 8
    assert engine.batches == [8, 8]  # the pairs themselves, and each without its color: no word else needs trying


def test_reasons_of_exchanged_pictures_are_about_the_picture_that_is_shown() -> None:
    """A report explains pairs, not products."""
    shown = Pairs(np.array([0]), np.array([1]), np.array([1]), np.array([OTHER]))
    assert reasons(MindfulEngine(), catalog(mugs(2), red={1}), shown) == ["color: navy"]
    assert reasons(MindfulEngine(), catalog(mugs(2), red={0}), shown) == [""]


def test_heat_map_is_warm_where_the_shown_picture_is_red() -> None:
    """What is red carries the case against the color, its black right does not; without a reason there is no map."""
    pictured = catalog(mugs(2), red=set())
    pictured.pixel_values[1, 0, 1:-1, :5] = 255
    pairs = Pairs(np.array([0, 0]), np.array([1, 0]), np.array([1, 0]), np.array([OTHER, OTHER]))
    inquiry = Inquiry(MindfulEngine(), WordTokenizer(), pictured, pairs)  # type: ignore[arg-type]
    with Progress(disable=True) as progress:
        warm, cold = (inquiry.heat_map(reason) for reason in inquiry.reasons(progress))
    assert warm is not None
    assert warm[1:-1, :3].min() > warm[:, 4:].max() == 0
    assert cold is None


class ColorReader(FakeEngine):
    """Minds a red picture as long as text or attributes name a color."""

    def __init__(self) -> None:
        super().__init__()
        self.manifest = manifest(attributes=AttributeColumns(categories={"color": ("navy",)}))

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        assert batch.attributes is not None
        said = (batch.attributes[:, 0, 1] > 0) | (batch.attention_mask[:, MINDED] > 0)
        return np.where(said, super().infer(batch), -10.0).astype(np.float32)


def test_reasons_leave_a_claim_out_of_the_attributes_too() -> None:
    """Else the color that the engine reads beside the text would keep every claim from being named."""
    fields = {"title": "mug", "color": "navy"}
    product = Product(fields, (), 0, "0", "mugs", columns=fields)
    assert reasons(ColorReader(), catalog((product,), red={0})) == ["color: navy"]
