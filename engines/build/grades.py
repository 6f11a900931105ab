"""The graded benchmark: for each text one wrong picture of each hardness, from any product's to its nearest look-alike.

Without the grade and the prevalence a figure says nothing: any swap is found by a dual encoder, a look-alike of another
color by few. No torch.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from engines.build.evaluate import MATCH, Pairs
from engines.build.traits import chunks, traits, unit
from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.build.dataset import Catalog

EASY, MEDIUM, BRAND, HARD, HARD_RULE = "easy", "medium", "brand", "hard", "hard-rule"
NEAREST, VARIANT = "nearest", "variant"

MEANINGS: Final = {
    EASY: "any other product",
    MEDIUM: "any product of the same category",
    BRAND: "any product of the same category and brand",
    HARD: "nearest look of the same category and gender with another color",
    HARD_RULE: "any product of the same category and gender with another color",
    NEAREST: "nearest look, whatever it is",
    VARIANT: "any variant of the same item",
}
"""What each grade's wrong picture is of. `hard-rule` owes nothing to the backbone by which looks are compared.

A product without what a grade asks for has no pair of it: without a category neither medium, brand nor hard.
"""


def graded_pairs(catalog: Catalog, looks: NDArray[np.floating], *, seed: int) -> Pairs:
    """Return every product with its first picture, and with one wrong picture for each grade it has one of.

    Products of one identity, or with copies of one picture, are never each other's wrong picture (`Traits.same`).
    `Pairs.difference` holds the grade.

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


def require_mismatches(catalog: Catalog, looks: NDArray[np.floating]) -> None:
    """Return if products have wrong pictures to be told from; which ones is drawn, not whether there are any.

    Args:
        catalog: a part to choose thresholds with, or to measure on.
        looks: as of `graded_pairs`.

    Raises:
        CatalogInvalid: all may show the same.
    """
    if not graded_pairs(catalog, looks, seed=0).label.any():
        raise CatalogInvalid(
            f"the {len(catalog.products)} products to choose thresholds with, or to measure on, may all show the same, "
            "as they have one title or look, and no colors that differ: no wrong picture can be drawn for them. Other "
            "--shares or another --seed give other products, if the catalogue has them"
        )


def _partners(
    catalog: Catalog, looks: NDArray[np.floating], generator: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """Return for each grade the product whose picture is shown, int64 (N,), -1 where there is none."""
    known, vectors = traits(catalog), unit(looks)
    found: dict[str, list[NDArray[np.int64]]] = {grade: [] for grade in MEANINGS}
    for rows in chunks(len(vectors)):
        similarity = vectors[rows] @ vectors.T
        other, recolored = ~known.same(rows, similarity), known.recolored(rows)
        any_of = partial(_any, generator=generator)
        found[EASY].append(any_of(other))
        found[MEDIUM].append(any_of(other & known.alike(known.category, rows)))
        found[HARD].append(_best(similarity, recolored))
        found[HARD_RULE].append(any_of(recolored))
        found[NEAREST].append(_best(similarity, other))
        found[VARIANT].append(any_of(other & known.alike(known.group, rows)))
        found[BRAND].append(any_of(other & known.alike(known.brand, rows)))
    return {grade: np.concatenate(parts) for grade, parts in found.items()}


def _any(allowed: NDArray[np.bool_], *, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return one of those allowed in each row, drawn evenly, -1 where none is."""
    return _best(generator.random(allowed.shape, dtype=np.float32), allowed)


def _best(preference: NDArray[np.floating], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the preferred of those allowed in each row, -1 where none is."""
    best = np.where(allowed, preference, -np.inf).argmax(axis=1)
    return np.where(allowed.any(axis=1), best, -1)
