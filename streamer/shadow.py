"""A challenger beside the release that runs: it scores a share of the products, and what it says is only compared.

    scored by the champion ─► offered ─► decoded, tokenised and scored again, one at a time ─► shadow-scores

Nothing waits for it. What it is offered while it is busy is passed over; it has one thread of low priority, one decoder
and room for a few pictures; and whatever goes wrong with it ends the trial, and nothing else (docs/adr/0024).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import structlog

from engines.errors import EngineError
from streamer.errors import RejectedEvent
from streamer.pairs import Collator
from streamer.priority import give_way
from streamer.shadow_events import Opinion, ShadowRelease, ShadowScore, is_shadowed
from streamer.wire import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import numpy as np
    from numpy.typing import NDArray

    from engines.contract import Engine
    from streamer.events import ProductScore
    from streamer.outbox import Publish
    from streamer.reload import Loaded
    from streamer.serving import Reading
    from streamer.telemetry import Telemetry
    from streamer.updates import ProductUpdate

log = structlog.get_logger(__name__)

MAX_OFFERED = 16
"""Products that wait for the challenger, or whose comparison waits for the broker."""

MAX_OFFERED_BYTES = 32 * 2**20
"""Of their pictures."""

MAX_FAILURES_IN_A_ROW = 16
"""A product that the challenger cannot score is passed over; after this many the trial ends."""

ENDS_WITHIN_S = 10.0
"""For the challenger to finish its product and free its memory; longer than a picture's decoding may take."""


@dataclass(frozen=True)
class Challenger:
    """A release that is loaded and warm, how it reads products, and what frees it.

    `decode` blocks; it returns a picture as the engine takes it, uint8 (3, H, W), or raises ImageRefused.
    """

    reading: Reading
    decode: Callable[[bytes], NDArray[np.uint8]]
    engine: Engine
    close: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Offer:
    score: ProductScore
    update: ProductUpdate
    picture: bytes


class _Trial:
    """One challenger in a thread of its own, which frees it at the end; an engine that hangs ends with the process."""

    def __init__(
        self,
        wanted: ShadowRelease,
        challenger: Challenger,
        finished: Callable[[_Trial, _Offer, Opinion | Exception], None],
    ) -> None:
        self.wanted = wanted
        self.offered = 0
        self.offered_bytes = 0
        self.failures = 0  # in a row
        self.ended = asyncio.Event()
        self._challenger = challenger
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        self._offers: queue.SimpleQueue[_Offer | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="shadow", daemon=True).start()

    def put(self, offer: _Offer | None) -> None:
        """Give the challenger a product; None: there are no more."""
        self._offers.put(offer)

    def _run(self) -> None:
        give_way()
        collator = Collator()
        with contextlib.suppress(RuntimeError):  # the worker has ended meanwhile
            while (offer := self._offers.get()) is not None:
                try:
                    opinion: Opinion | Exception = self._judge(offer, collator)
                except Exception as error:  # noqa: BLE001 - a challenger may fail in any way
                    opinion = error
                self._loop.call_soon_threadsafe(self._finished, self, offer, opinion)
        self._challenger.close()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.ended.set)

    def _judge(self, offer: _Offer, collator: Collator) -> Opinion:
        reading = self._challenger.reading
        pair = reading.pair(self._challenger.decode(offer.picture), reading.read(offer.update))
        logit = float(self._challenger.engine.infer(collator.collate([pair], room=1))[0])
        policy = reading.policy
        return Opinion(
            release=policy.release,
            logit=logit,
            probability=policy.probability(logit),
            threshold=policy.threshold(offer.update.category),
        )


