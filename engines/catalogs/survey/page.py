"""The survey's page: one HTML file that needs nothing from outside.

Product text is untrusted: Jinja2 escapes all of it, and the only ready-made markup is the charts', which hold numbers.
"""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, ImageColor, ImageOps

from engines.catalogs.survey.charts import histogram
from engines.catalogs.survey.notes import Note, notes

if TYPE_CHECKING:
    from engines.catalogs.folder import CatalogItem
    from engines.catalogs.survey.figures import Distribution, Shared, Survey
    from engines.catalogs.survey.products import Products

SAMPLE_PX: Final = 220
SMALL_PX: Final = 112
JPEG_QUALITY: Final = 80
MAX_TEXT_CHARS: Final = 160  # of a title or a value on the page

_CHIPS = ("color", "product_type", "brand")
_DISTRIBUTIONS = (
    ("title_chars", "Title", "characters", "products"),
    ("description_chars", "Description", "characters", "products"),
    ("pictures_per_product", "Pictures of a product", "pictures", "products"),
    ("shorter_side_px", "Shorter side of a picture", "pixels", "pictures"),
)

_GROUPS = "Variants of one item: the hardest wrong pictures are made by exchanging theirs."
_PICTURES = "The same file, byte for byte. Such products are never taken for each other's mismatch."
_CONFLICTS = (
    "The same first picture under different colours: at most one of the texts can be right, unless it shows all."
)
_TITLES = "The same words, upper and lower case alike. A split keeps them together."


class Card(NamedTuple):
    """A product ready for the page; the picture is a data URL, None where it cannot be read."""

    id: str
    title: str
    chips: list[str]
    picture: str | None


class Cluster(NamedTuple):
    """Products that share something, and how many they are in all."""

    products: int
    cards: list[Card]


class Chart(NamedTuple):
    """A distribution in words and as a picture; none where all are the same."""

    title: str
    unit: str
    figures: Distribution
    svg: Markup | None


class Section(NamedTuple):
    """What products share, in one section of the page."""

    title: str
    name: str
    unit: str
    lead: str
    shared: Shared
    clusters: list[Cluster]


def render(survey: Survey, products: Products) -> str:
    """Return the page; `products` are those of the survey."""
    environment = Environment(
        loader=PackageLoader("engines", "catalogs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("survey/survey.html.j2").render(_context(survey, products))


def _context(survey: Survey, products: Products) -> dict[str, Any]:
    return {
        "s": survey,
        "swatch": swatch,
        "notes": [(note, _note_picture(note, products)) for note in notes(survey)],
        "charts": _charts(survey),
        "variants": _chart("Variants of an item group", "variants", "groups", survey.variants),
        "sections": [
            Section(title, name, unit, lead, shared, _clusters(shared, products))
            for title, name, unit, lead, shared in (
                ("Item groups", "groups", "groups", _GROUPS, survey.groups),
                ("One picture, several products", "pictures", "pictures", _PICTURES, survey.same_picture),
                ("One picture, several colours", "conflicts", "pictures", _CONFLICTS, survey.color_conflicts),
                ("One title, several products", "titles", "titles", _TITLES, survey.same_title),
            )
        ],
        "sample": [_card(products[index], SAMPLE_PX) for index in survey.sample],
    }


def _note_picture(note: Note, products: Products) -> str | None:
    return thumbnail(str(products.folder / note.picture), SMALL_PX) if note.picture else None


def _charts(survey: Survey) -> list[Chart]:
    charts = (_chart(title, x, y, getattr(survey, name)) for name, title, x, y in _DISTRIBUTIONS)
    return [chart for chart in charts if chart is not None]


def _chart(title: str, x: str, y: str, figures: Distribution | None) -> Chart | None:
    if figures is None:
        return None
    if figures.minimum == figures.maximum:
        return Chart(title, x, figures, None)
    return Chart(title, x, figures, Markup(histogram(figures, x=x, y=y, label=title)))  # noqa: S704 - numbers only


def _clusters(shared: Shared, products: Products) -> list[Cluster]:
    return [
        Cluster(value.products, [_card(products[index], SMALL_PX) for index in value.shown]) for value in shared.largest
    ]


def _card(item: CatalogItem, size_px: int) -> Card:
    chips = [item.fields[name][:MAX_TEXT_CHARS] for name in _CHIPS if name in item.fields]
    title = item.fields.get("title", "")[:MAX_TEXT_CHARS]
    return Card(item.id[:MAX_TEXT_CHARS], title, chips, thumbnail(str(item.image_path), size_px))


@cache
def thumbnail(path: str, size_px: int) -> str | None:
    """Return the picture upright, on white, at most `size_px` a side, as a data URL; None where it cannot be read."""
    try:
        with Image.open(Path(path)) as image:
            image.draft("RGB", (size_px, size_px))
            small = ImageOps.exif_transpose(image).convert("RGBA")
    except Exception:  # noqa: BLE001 - Pillow raises anything on hostile bytes; the survey has counted them
        return None
    small.thumbnail((size_px, size_px))
    canvas = Image.new("RGBA", small.size, "white")
    canvas.alpha_composite(small)
    buffer = io.BytesIO()
    canvas.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def swatch(name: str) -> str | None:
    """Return the colour that a text names as #rrggbb, or None: `Navy Blue` → #000080."""
    words = name.casefold().replace("-", " ").replace("/", " ").split()[:4]
    for candidate in ("".join(words), *words):
        if candidate.isalpha():
            try:
                red, green, blue = ImageColor.getrgb(candidate)[:3]
            except ValueError:
                continue
            return f"#{red:02x}{green:02x}{blue:02x}"
    return None
