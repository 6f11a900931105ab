"""What champion and challenger are both asked: the same pairs, which no retraining learns from, and their slices.

benchmark   products of the catalogue that were held out, with wrong pictures made by exchanging them
labels      confirmed labels that are held out by product group, each for as many products as it stands for
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from engines.build import evaluate
from engines.build.texts import encode
from engines.contract import top_level

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.dataset import Catalog, Product
    from engines.build.evaluate import Pairs
    from engines.contract import Engine
    from engines.text import Tokenizer

BENCHMARK, LABELS = "benchmark", "labels"

LEAST_OF_EACH: Final = 30
"""Mismatches, and matches: a slice with fewer is judged together with the other small ones of its kind."""

LEAST_ITEMS: Final = 5
"""Of either: pairs of one item vary together, and tell nothing of how much they vary."""

SMALL: Final = "(small ones together)"
UNKNOWN: Final = "(none)"
_LANGUAGE_COLUMNS: Final = ("language", "content_language")
_SIZES_PX: Final = (150, 300, 600, 1200)


@dataclass(frozen=True)
class FrozenSet:
    """Pairs to be asked.

    Attributes:
        name: `BENCHMARK` or `LABELS`.
        catalog: the products of the pairs.
        pairs: M of them.
        weights: (M,), how much each counts within its class.
        prevalence: for which figures are stated.
        likely: (M,), whether a pair is what its item is more likely than not; None: all are. A label that may be wrong
            stands there as a mismatch and as a match: figures of the whole are right on average so, those of a slice
            would be of guesses.
        audited: (M,), whether people were asked about it by chance, whatever an engine said; None: all were.
    """

    name: str
    catalog: Catalog
    pairs: Pairs
    weights: NDArray[np.float64]
    prevalence: float
    likely: NDArray[np.bool_] | None = None
    audited: NDArray[np.bool_] | None = None

    @property
    def plain(self) -> NDArray[np.bool_]:
        """Return the pairs that are what their items more likely are, (M,)."""
        return np.ones(len(self.pairs.label), dtype=np.bool_) if self.likely is None else self.likely

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Return equal numbers for pairs that are not independent, int64 (M,)."""
        return evaluate.related(self.catalog, self.pairs)

    def ask(self, engine: Engine, tokenizer: Tokenizer, progress: Progress) -> NDArray[np.float64]:
        """Return the engine's logits, (M,).

        Raises:
            InferenceFailed: it does not answer, or not with numbers.
        """
        texts = encode(self.catalog, tokenizer, engine.manifest.attributes)
        return evaluate.score(engine, self.catalog, texts, self.pairs, progress).astype(np.float64)

    def slices(self, *, least: int = LEAST_OF_EACH) -> dict[str, NDArray[np.bool_]]:
        """Return the rows of each slice by its name, as `brand: Acme`; small ones of a kind are together.

        Args:
            least: mismatches, and matches, without which a slice is small.
        """
        owners = self.catalog.picture_owner[self.pairs.picture]
        found: dict[str, NDArray[np.bool_]] = {}
        for kind, (value, of) in _KINDS.items():
            values = [value(product) for product in self.catalog.products]
            asked = owners if of == "picture" else self.pairs.product
            found |= self._large(kind, np.array([values[i] for i in asked.tolist()], dtype=np.str_), least)
        return found

    def _large(self, kind: str, values: NDArray[np.str_], least: int) -> dict[str, NDArray[np.bool_]]:
        rows = {str(value): values == value for value in np.unique(values)}
        large = {value: chosen for value, chosen in rows.items() if self._enough(chosen, least)}
        rest = ~np.isin(values, list(large))
        if self._enough(rest, least):
            large[SMALL] = rest
        return {} if len(large) < 2 else {f"{kind}: {value}": chosen for value, chosen in large.items()}  # noqa: PLR2004

    def _enough(self, rows: NDArray[np.bool_], least: int) -> bool:
        classes = [self.plain & rows & (self.pairs.label == label) for label in (0, 1)]
        items = min(len(np.unique(self.groups[chosen])) for chosen in classes)
        return min(int(chosen.sum()) for chosen in classes) >= least and items >= LEAST_ITEMS


def language(product: Product) -> str:
    """Return the language that the catalogue says, else the script that most letters of the title belong to."""
    for name in _LANGUAGE_COLUMNS:
        if isinstance(said := product.columns.get(name), str) and said:
            return said.casefold()
    letters = (character for character in product.fields.get("title", "") if character.isalpha())
    scripts = Counter(unicodedata.name(letter, "?").split()[0].casefold() for letter in letters)
    return scripts.most_common(1)[0][0] if scripts else UNKNOWN


def image_size(product: Product) -> str:
    """Return in which range the picture's shorter side is, as it came."""
    side = product.shorter_side_px
    if not side:
        return UNKNOWN
    above = next((limit for limit in _SIZES_PX if side < limit), None)
    return f"from {_SIZES_PX[-1]} px" if above is None else f"under {above} px"


_KINDS: Final[Mapping[str, tuple[Callable[[Product], str], str]]] = {
    "category": (lambda product: top_level(product.category) or UNKNOWN, "text"),
    "brand": (lambda product: product.fields.get("brand", UNKNOWN), "text"),
    "language": (language, "text"),
    "image size": (image_size, "picture"),
}
"""What a slice is made by, and whether of the pair's text or of its picture."""
