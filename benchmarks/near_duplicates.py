"""How alike a picture and its copies look to ImageNet's weights, and how alike different products do.

    python benchmarks/near_duplicates.py CATALOG [--products 300] [--seed 0]

CATALOG is a folder as `streamer collect` writes it. Some products are drawn, their pictures saved again as shops and
image hosts do it (another quality, another size), and cosines taken as training takes them. A line of JSON for each
kind of copy: the share of copies whose cosine is above each threshold; a last one for each product's nearest other
one, whose label of color does not contradict. `engines.build.traits.NEAR_DUPLICATE` is chosen from it.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from engines.build.adapt_checkpoint import look
from engines.build.gather import gather_listed
from engines.build.listing import list_folder
from engines.build.traits import traits, unit
from engines.contract import ImageSpec
from engines.image import decode

if TYPE_CHECKING:
    from numpy.typing import NDArray

THRESHOLDS: Final = (0.95, 0.96, 0.97, 0.98, 0.99)
COPIES: Final = {
    "JPEG of quality 85": (1.0, 85),
    "JPEG of quality 40": (1.0, 40),
    "three quarters of the size, quality 85": (0.75, 85),
    "half the size, quality 85": (0.5, 85),
    "half the size, quality 40": (0.5, 40),
}
"""The factor on the sides, and the quality, with which a picture is saved again."""

_SPEC: Final = ImageSpec(height=256, width=256)
_MAX_PIXELS: Final = 100_000_000


def copied(file: Path, factor: float, quality: int) -> NDArray[np.uint8]:
    """Return a copy of a picture as an engine sees it, uint8 (3, 256, 256)."""
    with Image.open(file) as opened:
        width, height = (round(factor * side) for side in opened.size)
        content = io.BytesIO()
        opened.convert("RGB").resize((width, height)).save(content, "JPEG", quality=quality)
    return decode(content.getvalue(), _SPEC, max_pixels=_MAX_PIXELS)


def told(name: str, cosines: NDArray[np.floating]) -> str:
    """Return a line of the result."""
    above = {str(threshold): round(float((cosines > threshold).mean()), 3) for threshold in THRESHOLDS}
    return json.dumps({"pictures": name, "number": len(cosines), "least": round(float(cosines.min()), 3), **above})


def measure(
    catalog: Annotated[Path, typer.Argument(help="Folder with catalog.jsonl and the pictures it names.")],
    products: Annotated[int, typer.Option(help="How many are drawn.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Print how alike copies are, and how alike different products."""
    with Progress(console=Console(stderr=True)) as progress:
        listing = list_folder(catalog, progress)
        drawn = np.random.default_rng(seed).permutation(len(listing))[:products]
        chosen = listing.subset(drawn.tolist())
        known = gather_listed(chosen, image=_SPEC, progress=progress)
        looks = unit(look(known, progress))
        for name, (factor, quality) in COPIES.items():
            pixels = np.stack([copied(item.image_path, factor, quality) for item in chosen.items])
            again = replace(known, pixel_values=pixels, picture_owner=np.arange(len(pixels)))
            typer.echo(told(name, (looks * unit(look(again, progress))).sum(axis=1)))
    others, every = traits(known), np.arange(len(looks))
    apart = others.alike(others.identity, every) | others.contradicts(every)
    nearest = np.where(apart, -1.0, looks @ looks.T).max(axis=1)
    typer.echo(told("nearest other product", nearest))


if __name__ == "__main__":
    typer.run(measure)
