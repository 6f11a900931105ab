"""Somebody asks for a retraining: a record beside the releases, for the job that retrains to look at.

    STORE/retraining/request.json

STORE is `STREAMER_RELEASES__STORE`. The drift watcher writes one, and so may a person; a newer request takes the place
of an older one, and the job takes it away. Blocks: for threads.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from streamer.wire import SCHEMA_VERSION, encode

if TYPE_CHECKING:
    from streamer.blobs import Blobs

log = structlog.get_logger(__name__)

NAME: Final = "retraining/request.json"


class RetrainRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Why an engine is to be retrained; `requested_by` is a program or a person, `reason` for people.

    The rest is what the drift watcher saw: of what `release` judges, `statistic` (kind:name, as in its metrics) has
    `value`, and was beyond `limit` since `since`.
    """

    schema_version: int = SCHEMA_VERSION
    requested_by: str
    reason: str
    requested_at: datetime
    statistic: str | None = None
    value: float | None = None
    limit: float | None = None
    since: datetime | None = None
    release: str | None = None


def write(blobs: Blobs, request: RetrainRequest) -> None:
    """Ask for a retraining.

    Raises:
        TransientError: store_unavailable.
    """
    blobs.put(NAME, encode(request))


def pending(blobs: Blobs) -> RetrainRequest | None:
    """Return what is asked for; what cannot be read is no request.

    Raises:
        TransientError: store_unavailable.
    """
    content = blobs.get(NAME)
    try:
        return None if content is None else msgspec.json.decode(content, type=RetrainRequest)
    except msgspec.DecodeError as error:
        log.warning("retrain_request.unreadable", message=str(error))
        return None
