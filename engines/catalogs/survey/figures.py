"""The figures of a survey, as they stand in `survey.json`. Products are named by their position in the catalogue."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from engines.catalogs.collection import Collection, Refusal  # noqa: TC001 - msgspec reads the annotations


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """How far one column is filled; `most_common` is a value that several products have, and how many.

    `text` tells whether an engine reads it as text: columns of links, codes, stock and the like are none.
    """

    name: str
    text: bool
    filled: int
    missing: int
    distinct: int
    distinct_capped: bool
    most_common: tuple[str, int] | None


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """N numbers: what is usual, and a histogram, whose last bin takes all that is above its lower edge."""

    count: int
    minimum: float
    median: float
    p95: float
    maximum: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """How many products, and how many additional pictures of others, were refused with a code; some of them."""

    code: str
    products: int
    pictures: int
    examples: tuple[Refusal, ...]


class SharedValue(msgspec.Struct, frozen=True, kw_only=True):
    """How many products share one value, and the first of them."""

    products: int
    shown: tuple[int, ...]


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """How many values are shared by two products or more, by how many products in all, and the most shared ones."""

    values: int
    products: int
    largest: tuple[SharedValue, ...]


class Placeholder(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, by its place in the folder, that many products of different titles (or item groups) share."""

    file: str
    products: int
    titles: int


class TextTokens(NamedTuple):
    """What a text encoder makes of one text: tokens, those that are of words, the unknown ones; and its words."""

    tokens: int
    pieces: int
    unknown: int
    words: int


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What a text encoder makes of `products`, some of the catalogue.

    Of all tokens, `unknown` is the share that stands for words it cannot spell. `pieces` is how many tokens a word
    has. `cut` is the share of the texts that have more than `max_tokens`.
    """

    max_tokens: int
    products: int
    unknown: float
    pieces: float
    cut: float
    lengths: Distribution


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was counted.

    `connected` are components of products that share a picture, a title or an item group, directly or through others:
    a split keeps each whole. `color_conflicts` are pictures whose products name different colours, `html_texts`
    products whose text holds HTML. Sizes are pixels, lengths are characters.
    """

    schema_version: int = 1
    catalog: str
    seed: int
    collection: Collection | None
    products: int
    pictures: int
    picture_bytes: int
    pictures_unreadable: int
    formats: dict[str, int]
    sizes: tuple[tuple[str, int], ...]
    columns: tuple[Column, ...]
    reasons: tuple[Reason, ...]
    html_texts: int
    categories: tuple[tuple[str, int], ...]
    colors: tuple[tuple[str, int], ...]
    title_chars: Distribution | None
    description_chars: Distribution | None
    pictures_per_product: Distribution | None
    shorter_side_px: Distribution | None
    same_picture: Shared
    same_title: Shared
    color_conflicts: Shared
    groups: Shared
    variants: Distribution | None
    connected: Shared
    components: int
    placeholders: tuple[Placeholder, ...]
    tokens: Tokens | None
    sample: tuple[int, ...]
