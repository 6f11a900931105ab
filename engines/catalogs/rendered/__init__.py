"""A catalogue that needs no data: products drawn from a seed, and the text that a shop would write about them.

    attributes ──► products ──► wording      what is sold, in which variants, and what is said about it
                      └──────► photo ──► sprite ──► finishes, prints, shapes ; scene      what it looks like

Sold variants of one item differ in exactly one attribute, so a variant's photo under its sibling's text is the hardest
mismatch that a person can still see.
"""

from engines.catalogs.rendered.photo import SIZE, draw, jpeg, write_folder
from engines.catalogs.rendered.products import RenderedProduct, differing_attribute, render_catalog, siblings

__all__ = [
    "SIZE",
    "RenderedProduct",
    "differing_attribute",
    "draw",
    "jpeg",
    "render_catalog",
    "siblings",
    "write_folder",
]
