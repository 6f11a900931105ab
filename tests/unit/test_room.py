"""`engines.build.room`: a disk that is too small is told before anything is written to it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest
from rich.progress import Progress

from engines.build import features, room
from engines.build.gather import gather_parts
from engines.build.room import Need
from engines.catalogs import rendered
from engines.contract import ImageSpec
from engines.errors import DiskTooSmall

if TYPE_CHECKING:
    from pathlib import Path

GB = 10**9


class Usage(NamedTuple):
    """As `shutil` has it."""

    total: int
    used: int
    free: int


@pytest.fixture(name="free_gb")
def of_ten_gb(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have 10 GB free everywhere."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(20 * GB, 10 * GB, 10 * GB))
    return 10


def test_disk_with_room_is_enough(tmp_path: Path, free_gb: int) -> None:
    """Folders that nobody has made yet stand on the disk of those that are there."""
    room.require([Need("features", tmp_path / "out/work", (free_gb - 1) * GB, "--work")])


def test_disk_that_two_share_needs_room_for_both(tmp_path: Path, free_gb: int) -> None:
    """The message says what needs how much where, how much there is, and what to set."""
    needs = [
        Need("decoded pictures", tmp_path, 6 * GB, "TMPDIR"),
        Need("features", tmp_path / "work", 5 * GB, "--work"),
    ]
    with pytest.raises(DiskTooSmall) as caught:
        room.require(needs)
    said = str(caught.value)
    for part in (
        f"decoded pictures 6.0 GB in {tmp_path} (TMPDIR)",
        f"features 5.0 GB in {tmp_path}/work (--work)",
        f"{free_gb}.0 GB are free",
        "set TMPDIR or --work",
    ):
        assert part in said
    for need in needs:
        room.require([need])


def test_files_that_are_written_over_are_room(tmp_path: Path) -> None:
    """A run that goes on does not need its features a second time."""
    (tmp_path / "final.npy").write_bytes(bytes(1000))
    (tmp_path / "made-of").write_bytes(bytes(10))
    (tmp_path / "folder").mkdir()
    assert room.taken(tmp_path) == 1010
    assert room.taken(tmp_path / "none") == 0


def test_pictures_without_room_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would end half way is refused at once, by the name of the variable."""
    rendered.write_folder(rendered.render_catalog(400, 6), tmp_path / "shop", 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(GB, GB, 1000))
    monkeypatch.setattr("engines.build.gather.decode_pictures", lambda *_, **__: pytest.fail("decoded"))
    with Progress(disable=True) as progress, pytest.raises(DiskTooSmall, match="TMPDIR"):
        gather_parts(tmp_path / "shop", image=ImageSpec(height=8, width=8), seed=0, progress=progress)


def test_features_are_removed_and_nothing_else(tmp_path: Path) -> None:
    """Checkpoints stay, so that a finished run is not trained again."""
    for name in ("training", "test", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint.pt").touch()
    features.remove(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"other", "checkpoint.pt"}
