"""Pinned labels → products with their pictures, apart by what they are for. What is held out is held out for ever.

Where an item belongs is decided by a hash of its group, so the same product and its variants are in the same part in
every run: neither this challenger nor any champion before it was trained on what they are measured on. What shows a
picture that a held-out item shows is not trained on either.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engines.build.dataset import Catalog, Product
from engines.build.evaluate import MATCH, OTHER, Pairs
from engines.build.gather import FOLDER_FACETS, decode_pictures
from engines.build.retrain import votes as voting
from engines.catalogs.groups import connected
from engines.catalogs.judged import image_path, read_judged
from engines.errors import LabelsInvalid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.retrain.votes import Reviewed, Votes
    from engines.catalogs.judged import Judged
    from engines.contract import ImageSpec

TRAINING, VALIDATION, TEST = "training", "validation", "test"
SHARES: Final = ((TEST, 0.3), (VALIDATION, 0.2), (TRAINING, 0.5))

_EVEN: Final = 0.5

SURELY_RIGHT: Final = 0.1
"""Below this an item is taken for a match, whose text may be compared with other pictures, too."""


@dataclass(frozen=True)
class Confirmed:
    """Items that people have judged, each a product with the one picture that was scored.

    Attributes:
        catalog: N products.
        votes: of them.
        part: (N,), which of `SHARES` each belongs to, "" for those that are left out.
        judged: as they were pinned.
    """

    catalog: Catalog
    votes: Votes
    part: NDArray[np.str_]
    judged: tuple[Judged, ...]

    @property
    def categories(self) -> NDArray[np.str_]:
        """Return the top-level category of each, (N,)."""
        return np.array([item.category or "" for item in self.judged], dtype=np.str_)

    @property
    def audited(self) -> NDArray[np.bool_]:
        """Return which were drawn by chance, whatever the engine said of them, (N,)."""
        return np.array([item.sampled == "audit" for item in self.judged], dtype=np.bool_)

    def rows(self, chosen: NDArray[np.bool_]) -> Confirmed:
        """Return some of the items."""
        (numbers,) = np.nonzero(chosen)
        votes = self.votes._replace(mismatch=self.votes.mismatch[chosen], weight=self.votes.weight[chosen])
        judged = tuple(self.judged[i] for i in numbers.tolist())
        return replace(
            self, catalog=self.catalog.subset(numbers.tolist()), votes=votes, part=self.part[chosen], judged=judged
        )


def read_confirmed(
    folder: Path, *, image: ImageSpec, progress: Progress, reviewed: Reviewed = voting.EVERYTHING
) -> Confirmed:
    """Return the items of a pinned data set, their pictures through `engines.image` as scorers see them.

    Raises:
        LabelsInvalid: the folder cannot be read, or nobody has judged anything.
    """
    judged = [item for item in read_judged(folder) if item.mismatches + item.matches]
    if not judged:
        raise LabelsInvalid("nobody has judged anything yet: there is nothing to learn from", code="labels_too_few")
    files = [image_path(folder, item.image_sha256) for item in judged]
    pictures = decode_pictures(files, image=image, progress=progress)
    identities = connected([[("image", i.image_sha256), _said(i)] for i in judged])
    products = tuple(
        _product(item, identity, int(side))
        for item, identity, side in zip(judged, identities, pictures.shorter_side_px, strict=True)
    )
    catalog = Catalog(products, FOLDER_FACETS, pictures.pixels, np.arange(len(products)))
    votes = voting.count(judged, reviewed=reviewed)
    return Confirmed(catalog, votes, _parts(judged), tuple(judged))


class LabelPairs(NamedTuple):
    """Items as pairs of their own text and picture; M of them.

    weights: (M,), how much each counts. likely: (M,), whether it is what its item is more likely than not.
    """

    pairs: Pairs
    weights: NDArray[np.float64]
    likely: NDArray[np.bool_]


def pairs_of(confirmed: Confirmed) -> LabelPairs:
    """Return each item's own text and picture, and how much each pair counts.

    An item that is a mismatch with a likelihood of 0.8 stands there twice: as a mismatch with 0.8 of its weight, and as
    a match with 0.2. So no item has to be declared certain, and figures are right on average.
    """
    likely, weight = confirmed.votes.mismatch, confirmed.votes.weight
    counted = np.concatenate([weight * (1 - likely), weight * likely])
    (rows,) = np.nonzero(counted)
    item = np.tile(np.arange(len(likely)), 2)[rows]
    label = np.repeat([0, 1], len(likely))[rows]
    pairs = Pairs(
        product=item, picture=item, label=label.astype(np.int64), difference=np.where(label == 1, OTHER, MATCH)
    )
    return LabelPairs(pairs, counted[rows] * len(rows) / counted.sum(), (likely[item] >= _EVEN) == (label == 1))


def part_of(group: str) -> str:
    """Return which part a group belongs to, now and in every run to come."""
    place = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    for part, share in SHARES:
        if place < share:
            return part
        place -= share
    return TRAINING


def _parts(judged: list[Judged]) -> NDArray[np.str_]:
    """Return each item's part, "" where training would show what another part holds."""
    own = [part_of(item.group) for item in judged]
    held = {item.image_sha256 for item, part in zip(judged, own, strict=True) if part != TRAINING}
    return np.array(
        ["" if part == TRAINING and i.image_sha256 in held else part for i, part in zip(judged, own, strict=True)],
        dtype=np.str_,
    )


def _said(item: Judged) -> tuple[str, str, str]:
    """Return what items that say the same have in common, as in a catalogue folder."""
    return ("title", item.fields.get("title", item.item_id).casefold(), item.fields.get("color", ""))


def _product(item: Judged, identity: int, shorter_side_px: int) -> Product:
    return Product(
        fields=item.fields,
        facets=tuple(item.fields.get(name, "").casefold() for name in FOLDER_FACETS),
        identity=identity,
        group=item.group,
        category=item.fields.get("product_type", item.category or ""),
        id=item.item_id,
        columns=item.columns,
        shorter_side_px=shorter_side_px,
    )
