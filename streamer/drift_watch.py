"""What has been scored and rejected, taken in record by record → comparisons, and a retraining asked for when it lasts.

    STORE/drift/<release>.json             its Reference: a watcher that starts anew compares with what the release
                                           judged at first, not with what it judges then
    STORE/drift/<release>.request.json     what was asked for: once for each release, however often a watcher starts

STORE is `STREAMER_RELEASES__STORE`. How the last retraining ended (`streamer.retrain_log`) is shown, too: the job
itself is gone by the time that anybody could ask it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import orjson
import structlog

from streamer import retrain_log, retrain_request
from streamer.drift import Reference, Window
from streamer.errors import RejectedEvent, TransientError
from streamer.events import DeadLetter, parse_score
from streamer.retrain_request import RetrainRequest
from streamer.wire import encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from streamer.blobs import Blobs
    from streamer.drift import Kind, Limits, Statistic
    from streamer.drift_telemetry import DriftTelemetry

log = structlog.get_logger(__name__)

FOLDER: Final = "drift"
REQUESTED_BY: Final = "streamer drift"
MAX_RELEASES: Final = 3
"""Whose products are held at the same time: the one that runs, the one before, and one that is rolled out."""

_WORDS: Final[dict[Kind, str]] = {
    "value": "the distribution of {name} is {value:.3f} from what it was, beyond {limit:.3f}",
    "category": "{value:.1%} of category {name!r} alert, where it was {reference:.1%}: beyond {limit:.1%}",
    "host": "{value:.1%} of the pictures of {name!r} alert, where it was {reference:.1%}: beyond {limit:.1%}",
    "fetches": "{value:.1%} of the fetches fail, where it was {reference:.1%}: beyond {limit:.1%}",
}


class DriftWatch:
    """Compares what is judged with what was judged at first; blocks when it reads or writes its store.

    Args:
        limits: from where on a difference is drift.
        size: products of a reference, and of what is compared with it.
        least: products without which nothing is compared.
        patience: how long something must have drifted before a retraining is asked for.
        blobs: the release store; None: references live as long as this process, and nothing is asked for.
        telemetry: is told every comparison.
        clock: the time, with a zone.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        size: int,
        least: int,
        patience: timedelta,
        blobs: Blobs | None,
        telemetry: DriftTelemetry,
        clock: Callable[[], datetime],
    ) -> None:
        self._limits = limits
        self._size = size
        self._least = least
        self._patience = patience
        self._blobs = blobs
        self._telemetry = telemetry
        self._clock = clock
        self._windows: dict[str, Window] = {}
        self._kept: set[str] = set()  # releases whose reference is in the store
        self._running: str | None = None
        self._since: dict[tuple[str, str], datetime] = {}
        self._requested: set[str] = set()  # releases for which a retraining was asked for

    def score(self, value: bytes | None) -> None:
        """Take in a record of product-scores."""
        try:
            score = parse_score(value or b"")
        except RejectedEvent:
            self._telemetry.unreadable()
            return
        if score.release is not None and score.outcome == "scored":
            self._running = score.release
            self._window(score.release).add(score)

    def letter(self, value: bytes | None) -> None:
        """Take in a record of the dead letters."""
        try:
            letter = msgspec.convert(orjson.loads(value or b""), DeadLetter)
        except (orjson.JSONDecodeError, msgspec.ValidationError):
            self._telemetry.unreadable()
            return
        if letter.release is not None:
            self._window(letter.release).reject(letter)

    def check(self) -> list[Statistic]:
        """Compare, tell, and ask for a retraining where it is time; return the comparisons.

        Raises:
            TransientError: store_unavailable; check again.
        """
        statistics = [] if self._running is None else self._compare(self._windows[self._running])
        if self._blobs is not None:
            self._telemetry.ended(retrain_log.last(self._blobs))
        return statistics

    def _compare(self, window: Window) -> list[Statistic]:
        self._keep(window)
        statistics = list(window.statistics(self._limits))
        self._telemetry.compared(window.release, window.products, statistics)
        self._follow(statistics)
        lasting = [one for one in statistics if one.calls_for_retraining and self._lasts(one)]
        if lasting and window.release not in self._requested:
            self._request(window.release, max(lasting, key=_excess))
        return statistics

    def _window(self, release: str) -> Window:
        window = self._windows.pop(release, None)
        if window is None:
            window = Window(release, self._size, self._least, self._load(release))
        self._windows[release] = window  # the last one to be asked for is the last one to go
        while len(self._windows) > MAX_RELEASES:
            del self._windows[next(iter(self._windows))]
        return window

    # -- what lasts

    def _follow(self, statistics: list[Statistic]) -> None:
        now = self._clock()
        drifted = {(one.kind, one.name): one for one in statistics if one.drifted}
        for key in [key for key in self._since if key not in drifted]:
            log.info("drift.ended", kind=key[0], name=key[1], since=self._since.pop(key).isoformat())
        for key, one in drifted.items():
            if key not in self._since:
                self._since[key] = now
                log.warning("drift.began", kind=one.kind, name=one.name, value=one.value, limit=one.limit)

    def _lasts(self, one: Statistic) -> bool:
        return self._clock() - self._since[one.kind, one.name] >= self._patience

    def _request(self, release: str, worst: Statistic) -> None:
        if self._blobs is None:
            return
        known = retrain_request.pending(self._blobs)
        if known is None or known.release not in (None, release):  # else somebody has asked already
            request = self._request_of(release, worst)
            retrain_request.write(self._blobs, request)
            self._blobs.put(_asked(release), encode(request))
            self._telemetry.requested()
            log.warning("retraining.requested", release=release, reason=request.reason)
        self._requested.add(release)

    def _request_of(self, release: str, worst: Statistic) -> RetrainRequest:
        return RetrainRequest(
            requested_by=REQUESTED_BY,
            reason=_WORDS[worst.kind].format(
                name=worst.name, value=worst.value, limit=worst.limit, reference=worst.reference
            ),
            requested_at=self._clock(),
            statistic=f"{worst.kind}:{worst.name}",
            value=worst.value,
            limit=worst.limit,
            since=self._since[worst.kind, worst.name],
            release=release,
        )

    # -- references

    def _load(self, release: str) -> Reference | None:
        if self._blobs is None:
            return None
        content = self._blobs.get(_kept(release))
        if self._blobs.get(_asked(release)) is not None:
            self._requested.add(release)
        try:
            reference = None if content is None else msgspec.json.decode(content, type=Reference)
        except msgspec.DecodeError as error:
            log.warning("drift.reference_damaged", release=release, message=str(error))
            return None
        if reference is not None:
            self._kept.add(release)
        return reference

    def _keep(self, window: Window) -> None:
        if self._blobs is None or window.reference is None or window.release in self._kept:
            return
        try:
            self._blobs.put(_kept(window.release), encode(window.reference))
        except TransientError as error:  # a comparison is worth more than its repetition after a restart
            log.warning("drift.reference_not_kept", release=window.release, message=str(error))
            return
        self._kept.add(window.release)
        log.info("drift.reference_kept", release=window.release, products=window.reference.products)


def _kept(release: str) -> str:
    return f"{FOLDER}/{release}.json"


def _asked(release: str) -> str:
    return f"{FOLDER}/{release}.request.json"


def _excess(one: Statistic) -> float:
    return abs(one.value - one.limit)
