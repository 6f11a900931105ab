"""A score → what is kept of it for those who judge it: evidence of what alerts, and of what is drawn for the audit.

Called between the judgement and the score's publication, so evidence is there before anybody can hear of the alert. An
alert is worth more than the label that might come of it: where the store does not answer after some tries, the score
goes out without evidence, is counted, and a label for it will find nothing (docs/adr/0016).
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, TypeVar

import structlog
from cachetools import TTLCache

from streamer.errors import TransientError
from streamer.evidence import EvidenceStore
from streamer.reviews import Sampled, ScoredItem, item_id, request_of
from streamer.sampling import AuditSampler
from streamer.wire import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from streamer.events import MismatchAlert, ProductScore
    from streamer.settings import EvidenceSettings
    from streamer.telemetry import Telemetry
    from streamer.updates import ProductUpdate

log = structlog.get_logger(__name__)

TRIES = 3
RETRY_S = 0.2  # before the second try; doubles
TRY_S = 5.0
"""For one write: a store that hangs must not hold scores back, nor the offsets behind them."""

REMEMBERED = 100_000
REMEMBERED_S = 600.0
"""Nobody tells a scorer what has been erased: what it has kept longer ago than this it keeps again."""

T = TypeVar("T")


class Keeper:
    """Keeps evidence; belongs to one event loop.

    Args:
        store: where it goes.
        sampler: draws what did not alert; None: nothing is drawn.
        publish: sends a review request; returns when the broker has it.
        reviews: the topic of review requests.
        executor: writes to the store.
        telemetry: is told what was kept.
        clock: seconds that never jump.
    """

    def __init__(
        self,
        *,
        store: EvidenceStore,
        sampler: AuditSampler | None,
        publish: Callable[[str, bytes | None, bytes], Awaitable[None]],
        reviews: str,
        executor: Executor,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._sampler = sampler
        self._publish = publish
        self._reviews = reviews
        self._executor = executor
        self._telemetry = telemetry
        self._pictures: TTLCache[str, None] = TTLCache(REMEMBERED, REMEMBERED_S, clock)
        self._items: TTLCache[str, None] = TTLCache(REMEMBERED, REMEMBERED_S, clock)

    def lacks(self, image_sha256: str) -> bool:
        """Whether this worker has not kept the picture lately: then its bytes are needed, though it has not changed."""
        return image_sha256 not in self._pictures

    async def keep(
        self, score: ProductScore, update: ProductUpdate, text: str, logit: float, picture: IO[bytes] | None
    ) -> None:
        """Keep what the score is about if it alerts or is drawn; ask people about what is drawn.

        Args:
            score: about to be published.
            update: that was scored.
            text: as the engine read it.
            logit: of the engine.
            picture: its bytes, from `streamer.held`; None where it has not changed since it was scored before.
        """
        assert score.probability is not None
        assert score.threshold is not None
        alerts = score.probability >= score.threshold
        chance = 1.0
        if not alerts:
            if self._sampler is None or score.outcome != "scored":
                return
            chance = self._sampler.chance(score.probability, score.threshold)
        item = _item(score, update, text, logit, sampled="alert" if alerts else "audit", chance=chance)
        if alerts and item.item_id in self._items:
            return
        if not alerts and self._sampler is not None and not self._sampler.draws(item.item_id, chance):
            return
        kept = await self._try(lambda: self._write(item, picture))
        if kept is not None:
            self._pictures[item.image_sha256] = None
            self._items[item.item_id] = None
            self._telemetry.kept(item.sampled)
            if not alerts:
                request = request_of(kept, datetime.now(UTC))
                await self._publish(self._reviews, item.product_id.encode(), encode(request))

    async def point(self, alert: MismatchAlert, *, scored_by: str | None) -> None:
        """Remember what an alert is about, before it is published.

        Args:
            alert: that a mismatch leads to.
            scored_by: the release that scored it, by whose name the evidence was kept; another one may have decided.
        """
        data = alert.data
        if data.image_sha256 is None or data.text_sha256 is None or scored_by is None:
            return
        item = item_id(data.product_id, data.image_sha256, data.text_sha256, scored_by)
        await self._try(lambda: self._store.point(data.product_id, alert.id, item))

    def _write(self, item: ScoredItem, picture: IO[bytes] | None) -> ScoredItem:
        content = None
        if picture is not None:
            picture.seek(0)
            content = picture.read()
        return self._store.keep(item, content)

    async def _try(self, write: Callable[[], T]) -> T | None:
        """Write in a thread; return what it returns, None where it was not written in the end."""
        for attempt in range(TRIES):
            try:
                async with asyncio.timeout(TRY_S):
                    return await asyncio.get_running_loop().run_in_executor(self._executor, write)
            except TimeoutError:  # its thread may hang on: another try would only take another one
                log.warning("evidence.not_kept", reason="store_hangs", message=f"no answer within {TRY_S:g} s")
                break
            except TransientError as error:
                log.warning("evidence.not_kept", reason=error.code, message=str(error), attempt=attempt + 1)
                if attempt + 1 < TRIES:
                    await asyncio.sleep(RETRY_S * 2**attempt)
        self._telemetry.evidence_failed()
        return None


def keeper_of(
    settings: EvidenceSettings,
    *,
    publish: Callable[[str, bytes | None, bytes], Awaitable[None]],
    reviews: str,
    executor: Executor,
    telemetry: Telemetry,
) -> Keeper | None:
    """Return what keeps evidence as the settings say, None where they turn it off.

    Raises:
        FatalError: settings_invalid.
    """
    if settings.store is None:
        return None
    sampler = AuditSampler(
        share=settings.audit_share,
        uncertainty=settings.audit_uncertainty,
        per_hour=settings.audit_per_hour,
        salt=settings.audit_salt,
    )
    return Keeper(
        store=EvidenceStore(settings.store),
        sampler=sampler if settings.audit_share else None,
        publish=publish,
        reviews=reviews,
        executor=executor,
        telemetry=telemetry,
    )


def _item(
    score: ProductScore, update: ProductUpdate, text: str, logit: float, *, sampled: Sampled, chance: float
) -> ScoredItem:
    assert score.image_sha256 is not None
    assert score.text_sha256 is not None
    assert score.release is not None
    assert score.probability is not None
    assert score.threshold is not None
    return ScoredItem(
        item_id=item_id(score.product_id, score.image_sha256, score.text_sha256, score.release),
        product_id=score.product_id,
        order=score.order,
        item_group_id=update.item_group_id,
        category=score.category,
        title=score.title,
        text=text,
        fields=update.text_fields(),
        columns=update.columns(),
        image_url=score.image_url,
        image_sha256=score.image_sha256,
        text_sha256=score.text_sha256,
        logit=logit,
        probability=score.probability,
        threshold=score.threshold,
        release=score.release,
        scored_at=score.scored_at,
        source=score.place,
        sampled=sampled,
        sampling_probability=chance,
    )
