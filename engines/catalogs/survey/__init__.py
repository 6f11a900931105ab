"""What a catalogue folder holds, counted and shown before anything is trained on it: `index.html` and `survey.json`.

Needs jinja2 and matplotlib, which the extras `train` and `demo` bring.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from engines.catalogs.collection import Refusal, read_collection, read_refusals
from engines.catalogs.groups import connected
from engines.catalogs.survey.counts import TOP, PictureTally, ProductTally, distribution, shared
from engines.catalogs.survey.figures import Reason, Survey, TextTokens, Tokens
from engines.catalogs.survey.page import render
from engines.catalogs.survey.products import Products

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.progress import Progress

PAGE_FILE: Final = "index.html"
FIGURES_FILE: Final = "survey.json"
EXAMPLES: Final = 4  # of each reason for a refusal
SAMPLES: Final = 48
READ: Final = 2000  # products, as an engine would: enough for shares


@dataclass(frozen=True)
class Reading:
    """How texts are read: what counts the tokens of products, and how many of a text are kept."""

    count: Callable[[Sequence[Mapping[str, str]]], list[TextTokens]]
    max_tokens: int


def write_survey(folder: Path, out: Path, *, progress: Progress, seed: int = 0) -> Path:
    """Survey the catalogue folder and what was refused, write both files into `out`, and return the page.

    Raises:
        CatalogInvalid: the folder, or the record of what was refused, cannot be read.
    """
    return write_page(take_survey(folder, progress=progress, seed=seed), folder, out)


def write_page(survey: Survey, folder: Path, out: Path) -> Path:
    """Write the survey of a folder into `out`, page and figures, and return the page.

    Raises:
        CatalogInvalid: a product that it shows cannot be read any more.
    """
    page = render(survey, Products(folder))
    out.mkdir(parents=True, exist_ok=True)
    figures = msgspec.json.format(msgspec.json.encode(survey), indent=2)
    for name, content in ((FIGURES_FILE, figures), (PAGE_FILE, page.encode())):
        partial = out / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(out / name)
    return out / PAGE_FILE


def take_survey(folder: Path, *, progress: Progress, seed: int = 0, reading: Reading | None = None) -> Survey:
    """Return the figures; SAMPLES products are drawn for a look, the same for the same seed.

    With a `reading`, READ of them are read as an engine would.

    Raises:
        CatalogInvalid: as `write_survey`.
    """
    products = Products(folder)
    tally, pictures = ProductTally(), PictureTally()
    for item in progress.track(products, total=len(products), description="surveying products"):
        tally.add(item)
    for path in progress.track(list(tally.picture_paths.values()), description="surveying pictures"):
        pictures.add(path)
    components = connected(tally.connecting_keys())
    order = np.random.default_rng(seed).permutation(len(products)).tolist()
    collection = read_collection(folder)
    return Survey(
        catalog=folder.resolve().name if collection is None else Path(collection.feed).name,
        seed=seed,
        collection=collection,
        products=len(products),
        pictures=len(tally.picture_paths),
        picture_bytes=pictures.bytes,
        pictures_unreadable=pictures.unreadable,
        formats=dict(pictures.formats.most_common()),
        sizes=tuple(pictures.sizes.most_common(TOP)),
        columns=tally.columns(),
        reasons=_reasons(folder),
        html_texts=tally.html_texts,
        categories=tally.top("product_type"),
        colors=tally.top("color"),
        title_chars=distribution(tally.title_chars),
        description_chars=distribution(tally.description_chars),
        pictures_per_product=distribution(tally.own_pictures),
        shorter_side_px=distribution(pictures.shorter_sides),
        same_picture=tally.same_picture(),
        same_title=tally.same_title(),
        color_conflicts=tally.color_conflicts(),
        groups=tally.groups(),
        variants=distribution(tally.variants()),
        connected=shared(range(len(components)), components),
        components=len(set(components)),
        placeholders=tally.placeholders(folder),
        tokens=None if reading is None else _tokens([products[index].fields for index in order[:READ]], reading),
        sample=tuple(sorted(order[:SAMPLES])),
    )


def _tokens(products: Sequence[Mapping[str, str]], reading: Reading) -> Tokens | None:
    read = reading.count(products)
    lengths = distribution([one.tokens for one in read])
    if lengths is None:
        return None
    pieces = max(1, sum(one.pieces for one in read))
    return Tokens(
        max_tokens=reading.max_tokens,
        products=len(read),
        unknown=sum(one.unknown for one in read) / pieces,
        pieces=pieces / max(1, sum(one.words for one in read)),
        cut=sum(one.tokens > reading.max_tokens for one in read) / len(read),
        lengths=lengths,
    )


def _reasons(folder: Path) -> tuple[Reason, ...]:
    """Return what was refused by code, the most frequent first."""
    found: dict[str, tuple[list[int], list[Refusal]]] = {}
    for refusal in read_refusals(folder):
        counts, examples = found.setdefault(refusal.reason, ([0, 0], []))
        counts[refusal.product_kept] += 1
        if len(examples) < EXAMPLES:
            examples.append(refusal)
    reasons = [
        Reason(code=code, products=counts[0], pictures=counts[1], examples=tuple(examples))
        for code, (counts, examples) in found.items()
    ]
    return tuple(sorted(reasons, key=lambda reason: -(reason.products + reason.pictures)))
