"""Draws a catalogue folder whose every twentieth product shows a look-alike: python sample_catalogue.py DIR."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from engines.catalogs.rendered import render_catalog, siblings, write_folder

PRODUCTS = 500
SEED = 2_000_000  # far from those that engines are trained on
EVERY = 20


def main(folder: Path) -> None:
    """Write `catalog.jsonl` and `images/` into the folder."""
    products = render_catalog(PRODUCTS, SEED)
    write_folder(products, folder)
    alike = siblings(products)
    for product in products[::EVERY]:
        for other in alike.get(product.id, ())[:1]:
            shutil.copyfile(folder / f"images/{other}.jpg", folder / f"images/{product.id}.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
