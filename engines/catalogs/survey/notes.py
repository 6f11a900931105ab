"""What stands out in a survey, in sentences: what will be hard to learn, and what to repair first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from engines.fields import NAMED_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engines.catalogs.survey.figures import Survey

FEW_PRODUCTS: Final = 1_000
SMALL_SIDE_PX: Final = 100
LARGE_SHARE: Final = 0.10

LARGEST_MAX_TOKENS: Final = 512
MANY_MISSING: Final = 0.2  # below a fifth, enough is left
MANY_UNKNOWN: Final = 0.01
MANY_PIECES: Final = 1.5  # most words of English are whole
MANY_CUT: Final = 0.05
SHOWN: Final = 12  # columns in a sentence

_ENGLISH = "which is English: a translated feed, or a family whose checkpoint knows the language, will do better."
_STRUCTURE = ("item_group_id", "price", "additional_image_link")
_NEEDED = {
    "title": "products are told apart by their ids only, and a text says little.",
    "product_type": "no wrong pictures of the same category can be made to learn from.",
    "color": "no wrong pictures of another color can be made to learn from, but for what titles say.",
}
_VISIBLE = ("color", "product_type", "material", "pattern")
"""What a picture can contradict: an attribute that no product names cannot be exchanged in training."""


class Note(NamedTuple):
    """One sentence; `tone` is `bad` where something should be done, else `plain`. `picture` is a file of the folder."""

    tone: str
    text: str
    picture: str = ""


def notes(survey: Survey) -> list[Note]:
    """Return what stands out, what needs doing first."""
    parts = (_size, _refused, _needed, _fields, _tokens, _pictures, _duplicates)
    found = [note for part in parts for note in part(survey)]
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
    again = sum(reason.products for reason in survey.reasons if reason.code == "id_duplicate")
    if again:
        yield Note(
            "plain",
            f"{again:,} rows have an id that a later row has again: the last one counts, as it does when published.",
        )
    if survey.pictures_unreadable:
        yield Note("bad", f"{survey.pictures_unreadable:,} pictures cannot be read; collect the folder again.")


def _needed(survey: Survey) -> Iterator[Note]:
    missing = _missing(survey)
    own = [column.name for column in survey.columns if column.text and column.name not in NAMED_FIELDS]
    among = f"; columns that may be it: {', '.join(own[:SHOWN])}" if own else ""
    for name, without in _NEEDED.items():
        if missing[name] == 1:
            yield Note(
                "bad",
                f"No column is read as {name}: {without} Say which one it is, as in --column {name}=COLUMN{among}.",
            )
    if MANY_MISSING < missing["title"] < 1:
        yield Note("bad", f"{missing['title']:.0%} of the products have no title.")


def _fields(survey: Survey) -> Iterator[Note]:
    missing = _missing(survey)
    absent = [name.replace("_", " ") for name in _VISIBLE if missing[name] == 1 and name not in _NEEDED]
    if absent:
        yield Note("plain", f"No product names its {_listed(absent)} in a column: only the title can say it.")
    for name in _VISIBLE:
        if MANY_MISSING < missing[name] < 1:
            yield Note("plain", f"{missing[name]:.0%} of the products have no {name.replace('_', ' ')}.")
    if survey.html_texts:
        yield Note(
            "plain",
            f"{survey.html_texts:,} products have HTML in their text: tags are left out, entities read as signs.",
        )
    unread = [column.name for column in survey.columns if not column.text and column.name not in _STRUCTURE]
    if unread:
        more = f" and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
        yield Note("plain", f"No text, since no picture shows it: {', '.join(unread[:SHOWN])}{more}.")
    if missing["item_group_id"] == 1:
        yield Note("plain", "No item groups: variants of one item are recognised by their titles only.")


def _tokens(survey: Survey) -> Iterator[Note]:
    read = survey.tokens
    if read is None:
        return
    if read.unknown > MANY_UNKNOWN:
        yield Note("bad", f"{read.unknown:.1%} of what the texts say is unknown to compact's text encoder, {_ENGLISH}")
    elif read.pieces > MANY_PIECES:
        yield Note("bad", f"Words fall into {read.pieces:.1f} pieces on average in compact's text encoder, {_ENGLISH}")
    if read.cut > MANY_CUT:
        enough = -(-int(read.lengths.p95) // 16) * 16
        kept = "keeps 95 % of all texts whole" if enough < LARGEST_MAX_TOKENS else "keeps more of them"
        yield Note(
            "bad" if read.cut > MANY_MISSING else "plain",
            f"{read.cut:.0%} of the texts have more than {read.max_tokens} tokens and lose their end: "
            f"--max-tokens {min(enough, LARGEST_MAX_TOKENS)} {kept}, and takes longer.",
        )


def _pictures(survey: Survey) -> Iterator[Note]:
    for one in survey.placeholders:
        yield Note(
            "bad",
            f"{one.products:,} products with {one.titles:,} different titles share the picture {one.file}: if it "
            "stands for one that is missing, take it out of the feed; an engine learns that it fits everything. As an "
            "additional picture (a size chart, a banner) it is left out.",
            one.file,
        )
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


def _missing(survey: Survey) -> dict[str, float]:
    """Return the share of products that lack each column."""
    return {column.name: column.missing / survey.products for column in survey.columns}


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
