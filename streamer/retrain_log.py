"""What stands beside the releases about retraining: who asks for one, and how the last one ended.

    STORE/retraining/request.json        a RetrainRequest; the next `streamer retrain --if-needed` has work to do
    STORE/retraining/last.json           the LastRetraining
    STORE/retraining/<run>/…             the model card of each decision

Whoever sees that an engine is out of its depth (a drift monitor, a person) writes a request; the job takes it away when
a run that began after it has been decided. A newer request takes the place of an older one. Blocks: for threads.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import msgspec
import structlog

from streamer.blobs import Blobs
from streamer.events import SCHEMA_VERSION, encode

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

SETTING: Final = "STREAMER_RELEASES__STORE"
FOLDER: Final = "retraining"
REQUEST: Final = f"{FOLDER}/request.json"
LAST: Final = f"{FOLDER}/last.json"

T = TypeVar("T", bound=msgspec.Struct)


class RetrainRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants a retraining.

    `requested_by` is a program or a person, `reason` for people, `figures` what it saw.
    """

    schema_version: int = SCHEMA_VERSION
    requested_by: str
    reason: str
    requested_at: datetime
    figures: dict[str, float] = {}


class LastRetraining(msgspec.Struct, frozen=True, kw_only=True):
    """How the last retraining ended, and with which labels; `items` are those that somebody was sure of."""

    schema_version: int = SCHEMA_VERSION
    run: str
    ended_at: datetime
    outcome: Literal["promoted", "refused"]
    champion: str
    challenger: str | None
    reasons: tuple[str, ...]
    dataset: str
    dataset_version: int
    items: int


class RetrainLog:
    """Requests and outcomes under the URL of a release store.

    Args:
        url: as `STREAMER_RELEASES__STORE`.

    Raises:
        FatalError: settings_invalid.
    """

    def __init__(self, url: str) -> None:
        self._blobs = Blobs(url, setting=SETTING)

    def request(self, wanted: RetrainRequest) -> None:
        """Ask for a retraining.

        Raises:
            TransientError: store_unavailable.
        """
        self._blobs.put(REQUEST, encode(wanted))

    def pending(self) -> RetrainRequest | None:
        """Return what is asked for; what cannot be read is no request.

        Raises:
            TransientError: store_unavailable.
        """
        return self._read(REQUEST, RetrainRequest)

    def last(self) -> LastRetraining | None:
        """Return how the last retraining ended, None before the first.

        Raises:
            TransientError: store_unavailable.
        """
        return self._read(LAST, LastRetraining)

    def record(self, ended: LastRetraining, *, began: datetime, card: Path | None) -> None:
        """Write how a retraining ended, with its card, and take away the request that it has answered.

        Raises:
            TransientError: store_unavailable; record it once more.
        """
        for file in sorted(card.iterdir()) if card is not None and card.is_dir() else ():
            self._blobs.put(f"{FOLDER}/{ended.run}/{file.name}", file.read_bytes())
        wanted = self.pending()
        if wanted is not None and wanted.requested_at <= began:
            self._blobs.delete(REQUEST)
        self._blobs.put(LAST, encode(ended))

    def _read(self, name: str, kind: type[T]) -> T | None:
        content = self._blobs.get(name)
        try:
            return None if content is None else msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            log.warning("retraining.unreadable", name=name, message=str(error))
            return None
