"""What the pages of `engines.build` share: one HTML file each, nothing from outside, product text escaped."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from engines import heat
from engines.contract import ImageSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog

PAGE_FILE: Final = "index.html"
MAX_TEXT_CHARS: Final = 160
PICTURE_PX: Final = 168
JPEG_QUALITY: Final = 80
_CHIPS: Final = ("color", "product_type", "brand")


class Explanation(NamedTuple):
    """Why a pair alerts: what its picture contradicts, in words, and where it does so first of all, if that was found.

    heat: float32 (G, G), see `engines.heat`.
    """

    contradicts: str = ""
    heat: NDArray[np.float32] | None = None


class Card(NamedTuple):
    """A pair ready for a page: what the text says, the picture shown, and what else there is to say of them."""

    id: str
    title: str
    chips: list[str]
    picture: str
    heat: str | None
    probability: float
    notes: list[str]


def write_page(template: str, context: Mapping[str, Any], out: Path, *, name: str = PAGE_FILE) -> Path:
    """Write a template's page into `out`, whole or not at all, and return its path.

    Args:
        template: `….html.j2`, whose values are escaped, or `….md.j2`, whose values are not.
        context: its values.
        out: a directory, made when missing.
        name: of the file.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("engines.build", "report"), PackageLoader("engines", "catalogs")]),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(context)
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{name}.partial"
    partial.write_text(page, encoding="utf-8")
    return partial.replace(out / name)


def card(
    catalog: Catalog,
    product: int,
    picture: int,
    probability: float,
    explanation: Explanation | None = None,
    *,
    notes: Sequence[str] = (),
) -> Card:
    """Return a product's text beside a picture, with what the engine thinks of the two."""
    one, pixels = catalog.products[product], catalog.pixel_values[picture]
    named, found = explanation or Explanation()
    said = [*notes, *([f"contradicts {named}"] if named else [])]
    return Card(
        id=one.id or str(product),
        title=one.fields.get("title", "")[:MAX_TEXT_CHARS],
        chips=[one.fields[name][:MAX_TEXT_CHARS] for name in _CHIPS if name in one.fields],
        picture=_data_url(pixels),
        heat=None if found is None else _overlay(found, pixels),
        probability=probability,
        notes=[note[:MAX_TEXT_CHARS] for note in said],
    )


def _overlay(found: NDArray[np.float32], pixels: NDArray[np.uint8]) -> str | None:
    """Return a heat map to lie on a picture as the engine sees it, uint8 (3, H, W)."""
    _, height, width = pixels.shape
    return heat.overlay(found, (width, height), ImageSpec(height=height, width=width))


def _data_url(pixels: NDArray[np.uint8]) -> str:
    """Return a picture, uint8 (3, H, W), as a data URL."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
