"""Whether the disks have room for what is about to be written: a run that ends after an hour with a full disk is lost.

No torch.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from engines.errors import DiskTooSmall

if TYPE_CHECKING:
    from collections.abc import Sequence

_GB: Final = 1e9
_MARGIN: Final = 1.05  # of what is needed: checkpoints are written there, too


class Need(NamedTuple):
    """What will be written, where, and what a person sets to have it written elsewhere."""

    what: str
    folder: Path
    size_bytes: int
    setting: str


def require(needs: Sequence[Need]) -> None:
    """Return if every disk has room for all that will be written to it.

    Raises:
        DiskTooSmall: one has not; the message says what needs how much where, and what to set.
    """
    disks: defaultdict[int, list[Need]] = defaultdict(list)
    for need in needs:
        disks[_standing(need.folder).stat().st_dev].append(need)
    for sharing in disks.values():
        free = shutil.disk_usage(_standing(sharing[0].folder)).free
        if _MARGIN * sum(need.size_bytes for need in sharing) > free:
            each = " and ".join(f"{n.what} {n.size_bytes / _GB:.1f} GB in {n.folder} ({n.setting})" for n in sharing)
            settings = " or ".join(dict.fromkeys(need.setting for need in sharing))
            raise DiskTooSmall(
                f"{each}, where {free / _GB:.1f} GB are free: free some, or set {settings} to a folder on a larger "
                "disk, and run again"
            )


def taken(folder: Path) -> int:
    """Return how many bytes a folder's files have, which will be written over."""
    return sum(file.stat().st_size for file in folder.glob("*") if file.is_file())


def _standing(folder: Path) -> Path:
    """Return the folder, or the one above it that is there."""
    whole = Path(os.path.abspath(folder))  # noqa: PTH100 - symbolic links are followed by `stat`
    return next(path for path in (whole, *whole.parents) if path.exists())
