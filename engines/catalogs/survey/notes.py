"""What stands out in a survey, in sentences: what will be hard to learn, and what to repair first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engines.catalogs.survey.figures import Survey

FEW_PRODUCTS: Final = 1_000
SMALL_SIDE_PX: Final = 100
LARGE_SHARE: Final = 0.10

_VISIBLE = ("color", "product_type", "material", "pattern")
"""What a picture can contradict: an attribute that no product names cannot be exchanged in training."""


class Note(NamedTuple):
    """One sentence; `tone` is `bad` where something should be done, else `plain`."""

    tone: str
    text: str


def notes(survey: Survey) -> list[Note]:
    """Return what stands out, what needs doing first."""
    found = [*_size(survey), *_refused(survey), *_fields(survey), *_pictures(survey), *_duplicates(survey)]
    return sorted(found, key=lambda note: note.tone != "bad")


def _size(survey: Survey) -> Iterator[Note]:
    if survey.products < FEW_PRODUCTS:
        yield Note("bad", f"Only {survey.products:,} products: below {FEW_PRODUCTS:,} an engine learns little.")


def _refused(survey: Survey) -> Iterator[Note]:
    collection = survey.collection
    if collection is not None and collection.refused:
        share = collection.refused / collection.rows
        common = max(survey.reasons, key=lambda reason: reason.products).code.replace("_", " ")
        tone = "bad" if share > LARGE_SHARE else "plain"
        yield Note(
            tone, f"{collection.refused:,} of {collection.rows:,} rows ({share:.1%}) were refused, most for: {common}."
        )
    if survey.pictures_unreadable:
        yield Note("bad", f"{survey.pictures_unreadable:,} pictures cannot be read; collect the folder again.")


def _fields(survey: Survey) -> Iterator[Note]:
    missing = {column.name: column.missing / survey.products for column in survey.columns}
    absent = [name.replace("_", " ") for name in _VISIBLE if missing[name] == 1]
    if absent:
        yield Note("plain", f"No product names its {_listed(absent)} in a column: only the title can say it.")
    for name in _VISIBLE:
        if 0.2 < missing[name] < 1:  # noqa: PLR2004 - below a fifth, enough is left
            yield Note("plain", f"{missing[name]:.0%} of the products have no {name.replace('_', ' ')}.")
    if survey.html_texts:
        yield Note(
            "plain", f"{survey.html_texts:,} products have HTML in their text: tags and entities are read as words."
        )
    if missing["item_group_id"] == 1:
        yield Note("plain", "No item groups: variants of one item are recognised by their titles only.")


def _pictures(survey: Survey) -> Iterator[Note]:
    side = survey.shorter_side_px
    if side is not None and side.median < SMALL_SIDE_PX:
        yield Note("bad", f"Half of the pictures are less than {SMALL_SIDE_PX} pixels on a side: detail is lost.")


def _duplicates(survey: Survey) -> Iterator[Note]:
    conflicts, largest = survey.color_conflicts, next(iter(survey.connected.largest), None)
    if conflicts.values:
        yield Note(
            "bad",
            f"{conflicts.values:,} pictures are the first picture of products that name different colours "
            f"({conflicts.products:,} products): unless it shows them all, some of these texts are wrong.",
        )
    if survey.connected.products:
        share = survey.connected.products / survey.products
        yield Note(
            "plain",
            f"{survey.connected.products:,} products ({share:.0%}) share a picture, a title or an item group with "
            "others: they stay on one side of the split.",
        )
    if largest is not None and largest.products > LARGE_SHARE * survey.products:
        yield Note("bad", f"{largest.products:,} products hang together: the split cannot be even.")


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
