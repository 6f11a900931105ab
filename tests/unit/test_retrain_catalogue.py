"""`engines.build.retrain.catalogue`: what was erased is in no part; how much of it weights know is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from rich.progress import Progress

from engines import releases
from engines.build import held_out
from engines.build.held_out import HeldOutProducts
from engines.build.recipe import RetrainRecipe
from engines.build.retrain import catalogue, facts
from engines.build.retrain.facts import Retraining
from engines.catalogs import erased
from engines.contract import ImageSpec
from engines.errors import CatalogInvalid
from tests import retraining, tiny_release

if TYPE_CHECKING:
    from pathlib import Path

    from engines.build.retrain.catalogue import Parts
    from engines.contract import Manifest

PRODUCTS = 180
VALIDATION, TEST = range(30), range(30, 60)
"""Tiles that the champion holds out."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Manifest]:
    """A folder of tiles, a champion that holds some of them out, and its manifest."""
    folder = tmp_path_factory.mktemp("world")
    retraining.write_catalogue(folder / "shop", count=PRODUCTS)
    champion = tiny_release.write(folder / "made", size=retraining.SIDE, with_golden=False)
    known = HeldOutProducts(validation=marks(VALIDATION), test=marks(TEST))
    (champion / releases.HELD_OUT_FILE).write_bytes(held_out.encode(known))
    manifest = releases.read_manifest(champion)
    manifest = msgspec.structs.replace(
        manifest,
        image=ImageSpec(height=retraining.SIDE, width=retraining.SIDE),
        files=manifest.files | {releases.HELD_OUT_FILE: "of no account here"},
    )
    return folder / "shop", champion, manifest


def marks(numbers: range) -> frozenset[str]:
    """Return what tiles are called in `held-out.json`."""
    return frozenset(held_out.mark(f"tile-{number}") for number in numbers)


def digests(*numbers: int) -> frozenset[str]:
    """Return what tiles are called on the list of erased ones."""
    return frozenset(erased.digest(f"tile-{number}") for number in numbers)


def gather(world: tuple[Path, Path, Manifest], without: frozenset[str]) -> Parts:
    """Return the parts of the folder."""
    folder, champion, manifest = world
    with Progress(disable=True) as progress:
        return catalogue.gather(
            folder, champion, manifest, products=20, held_out_products=20, progress=progress, without=without
        )


def test_erased_products_are_in_no_part(world: tuple[Path, Path, Manifest]) -> None:
    """Neither replayed, nor chosen thresholds with, nor measured on; all others are where they were."""
    before = gather(world, erased.NOTHING)
    parts = gather(world, digests(3, 33, 90) | {erased.digest("elsewhere")})
    for part, gone in (("validation", {"tile-3"}), ("test", {"tile-33"}), ("training", {"tile-90"})):
        ids = {product.id for product in getattr(parts, part).products}
        assert ids == {product.id for product in getattr(before, part).products} - gone
        assert len(ids) < len(getattr(before, part).products)


def test_catalogue_of_which_too_much_was_erased_is_not_measured_on(world: tuple[Path, Path, Manifest]) -> None:
    """Figures of a handful of products would decide."""
    with pytest.raises(CatalogInvalid, match="each needs 20"):
        gather(world, digests(*range(30, 45)))


def test_share_of_what_was_erased_is_taken_over_and_added_to(
    world: tuple[Path, Path, Manifest], tmp_path: Path
) -> None:
    """Three of 60 that are held out: weights know about as much of it; what an earlier champion knew stays known."""
    folder, champion, manifest = world
    lists = tmp_path / "erased.txt"
    erased.write(lists, digests(3, 4, 33, 90))
    run = Retraining(
        champion=champion, labels=tmp_path, work=tmp_path, catalog=folder, erased=lists, recipe=RetrainRecipe(seed=0)
    )
    assert facts.erased_share(run, manifest) == pytest.approx(3 / 60)
    later = msgspec.structs.replace(manifest, provenance={"erased_share": 0.2})
    assert facts.erased_share(run, later) == pytest.approx(1 - 0.8 * 57 / 60)
    old = msgspec.structs.replace(manifest, files={})
    assert facts.erased_share(run, old) is None
    drawn = Retraining(champion=champion, labels=tmp_path, work=tmp_path, recipe=RetrainRecipe(seed=0))
    assert facts.erased_share(drawn, old) == 0
