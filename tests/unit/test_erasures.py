"""`streamer.erasures`: a list that tells who asks about a product, and nobody else."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from engines.catalogs import erased
from engines.errors import CatalogInvalid
from streamer.dataset import LabelDataset
from streamer.erasures import Erasures
from streamer.errors import FatalError, TransientError
from streamer.labels import Joined
from tests.review import ITEM, LABEL, PICTURE

if TYPE_CHECKING:
    from pathlib import Path

MUG = hashlib.sha256(b"mug-blue").hexdigest()


@pytest.fixture
def erasures(store_url: str) -> Erasures:
    """Give an empty list of each kind."""
    return Erasures(store_url)


def test_list_has_what_was_added_until_it_is_removed(erasures: Erasures) -> None:
    """However often either is done."""
    assert (erasures.all(), "mug-blue" in erasures) == (frozenset(), False)
    for _ in range(2):
        erasures.add("mug-blue")
    erasures.add("mug/red")
    assert erasures.all() == {MUG, hashlib.sha256(b"mug/red").hexdigest()}
    assert ("mug-blue" in erasures, "mug-green" in erasures) == (True, False)
    assert [erasures.remove("mug-blue") for _ in range(2)] == [True, False]
    assert "mug-blue" not in erasures
    assert len(erasures.all()) == 1


def test_list_stands_beside_the_data_set_and_outlives_its_erasures(tmp_path: Path) -> None:
    """By a digest, in an empty file: the tidying of the data set leaves it, and a listing of names shows no id."""
    url = str(tmp_path / "labels")
    dataset, erasures = LabelDataset(url), Erasures(url)
    dataset.keep(ITEM.image_sha256, lambda: PICTURE)
    dataset.write({Joined(LABEL, ITEM).key: Joined(LABEL, ITEM)})
    erasures.add(ITEM.product_id)
    dataset.erase(ITEM.product_id)
    assert (tmp_path / "labels" / "erased" / MUG).read_bytes() == b""
    assert erasures.all() == {MUG}
    assert not [path for path in tmp_path.rglob("*") if ITEM.product_id in path.name]


def test_list_that_cannot_be_reached_is_for_later(tmp_path: Path) -> None:
    """It raises what is tried again; a URL that nothing knows is the settings' fault."""
    (tmp_path / "erased").write_bytes(b"in the way")
    with pytest.raises(TransientError) as caught:
        Erasures(str(tmp_path)).add("mug-blue")
    assert caught.value.code == "store_unavailable"
    with pytest.raises(FatalError):
        Erasures("nosuch://bucket")


def test_list_as_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """As a training program is given it; one that is not there is an error, not an empty list."""
    path = tmp_path / "erased.txt"
    for digests in (frozenset[str](), frozenset({MUG, erased.digest("mug-red")})):
        erased.write(path, digests)
        assert erased.read(path) == digests
    with pytest.raises(CatalogInvalid, match=r"none\.txt"):
        erased.read(tmp_path / "none.txt")
