"""Which columns of a product are text, and in which order: the ONE definition, of a catalogue and of an update. A leaf.

What no picture can show is no text: links, codes, prices, stock, shipping, taxes, what is only for campaigns. It would
push the description out of what an engine reads, and each change of stock would be another text (docs/adr/0004).
Names are those of Google Merchant, in the file's spelling (`g:image_link`) or the API's (`imageLink`).
Source: https://support.google.com/merchants/answer/7052112.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMED_FIELDS: Final = (
    "title",
    "brand",
    "product_type",
    "color",
    "material",
    "pattern",
    "gender",
    "size",
    "description",
)
"""The text fields every catalogue shares, in the order in which a scorer reads them; others follow."""

PRICE_HISTORY: Final = "price_history"
"""Past prices, the oldest first: never part of the text, an engine may read it as a history."""

_GOOGLE_CATEGORY: Final = "google_product_category"
_RECORD: Final = ("id", "item_group_id", "schema_version", "version", "updated_at", "deleted", "attributes")

_NOT_TEXT: Final = frozenset(
    {
        *_RECORD, "image_link", "additional_image_link", PRICE_HISTORY,
        # Codes and addresses; further ones by their endings.
        "gtin", "gtins", "ean", "upc", "isbn", "mpn", "sku", "asin", "barcode", "article_number", "identifier_exists",
        "url", "link", "mobile_link", "canonical_link", "lifestyle_image_link", "video_link", "virtual_model_link",
        "link_template", "mobile_link_template",
        # Prices and stock; further ones by their beginnings.
        "price", "sale_price", "sale_price_effective_date", "cost_of_goods_sold", "currency", "msrp", "rrp", "discount",
        "availability", "availability_date", "expiration_date", "in_stock", "stock", "quantity", "inventory",
        "sell_on_google_quantity", "quantity_to_sell_on_facebook", "unit_pricing_measure", "unit_pricing_base_measure",
        # Shipping, taxes, and what a shop promises.
        "shipping", "shipping_label", "shipping_weight", "shipping_length", "shipping_width", "shipping_height",
        "carrier_shipping", "ships_from_country", "transit_time_label", "min_handling_time", "max_handling_time",
        "free_shipping_threshold", "minimum_order_value", "tax", "taxes", "tax_category", "return_policy_label",
        "pickup_method", "pickup_sla", "store_code", "subscription_cost", "loyalty_program", "loyalty_programs",
        # States and norms that no picture shows.
        "condition", "adult", "is_bundle", "size_system", "certification", "certifications", "energy_efficiency_class",
        "min_energy_efficiency_class", "max_energy_efficiency_class", "status", "visibility", "pause",
        "rating", "average_rating", "rating_count", "review_count", "reviews_count",
        "created_at", "created", "updated", "modified", "published", "published_at",
        # Campaigns and accounts.
        "custom_label_0", "custom_label_1", "custom_label_2", "custom_label_3", "custom_label_4", "promotion_id",
        "promotion_ids", "ads_redirect", "ads_grouping", "ads_labels", "adwords_redirect", "display_ads_id",
        "display_ads_similar_ids", "display_ads_title", "display_ads_link", "display_ads_value", "external_seller_id",
        "excluded_destination", "excluded_destinations", "included_destination", "included_destinations",
        "shopping_ads_excluded_country", "shopping_ads_excluded_countries", "disclosure_date", "content_language",
        "target_country", "feed_label", "channel", "cloud_export_additional_properties",
    }
)  # fmt: skip

_FAMILIES: Final = (
    "ads", "adwords", "auto_pricing", "availability", "custom_label", "display_ads", "installment", "inventory",
    "loyalty", "sale_price", "shipping", "stock", "subscription", "tax",
)  # fmt: skip
"""`tax` stands for `tax` and `tax_rate`, not for `taxonomy`."""

_ENDINGS: Final = ("_id", "_ids", "_link", "_links", "_price", "_sku", "_url", "_urls")

_ALSO_MERCHANT: Final = (
    _GOOGLE_CATEGORY, "age_group", "size_type", "multipack", "product_highlight", "product_highlights",
    "product_detail", "product_details", "product_length", "product_width", "product_height", "product_weight",
)  # fmt: skip

_LINK: Final = re.compile(
    r"(?:[a-z][a-z0-9+.-]*:)?//\S+|www\.\S+|data:\S+|\S+\.(?:jpe?g|png|webp|gif|avif)", re.IGNORECASE
)
_CODE: Final = re.compile(r"(?=\S*\d)\S{4,}")
_LEAST_CODES: Final = 20
_MOST_JUDGED: Final = 50_000  # values of a column
_NEARLY_ALL: Final = 0.9  # of a column's values, each another


def _squashed(name: str) -> str:
    return name.replace("_", "").replace("-", "").replace(" ", "")


_SPELLINGS: Final = {_squashed(name): name for name in (*NAMED_FIELDS, *sorted(_NOT_TEXT), *_ALSO_MERCHANT)}


@functools.lru_cache(maxsize=4096)
def column(name: str) -> str:
    """Return `Image Link`, `g:image_link` and `imageLink` as `image_link`; other names in lower case, joined by `_`."""
    lower = name.strip().lower().removeprefix("g:")
    return _SPELLINGS.get(_squashed(lower)) or lower.replace(" ", "_")


@functools.lru_cache(maxsize=4096)
def is_text(name: str) -> bool:
    """Return whether a column of this name may say what a picture shows."""
    known = column(name)
    family = any(known == one or known.startswith(f"{one}_") for one in _FAMILIES)
    return not (known in _NOT_TEXT or family or known.endswith(_ENDINGS))


def text_fields(columns: Mapping[str, object]) -> dict[str, str]:
    """Return the non-empty text of a product's columns: the named fields in order, then the others as they stand.

    Of the others, values that are nothing but links are left out, and so is a category that is only a number.
    """
    named = {name: _text(columns.get(name)) for name in NAMED_FIELDS}
    others = {name: _text(columns[name]) for name in columns if name not in named and is_text(name)}
    said = {name: text for name, text in others.items() if text and not _says_nothing(name, text)}
    return {name: text for name, text in named.items() if text} | said


class CodeColumns:
    """Finds columns that hold a code of their own for nearly every product, such as a supplier's number."""

    def __init__(self) -> None:
        self._filled: Counter[str] = Counter()
        self._codes: defaultdict[str, set[int]] = defaultdict(set)

    def add(self, fields: Mapping[str, str]) -> None:
        """Look at the text of one product; the first ones of each column are judged."""
        for name, value in fields.items():
            if name not in NAMED_FIELDS and self._filled[name] < _MOST_JUDGED:
                self._filled[name] += 1
                if _CODE.fullmatch(value):
                    self._codes[name].add(hash(value))

    def found(self) -> frozenset[str]:
        """Return their names; none of the named fields is ever among them."""
        least = {name: max(_LEAST_CODES, _NEARLY_ALL * count) for name, count in self._filled.items()}
        return frozenset(name for name, codes in self._codes.items() if len(codes) >= least[name])


def _says_nothing(name: str, text: str) -> bool:
    if column(name) == _GOOGLE_CATEGORY and text.isdigit():
        return True
    return all(_LINK.fullmatch(part) for part in text.replace(",", " ").split())


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(part).strip() for part in cast("list[object]", value) if str(part).strip())
    if value is None or isinstance(value, (bool, dict)):
        return ""
    return str(value).strip()
