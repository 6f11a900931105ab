"""A catalogue's products as token ids. No torch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from engines.attributes import AttributeReader
from engines.build.recipe import TEXT_FIELDS
from engines.contract import Batch
from engines.errors import TextRefused
from engines.fields import NAMED_FIELDS, CodeColumns
from engines.text import OTHER_FIELDS, compose

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog, Product
    from engines.catalogs.folder import CatalogItem
    from engines.contract import AttributeColumns, TextSpec
    from engines.text import Tokenizer


class Texts(NamedTuple):
    """`input_ids` and `attention_mask` of every product, int32 (N, T); `attributes`, float32 (N, A, 2), where read."""

    input_ids: NDArray[np.int32]
    attention_mask: NDArray[np.int32]
    attributes: NDArray[np.float32] | None = None

    def batch(self, pixel_values: NDArray[np.uint8], products: NDArray[np.int64]) -> Batch:
        """Return pictures (B, 3, H, W) beside what these products (B,) say."""
        attributes = None if self.attributes is None else self.attributes[products]
        return Batch(pixel_values, self.input_ids[products], self.attention_mask[products], attributes)


def fields_to_read(said: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Return `TextSpec.fields` for an engine that is trained on products of these fields: `TEXT_FIELDS`.

    Where there are columns of codes, the others stand by name in the place of `OTHER_FIELDS`: a scorer, which sees one
    product at a time, reads what was trained on.
    """
    judged = CodeColumns()
    for fields in said:
        judged.add(fields)
    codes = judged.found()
    if not codes:
        return TEXT_FIELDS
    others = {name: None for fields in said for name in fields if name not in {*NAMED_FIELDS, *codes}}
    return tuple(field for name in TEXT_FIELDS for field in (others if name == OTHER_FIELDS else (name,)))


def written(catalog: Catalog, spec: TextSpec) -> list[str]:
    """Return the text of every product.

    Raises:
        TextRefused: a product has none.
    """
    return [text_of(product, spec) for product in catalog.products]


def text_of(product: Product | CatalogItem, spec: TextSpec) -> str:
    """Return the text of a product.

    Raises:
        TextRefused: it has none; the error names it.
    """
    try:
        return compose(product.fields, spec)
    except TextRefused as error:
        read = ", ".join(spec.fields)
        raise TextRefused(f"{product.id}: {error}; read are {read}. Fill one of them, or remove the product") from error


def encode(catalog: Catalog, tokenizer: Tokenizer, columns: AttributeColumns | None = None) -> Texts:
    """Return the ids of every product's text, and its attributes where there are columns to read.

    Raises:
        TextRefused: a product has none.
    """
    attributes = None if columns is None else _attributes(catalog, columns)
    return Texts(*tokenizer.encode(written(catalog, tokenizer.spec)), attributes)


def data_digest(catalog: Catalog, spec: TextSpec, columns: AttributeColumns | None = None) -> str:
    """Return SHA-256 over every picture, text and, where columns are read, attribute, for the release's provenance."""
    digest = hashlib.sha256(np.ascontiguousarray(catalog.pixel_values).data)
    digest.update("\0".join(written(catalog, spec)).encode())
    if columns is not None:
        digest.update(msgspec.json.encode(columns))
        digest.update(_attributes(catalog, columns).data)
    return digest.hexdigest()


def _attributes(catalog: Catalog, columns: AttributeColumns) -> NDArray[np.float32]:
    reader = AttributeReader(columns)
    return np.stack([reader.read(product.columns) for product in catalog.products])
