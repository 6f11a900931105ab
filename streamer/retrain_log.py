"""What stands beside the releases about retrainings: how the last one ended, and what it has answered.

    STORE/retraining/last.json           the LastRetraining
    STORE/retraining/<run>/…             the model card of each decision

A request (`streamer.retrain_request`) is taken away when a run that began after it has been decided. Blocks: for
threads.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import structlog

from streamer import retrain_request
from streamer.blobs import Blobs
from streamer.wire import SCHEMA_VERSION, encode

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.retrain_request import RetrainRequest

log = structlog.get_logger(__name__)

SETTING: Final = "STREAMER_RELEASES__STORE"
FOLDER: Final = "retraining"
LAST: Final = f"{FOLDER}/last.json"


class LastRetraining(msgspec.Struct, frozen=True, kw_only=True):
    """How the last retraining ended, and with which labels; `items` are those that somebody was sure of.

    It did not learn from what was judged after `began_at`, which records of earlier versions do not have.
    """

    schema_version: int = SCHEMA_VERSION
    run: str
    began_at: datetime | None = None
    ended_at: datetime
    outcome: Literal["promoted", "refused"]
    champion: str
    challenger: str | None
    reasons: tuple[str, ...]
    dataset: str
    dataset_version: int
    items: int


class RetrainLog:
    """What was asked and what came of it, under the URL of a release store.

    Args:
        url: as `STREAMER_RELEASES__STORE`.

    Raises:
        FatalError: settings_invalid.
    """

    def __init__(self, url: str) -> None:
        self._blobs = Blobs(url, setting=SETTING)

    def pending(self) -> RetrainRequest | None:
        """Return what is asked for.

        Raises:
            TransientError: store_unavailable.
        """
        return retrain_request.pending(self._blobs)

    def last(self) -> LastRetraining | None:
        """Return how the last retraining ended, None before the first.

        Raises:
            TransientError: store_unavailable.
        """
        return last(self._blobs)

    def record(self, ended: LastRetraining, *, began: datetime, card: Path | None) -> None:
        """Write how a retraining ended, with its card, and take away the request that it has answered.

        Raises:
            TransientError: store_unavailable; record it once more.
        """
        for file in sorted(card.iterdir()) if card is not None and card.is_dir() else ():
            self._blobs.put(f"{FOLDER}/{ended.run}/{file.name}", file.read_bytes())
        wanted = self.pending()
        if wanted is not None and wanted.requested_at <= began:
            self._blobs.delete(retrain_request.NAME)
        self._blobs.put(LAST, encode(ended))


def last(blobs: Blobs) -> LastRetraining | None:
    """Return how the last retraining ended, None before the first; what cannot be read is none.

    Raises:
        TransientError: store_unavailable.
    """
    content = blobs.get(LAST)
    try:
        return None if content is None else msgspec.json.decode(content, type=LastRetraining)
    except msgspec.DecodeError as error:
        log.warning("retraining.unreadable", name=LAST, message=str(error))
        return None
