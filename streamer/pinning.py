"""A version of the label data set → a folder that training reads (`engines.catalogs.judged`), pictures and all."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from engines.catalogs import judged
from engines.catalogs.erased import NOTHING, digest
from engines.catalogs.judged import Judged, Pinned
from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from streamer.dataset import LabelDataset

log = structlog.get_logger(__name__)

_NO_LABELS: Final = "labels_missing"


def pin(
    dataset: LabelDataset,
    name: str,
    folder: Path,
    on_picture: Callable[[int, int], None],
    *,
    erased: frozenset[str] = NOTHING,
) -> Pinned:
    """Write the data set as it is now into a folder, and return what was written; pictures that are there are kept.

    Items whose pictures are gone are left out, told in the log, and counted in what is returned.

    Args:
        dataset: what is pinned.
        name: what it is called.
        folder: where it goes.
        on_picture: is given how many pictures are there, and how many there will be.
        erased: digests of products of which nothing is written, should their rows be there still.

    Raises:
        FatalError: labels_missing.
        TransientError: dataset_unavailable, store_unavailable.
    """
    version = dataset.version
    rows = [] if version is None else [row for row in dataset.rows(version) if digest(row["product_id"]) not in erased]
    if version is None or not rows:
        raise FatalError(_NO_LABELS, f"nobody has judged anything in {name} yet: `streamer labels` records verdicts")
    pictures = {row["image_sha256"]: row["image"] for row in rows}
    (folder / judged.IMAGES_FOLDER).mkdir(parents=True, exist_ok=True)
    gone = set()
    for number, (sha256, image) in enumerate(pictures.items(), start=1):
        path = judged.image_path(folder, sha256)
        if not path.exists() and not _copy(dataset.picture(image), path):
            gone.add(sha256)
        on_picture(number, len(pictures))
    kept = [row for row in rows if row["image_sha256"] not in gone]
    items = items_of(kept)
    left_out = len({row["item_id"] for row in rows}) - len(items)
    if left_out:
        log.warning("labels.left_out", items=left_out, pictures_gone=len(gone), dataset=name)
    pinned = Pinned(dataset=name, version=version, items=len(items), verdicts=len(kept), left_out=left_out)
    judged.write_pinned(folder, items, pinned)
    return pinned


def items_of(rows: Iterable[dict[str, Any]]) -> list[Judged]:
    """Return the items of rows that stand by item, with how many people say what."""
    return [_judged(list(votes)) for _, votes in itertools.groupby(rows, key=lambda row: row["item_id"])]


def _judged(votes: list[dict[str, Any]]) -> Judged:
    # The item may have been drawn again, with another chance, since the first of them.
    row = max(votes, key=lambda vote: vote["sampling_probability"])
    return Judged(
        item_id=row["item_id"],
        product_id=row["product_id"],
        item_group_id=row["item_group_id"],
        category=row["category"],
        fields=orjson.loads(row["fields"]),
        columns=orjson.loads(row["columns"]),
        image_sha256=row["image_sha256"],
        release=row["release"],
        probability=row["probability"],
        scored_at=row["scored_at"],
        sampled=row["sampled"],
        sampling_probability=row["sampling_probability"],
        mismatches=sum(vote["verdict"] == "mismatch" for vote in votes),
        matches=sum(vote["verdict"] == "match" for vote in votes),
    )


def _copy(content: bytes | None, path: Path) -> bool:
    if content is None:
        return False
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
    return True
