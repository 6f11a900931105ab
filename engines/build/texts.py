"""A catalogue's products as token ids. No torch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engines.text import compose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.build.dataset import Catalog
    from engines.contract import TextSpec
    from engines.text import Tokenizer


class Texts(NamedTuple):
    """`input_ids` and `attention_mask` of every product, int32 (N, T)."""

    input_ids: NDArray[np.int32]
    attention_mask: NDArray[np.int32]


def written(catalog: Catalog, spec: TextSpec) -> list[str]:
    """Return the text of every product.

    Raises:
        TextRefused: a product has none.
    """
    return [compose(product.fields, spec) for product in catalog.products]


def encode(catalog: Catalog, tokenizer: Tokenizer) -> Texts:
    """Return the ids of every product's text.

    Raises:
        TextRefused: a product has none.
    """
    return Texts(*tokenizer.encode(written(catalog, tokenizer.spec)))


def data_digest(catalog: Catalog, spec: TextSpec) -> str:
    """Return SHA-256 over every picture and text of the products, for the release's provenance."""
    digest = hashlib.sha256(np.ascontiguousarray(catalog.pixel_values).data)
    digest.update("\0".join(written(catalog, spec)).encode())
    return digest.hexdigest()
