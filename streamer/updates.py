"""The wire contract of product-updates, version 1: what catalogue systems say of a product. No I/O, no clock.

Field names are Google Merchant's. Unknown fields are ignored here and kept in the topic; a null value is a tombstone.
JSON as in `streamer.wire`; golden files in `tests/contract/golden/` pin the bytes.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from engines.contract import top_level
from engines.fields import NAMED_FIELDS, text_fields
from streamer.errors import RejectedEvent
from streamer.wire import SCHEMA_VERSION, parse

MAX_ID_CHARS = 256
MAX_URL_CHARS = 2048  # Google Merchant allows 2,000 characters in image_link
MAX_ADDITIONAL_IMAGES = 32
MAX_TITLE_CHARS = 300  # of a title that is carried along for people to read

ProductId = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
Url = Annotated[str, Meta(max_length=MAX_URL_CHARS)]
# Kafka offsets and our versions are signed 64-bit.
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

COLUMNS = (
    "title", "description", "brand", "color", "material", "pattern", "gender", "size", "product_type", "price",
)  # fmt: skip
"""Fields of an update that an engine may read as attributes, beside `ProductUpdate.attributes`."""

AttributeValue = str | int | float | bool | list[str] | None


class ProductUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """One product as its catalogue system knows it now; field names are Google Merchant's.

    `version` (any growing integer) or `updated_at` (RFC 3339 with an offset) orders the updates of one product; a
    source must not mix the two. `deleted` true is a tombstone that carries its version.
    """

    id: ProductId
    schema_version: int = SCHEMA_VERSION
    version: Int64 | None = None
    updated_at: datetime | None = None
    deleted: bool = False
    title: str | None = None
    description: str | None = None
    brand: str | None = None
    color: str | None = None
    material: str | None = None
    pattern: str | None = None
    gender: str | None = None
    size: str | None = None
    product_type: str | None = None
    item_group_id: str | None = None
    price: str | float | None = None
    attributes: dict[str, AttributeValue] = {}
    image_link: Url | None = None
    additional_image_link: Annotated[list[Url], Meta(max_length=MAX_ADDITIONAL_IMAGES)] = []

    @property
    def order(self) -> int:
        """The update's place among the updates of its product: `version`, else `updated_at` in microseconds."""
        if self.version is not None:
            return self.version
        if self.updated_at is None:
            raise RejectedEvent("version_missing", "neither `version` nor `updated_at` is set")
        return microseconds(self.updated_at)

    @property
    def category(self) -> str:
        """The top level of `product_type` (`Apparel > Shoes` → `Apparel`), or an empty string."""
        return top_level(self.product_type or "")

    def text_fields(self) -> dict[str, str]:
        """Return what the text says, by field, empty fields left out; `attributes` follow under their own names.

        Attributes that are no text, such as links, codes and stock, are left out (`engines.fields`).
        """
        return text_fields(self.attributes | {name: getattr(self, name) for name in NAMED_FIELDS})

    def columns(self) -> dict[str, AttributeValue]:
        """Return everything that is known of the product by column, `attributes` beside the fields above."""
        named = {name: getattr(self, name) for name in COLUMNS}
        return self.attributes | {name: value for name, value in named.items() if value is not None}


def parse_update(key: bytes | None, value: bytes | None) -> ProductUpdate:
    """Return the update that stands in these bytes; a null value is a tombstone of the product that `key` names.

    Raises:
        RejectedEvent: malformed_json, malformed_event, schema_unsupported, key_missing.
    """
    if value is None:
        return ProductUpdate(id=_tombstone_id(key), deleted=True)
    return parse(value, ProductUpdate)


def text_digest(text: str, attributes: bytes = b"") -> str:
    """Return the SHA-256, in hex, of the text as the engine reads it: what it does not read changes nothing.

    A catalogue's stock and price change all day; a digest over every field would have each change scored again.
    `attributes` are those that the engine reads beside the text, if it reads any.

    Raises:
        RejectedEvent: text_not_unicode.
    """
    try:
        return hashlib.sha256(text.encode() + attributes).hexdigest()
    except UnicodeEncodeError as error:
        raise RejectedEvent("text_not_unicode", f"the text has no UTF-8 form: {error.reason}") from error


def microseconds(moment: datetime) -> int:
    """Return microseconds since 1970-01-01 UTC, exactly; a time without an offset is rejected."""
    if moment.tzinfo is None:
        raise RejectedEvent("malformed_event", "`updated_at` has no UTC offset: write 2026-01-31T12:00:00Z")
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _tombstone_id(key: bytes | None) -> str:
    if not key:
        raise RejectedEvent("key_missing", "a null value without a key: there is no product to delete")
    try:
        product_id = key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RejectedEvent("key_missing", "a null value whose key is not UTF-8") from error
    if len(product_id) > MAX_ID_CHARS:
        raise RejectedEvent("key_missing", f"a null value whose key is longer than {MAX_ID_CHARS} characters")
    return product_id
