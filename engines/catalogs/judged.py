"""What people have said of what was scored, as a folder that a retraining reads: a label data set, pinned at a version.

    FOLDER/judged.jsonl      one Judged a line
    FOLDER/images/<sha256>   the pictures, as they were scored
    FOLDER/pinned.json       one Pinned; it is written last, so a folder that has it is complete

Written by `streamer.pinning` from the data set, read by `engines.build.retrain`.
"""

from __future__ import annotations

import os
from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from engines.errors import LabelsInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

JUDGED_FILE: Final = "judged.jsonl"
PINNED_FILE: Final = "pinned.json"
IMAGES_FOLDER: Final = "images"


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One product as it was scored, and what people say of it.

    `mismatches` and `matches` count people; those who are unsure are left out. `sampling_probability` is how likely it
    was that people saw the product: 1 for an alert.
    """

    item_id: str
    product_id: str
    item_group_id: str | None
    category: str | None
    fields: dict[str, str]
    columns: dict[str, Any]
    image_sha256: str
    release: str
    probability: float
    scored_at: datetime
    sampled: Literal["alert", "audit"]
    sampling_probability: float
    mismatches: int
    matches: int

    @property
    def group(self) -> str:
        """What is never split between training and measuring: a product and its variants."""
        return self.item_group_id or self.product_id


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """Which version of which data set the folder holds; `left_out` items are not in it, their pictures being gone."""

    dataset: str
    version: int
    items: int
    verdicts: int
    left_out: int = 0


def read_pinned(folder: Path) -> Pinned | None:
    """Return what the folder holds, None where it is not complete.

    Raises:
        LabelsInvalid: `pinned.json` cannot be read.
    """
    try:
        return msgspec.json.decode((folder / PINNED_FILE).read_bytes(), type=Pinned)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise LabelsInvalid(f"cannot read {folder / PINNED_FILE}: {error}; delete the folder and pin again") from error


def read_judged(folder: Path) -> list[Judged]:
    """Return all items of a pinned data set.

    Raises:
        LabelsInvalid: the folder is not complete, or a line is not a Judged.
    """
    if read_pinned(folder) is None:
        raise LabelsInvalid(f"{folder} holds no pinned labels: `streamer retrain` writes them")
    try:
        return msgspec.json.Decoder(Judged).decode_lines((folder / JUDGED_FILE).read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise LabelsInvalid(f"cannot read {folder / JUDGED_FILE}: {error}; delete the folder and pin again") from error


def image_path(folder: Path, sha256: str) -> Path:
    """Return where a picture stands."""
    return folder / IMAGES_FOLDER / sha256


def write_pinned(folder: Path, judged: Iterable[Judged], pinned: Pinned) -> None:
    """Write the items, then what they are; the pictures stand there already.

    Raises:
        OSError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoder = msgspec.json.Encoder()
    _write(folder / JUDGED_FILE, encoder.encode_lines(judged))
    _write(folder / PINNED_FILE, encoder.encode(pinned))


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
