"""Whether there is a reason to retrain: somebody asks, drift does, or enough was judged since the last time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from streamer.dataset import LabelDataset
    from streamer.retrain_log import RetrainLog


class Answer(NamedTuple):
    """Whether there is a reason, and which one or why there is none, for people."""

    retrain: bool
    why: str


def reason(current: str, *, log: RetrainLog, dataset: LabelDataset, least: int) -> Answer:
    """Return whether there is a reason to go on from the release that runs.

    Args:
        current: its name.
        log: what was asked for, and how the last retraining ended.
        dataset: of labels.
        least: newly judged items that are one by themselves.

    Raises:
        TransientError: dataset_unavailable, store_unavailable.
    """
    wanted, last = log.pending(), log.last()
    if last is not None and (last.champion, last.dataset_version) == (current, dataset.version):
        return Answer(False, f"run {last.run} went on from {current} with the labels that there are")
    if wanted is not None and wanted.release in {None, current}:
        return Answer(True, f"{wanted.requested_by}: {wanted.reason}")
    new = _judged_since(dataset, None if last is None else last.began_at or last.ended_at)
    said = f"{new} items were judged since the last retraining"
    return Answer(True, said) if new >= least else Answer(False, f"{said}, {least} are awaited")


def _judged_since(dataset: LabelDataset, moment: datetime | None) -> int:
    """Return how many items somebody was sure of after that, and nobody before; all if it is None."""
    version = dataset.version
    rows = [] if version is None else dataset.rows(version)
    first: dict[str, datetime] = {}
    for row in rows:
        if row["verdict"] != "unsure":
            first[row["item_id"]] = min(row["recorded_at"], first.get(row["item_id"], row["recorded_at"]))
    return sum(moment is None or recorded_at > moment for recorded_at in first.values())
