"""The graded benchmark: for each text one wrong picture of each hardness, from any product's to its nearest look-alike.

Without the grade and the prevalence a figure says nothing: any swap is found by a dual encoder, a look-alike of another
color by few. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from engines.build.evaluate import MATCH, Pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog, Product

EASY, MEDIUM, HARD, HARD_RULE, NEAREST, VARIANT = "easy", "medium", "hard", "hard-rule", "nearest", "variant"

MEANINGS: Final = {
    EASY: "any other product",
    MEDIUM: "any product of the same category",
    HARD: "nearest look of the same category and gender with another color",
    HARD_RULE: "any product of the same category and gender with another color",
    NEAREST: "nearest look, whatever it is",
    VARIANT: "any variant of the same item",
}
"""What each grade's wrong picture is of. `hard-rule` owes nothing to the backbone by which looks are compared."""

_COLOR: Final = "color"
_GENDER: Final = "gender"
_EXCLUDED: Final = -np.inf


def graded_pairs(catalog: Catalog, looks: NDArray[np.floating], *, seed: int) -> Pairs:
    """Return every product with its first picture, and with one wrong picture for each grade it has one of.

    Products of one identity are never each other's wrong picture. `Pairs.difference` holds the grade.

    Args:
        catalog: products that training has not seen.
        looks: (N, D), what each product looks like to a model that was trained on no catalogue at all.
        seed: of the draws.
    """
    products = np.arange(len(catalog.products))
    chosen = [(MATCH, products, products)]
    for grade, partner in _partners(catalog, looks, np.random.default_rng(seed)).items():
        (found,) = np.nonzero(partner >= 0)
        chosen.append((grade, found, partner[found]))
    return Pairs(
        product=np.concatenate([texts for _, texts, _ in chosen]),
        picture=catalog.first_picture[np.concatenate([shown for _, _, shown in chosen])],
        label=np.concatenate([np.full(len(texts), grade != MATCH, dtype=np.int64) for grade, texts, _ in chosen]),
        difference=np.concatenate([np.full(len(texts), grade) for grade, texts, _ in chosen]),
    )


def _partners(
    catalog: Catalog, looks: NDArray[np.floating], generator: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """Return for each grade the product whose picture is shown, int64 (N,), -1 where there is none."""
    products = catalog.products
    other = ~_same(products, lambda product: str(product.identity))
    category = _same(products, lambda product: product.category)
    kind = category & _same(products, lambda product: _facet(catalog, product, _GENDER))
    colors = [_facet(catalog, product, _COLOR) for product in products]
    known = np.array([bool(color) for color in colors])
    recolored = other & kind & ~_equal(colors) & known[:, None] & known[None, :]
    similarity = _cosine(looks)
    noise = generator.random((len(GRADES_AT_RANDOM), *other.shape), dtype=np.float32)
    return {
        EASY: _best(noise[0], other),
        MEDIUM: _best(noise[1], other & category),
        HARD: _best(similarity, recolored),
        HARD_RULE: _best(noise[2], recolored),
        NEAREST: _best(similarity, other),
        VARIANT: _best(noise[3], other & _same(products, lambda product: product.group)),
    }


GRADES_AT_RANDOM: Final = (EASY, MEDIUM, HARD_RULE, VARIANT)


def _best(preference: NDArray[np.floating], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the preferred of those allowed in each row, -1 where none is."""
    best = np.where(allowed, preference, _EXCLUDED).argmax(axis=1)
    return np.where(allowed.any(axis=1), best, -1)


def _same(products: Sequence[Product], key: Callable[[Product], str]) -> NDArray[np.bool_]:
    return _equal([key(product) for product in products])


def _equal(values: Sequence[str]) -> NDArray[np.bool_]:
    """Return which of the values are equal, bool (N, N)."""
    numbers = np.unique(values, return_inverse=True)[1]
    return np.asarray(numbers[:, None] == numbers[None, :])


def _facet(catalog: Catalog, product: Product, name: str) -> str:
    return product.facets[catalog.facet_names.index(name)] if name in catalog.facet_names else ""


def _cosine(looks: NDArray[np.floating]) -> NDArray[np.float32]:
    unit = looks.astype(np.float32) / np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-9)
    return np.asarray(unit @ unit.T)
