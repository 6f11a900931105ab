"""One event on its way: what is known of it so far, the record that it ends in, and its line in the log."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from streamer.events import DeadLetter, ProductScore
from streamer.incoming import dead_letter
from streamer.tracing import Span
from streamer.updates import MAX_TITLE_CHARS

if TYPE_CHECKING:
    from engines.errors import EngineError
    from streamer.errors import StreamerError
    from streamer.events import Features, RecordedOutcome
    from streamer.incoming import Incoming
    from streamer.judgements import Judgement
    from streamer.serving import Serving
    from streamer.succession import Turn
    from streamer.telemetry import Telemetry
    from streamer.updates import ProductUpdate
    from streamer.wire import SourcePosition

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Passage:
    """One event on its way; `update` and `turn` are None where it says too little.

    `serving` is the release that judges it, once one does: whatever is swapped meanwhile, the event stays with it.
    `features` are there once its engine is asked.
    """

    incoming: Incoming
    telemetry: Telemetry
    origin: SourcePosition | None
    update: ProductUpdate | None = None
    turn: Turn | None = None
    serving: Serving | None = None
    features: Features | None = None
    started: float = field(default_factory=time.perf_counter)
    stages_ms: dict[str, float] = field(default_factory=dict)
    span: Span = field(default_factory=Span)

    def clock(self, stage: str, seconds: float, *, ended_s_ago: float = 0.0) -> None:
        """Take down what a stage took that ended now, or a while ago."""
        self.stages_ms[f"{stage}_ms"] = round(seconds * 1e3, 2)
        self.telemetry.stage(stage, seconds)
        self.span.stage(stage, seconds, ended_s_ago=ended_s_ago)

    def score(
        self,
        outcome: RecordedOutcome,
        image_sha256: str | None = None,
        text_sha256: str | None = None,
        judgement: Judgement | None = None,
    ) -> ProductScore:
        """Return the record of an outcome that is no rejection; without a judgement it says nothing of the picture."""
        update, turn = self.update, self.turn
        assert update is not None
        assert turn is not None
        serving = self.serving if judgement is not None else None
        probability = serving.probability(judgement.logit) if judgement and serving else None
        threshold = serving.threshold(update) if serving else None
        alerts = probability is not None and threshold is not None and probability >= threshold
        return ProductScore(
            product_id=update.id,
            order=turn.order,
            outcome=outcome,
            source=self.incoming.position,
            published_at=self.incoming.published_at,
            scored_at=datetime.now(UTC),
            title=(update.title or "")[:MAX_TITLE_CHARS] or None,
            category=update.category[:MAX_TITLE_CHARS] or None,
            image_url=update.image_link,
            image_sha256=image_sha256,
            text_sha256=text_sha256,
            probability=probability,
            threshold=threshold,
            release=serving.release if serving else None,
            logit=judgement.logit if judgement else msgspec.UNSET,
            model=serving.model if serving else msgspec.UNSET,
            features=(self.features if outcome == "scored" else None) or msgspec.UNSET,
            superseded_by=turn.superseded_by,
            contradicts=(judgement and alerts and judgement.contradicts) or msgspec.UNSET,
            origin=self.origin or msgspec.UNSET,
        )

    def dead_letter(self, error: StreamerError | EngineError, *, release: str) -> DeadLetter:
        """Return the record of a rejection; `release` is the one that runs, should none have judged the event."""
        judged_by = self.serving.release if self.serving is not None else release
        return dead_letter(self.incoming, error, update=self.update, release=judged_by)

    def account(self, record: ProductScore | DeadLetter) -> None:
        """Count the outcome, tell the trace of it, and write the event's canonical log line."""
        self.telemetry.latency(record.published_at)
        facts: dict[str, object] = {
            "product_id": record.product_id,
            "topic": record.source.topic,
            "partition": record.source.partition,
            "offset": record.source.offset,
            "release": record.release,
            "total_ms": round((time.perf_counter() - self.started) * 1e3, 2),
            **self.stages_ms,
        }
        if isinstance(record, DeadLetter):
            self.telemetry.outcome("rejected", record.reason)
            self.span.end_as("rejected", error=record.reason, release=record.release)
            log.warning("event.rejected", reason=record.reason, message=record.message, outcome="rejected", **facts)
            return
        self.telemetry.outcome(record.outcome)
        self.span.end_as(record.outcome, release=record.release, probability=record.probability)
        if record.probability is not None:
            self.telemetry.probability(record.probability)
        log.debug("event.recorded", outcome=record.outcome, probability=record.probability, **facts)
