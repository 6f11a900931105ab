"""`streamer.catalogs`: a folder catalogue as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.catalogs.folder import CATALOG_FILE
from streamer.catalogs import CatalogWriter, RowOutcome
from streamer.errors import FatalError
from streamer.pictures import PARTIAL_FOLDER

FULL = Path("/dev/full")  # every write fails as on a full disk


def full_disk(folder: Path) -> Path:
    """Return a folder whose catalogue has no room."""
    (folder / PARTIAL_FOLDER).mkdir()
    (folder / PARTIAL_FOLDER / CATALOG_FILE).symlink_to(FULL)
    return folder


def write_and_fail(folder: Path) -> None:
    """Write a line that only closing the file brings to the disk, and end by another error."""
    with CatalogWriter(folder) as catalog:
        catalog.write(RowOutcome({"id": "1"}, []))
        raise FatalError("feed_unusable", "the first")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")
def test_writer_on_a_full_disk_says_so(tmp_path: Path) -> None:
    """The last lines are written when the file is closed: that they have no room is told like any other write."""
    with (
        pytest.raises(FatalError) as caught,
        CatalogWriter(full_disk(tmp_path)) as catalog,
    ):
        catalog.write(RowOutcome({"id": "1"}, []))
    assert caught.value.code == "out_unusable"


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")
def test_writer_closed_by_an_error_on_a_full_disk_keeps_the_error(tmp_path: Path) -> None:
    """What went wrong first is what is told."""
    with pytest.raises(FatalError, match="the first"):
        write_and_fail(full_disk(tmp_path))