class Shadow:
    """The challenger of a worker, if it has one; belongs to one event loop.

    Args:
        publish: returns when the broker has a comparison.
        topic: of comparisons.
        ready: makes a loaded release a challenger; called in a thread.
        telemetry: is told what became of what was offered.
    """

    def __init__(
        self, *, publish: Publish, topic: str, ready: Callable[[Loaded], Challenger], telemetry: Telemetry
    ) -> None:
        self._publish = publish
        self._topic = topic
        self._ready = ready
        self._telemetry = telemetry
        self._trial: _Trial | None = None
        self._failed: set[ShadowRelease] = set()
        self._publishing: set[asyncio.Task[None]] = set()

    # -- products

    def wants(self, product_id: str) -> bool:
        """Whether the product's picture is to be held for the challenger; for any thread."""
        trial = self._trial
        return trial is not None and is_shadowed(product_id, trial.wanted.share)

    def offer(self, score: ProductScore, update: ProductUpdate, picture: IO[bytes]) -> None:
        """Let the challenger score what the champion has just scored, if it is of its share and there is room."""
        trial = self._trial
        if trial is None or not is_shadowed(update.id, trial.wanted.share):
            return
        size = picture.seek(0, 2)
        if trial.offered >= MAX_OFFERED or trial.offered_bytes + size > MAX_OFFERED_BYTES:
            self._telemetry.shadow_skipped("busy")
            return
        picture.seek(0)
        trial.offered += 1
        trial.offered_bytes += size
        trial.put(_Offer(score, update, picture.read()))

    def _finished(self, trial: _Trial, offer: _Offer, opinion: Opinion | Exception) -> None:
        trial.offered_bytes -= len(offer.picture)
        if isinstance(opinion, Opinion):
            trial.failures = 0
            task = asyncio.create_task(self._compare(trial, offer.score, opinion))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)
            return
        trial.offered -= 1
        trial.failures += 1
        self._telemetry.shadow_skipped("failed")
        log.info("shadow.product_failed", release=trial.wanted.release, error=repr(opinion))
        ordinary = isinstance(opinion, (EngineError, RejectedEvent))
        if not ordinary or trial.failures >= MAX_FAILURES_IN_A_ROW:
            self._fail(trial, "challenger_failing", opinion)

    async def _compare(self, trial: _Trial, score: ProductScore, challenger: Opinion) -> None:
        compared = _compared(score, challenger)
        try:
            await self._publish(self._topic, score.product_id.encode(), encode(compared))
        except Exception as error:  # noqa: BLE001 - nothing of a trial is the worker's affair
            self._fail(trial, "comparison_refused", error)
        else:
            self._telemetry.shadow_compared(compared.agreement)
        finally:
            trial.offered -= 1

    # -- trials

    async def follow(
        self, wanted: ShadowRelease | None, fetch: Callable[[ShadowRelease], Awaitable[Loaded | None]]
    ) -> None:
        """Run the trial that is wanted, and no other.

        Args:
            wanted: None ends the trial that runs.
            fetch: returns the release, loaded and checked, None where it was refused.

        Raises:
            ReleaseUnavailable: fetch's; the trial that ran is over by then.
        """
        trial = self._trial
        if trial is not None and wanted is not None and trial.wanted.release == wanted.release:
            trial.wanted = wanted
            return
        await self.end()
        if wanted is None or wanted in self._failed:
            return
        loaded = await fetch(wanted)
        if loaded is None:
            self._failed.add(wanted)
            return
        try:
            challenger = await asyncio.to_thread(self._ready, loaded)
        except Exception as error:  # noqa: BLE001 - as above
            self.refuse(wanted, "challenger_failing", error)
            await asyncio.to_thread(loaded.engine.close)
            return
        self._trial = _Trial(wanted, challenger, self._finished)
        self._telemetry.shadow(wanted.release)
        log.info("shadow.began", release=wanted.release, share=wanted.share)

    async def end(self, within_s: float = ENDS_WITHIN_S) -> None:
        """End the trial and wait, so long at most, until its memory is free."""
        trial, self._trial = self._trial, None
        if trial is None:
            return
        self._telemetry.shadow(None)
        trial.put(None)
        try:
            await asyncio.wait_for(trial.ended.wait(), within_s)
            log.info("shadow.ended", release=trial.wanted.release)
        except TimeoutError:
            log.warning("shadow.hung", release=trial.wanted.release, waited_s=within_s)

    def refuse(self, wanted: ShadowRelease, code: str, error: Exception) -> None:
        """Tell that a challenger is not tried, or not any more; it is tried again when it is announced again."""
        self._failed.add(wanted)
        self._telemetry.shadow_refused(code)
        log.error("shadow.refused", release=wanted.release, reason=code, message=str(error))

    def _fail(self, trial: _Trial, code: str, error: Exception) -> None:
        if self._trial is not trial:
            return
        self._trial = None
        self._telemetry.shadow(None)
        trial.put(None)
        self.refuse(trial.wanted, code, error)


def _compared(score: ProductScore, challenger: Opinion) -> ShadowScore:
    assert score.release is not None
    assert score.probability is not None
    assert score.threshold is not None
    assert isinstance(score.logit, float)
    champion = Opinion(
        release=score.release, logit=score.logit, probability=score.probability, threshold=score.threshold
    )
    return ShadowScore(
        product_id=score.product_id,
        order=score.order,
        category=score.category,
        source=score.source,
        scored_at=score.scored_at,
        champion=champion,
        challenger=challenger,
    )
