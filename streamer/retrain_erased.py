"""What was erased, to a run of retraining: it leaves the folder and the training, and ends a run that has learned it.

    RUN/erased.txt     digests of erased products, for the training program: all that were on the list during the run
    RUN/learned.txt    digests of the folder's other products: what the run may have learned from

Both only grow while the run is unfinished, and go with its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from engines.catalogs import erased, judged
from streamer.purge import purge_if_possible
from streamer.retrain_runs import LABELS_FOLDER

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

ERASED_FILE: Final = "erased.txt"
_LEARNED_FILE: Final = "learned.txt"


def leave_out(run: Path, catalog: Path, listed: frozenset[str]) -> str:
    """Remove erased products from the catalogue's folder where that can be done, and write what a run leaves out.

    Args:
        run: its folder.
        catalog: the folder that it replays.
        listed: digests of erased products.

    Returns:
        What became of the folder, for people; "" where it held none.

    Raises:
        CatalogInvalid: the catalogue cannot be read.
        OSError: the disk is full.
    """
    left_out = listed | _digests(run / ERASED_FILE)
    erased.write(run / ERASED_FILE, left_out)
    standing = purge_if_possible(catalog, left_out)
    erased.write(run / _LEARNED_FILE, standing.products | _digests(run / _LEARNED_FILE))
    if standing.erased:
        log.warning("catalog.not_purged", folder=str(catalog), products=len(standing.erased))
    return standing.said


def has_learned(run: Path, listed: frozenset[str]) -> bool:
    """Whether a run may have learned from a product that is erased, from the catalogue or from pinned labels.

    Raises:
        CatalogInvalid, LabelsInvalid: its files cannot be read.
    """
    labels = run / LABELS_FOLDER
    pinned = [] if judged.read_pinned(labels) is None else judged.read_judged(labels)
    said = {erased.digest(item.product_id) for item in pinned}
    return not listed.isdisjoint(said | _digests(run / _LEARNED_FILE))


def _digests(path: Path) -> frozenset[str]:
    return erased.read(path) if path.exists() else erased.NOTHING
