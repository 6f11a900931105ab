"""What one event's record says, by how far the event has come, and its one line in the log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import structlog

from engines.errors import InferenceFailed
from streamer.errors import RejectedEvent
from streamer.events import Contradiction, Features, ProductScore
from streamer.incoming import Incoming
from streamer.judgements import Judgement
from streamer.passage import Passage
from streamer.policy import Policy
from streamer.succession import Turn
from streamer.telemetry import Telemetry
from streamer.tracing import Span
from streamer.updates import MAX_TITLE_CHARS, ProductUpdate
from streamer.wire import SourcePosition
from tests.fakes import manifest

if TYPE_CHECKING:
    from streamer.events import RecordedOutcome

AT = SourcePosition(topic="product-updates", partition=2, offset=9)
FEATURES = Features(brightness=0.5, contrast=0.1, saturation=0.2, tokens=3, unknown_share=0.0)
CONTRADICTS = (Contradiction(field="color", value="blue", share=1.0),)
URL = "https://ana:secret@cdn.example/mug.jpg?token=secret"


class Release:
    """A release that alerts at one half; what a passage asks of `Serving`."""

    def __init__(self) -> None:
        self._policy = Policy(manifest(release="small-0123456789ab", threshold=0.5))
        self.release, self.model = self._policy.release, self._policy.model

    def probability(self, logit: float) -> float:
        return self._policy.probability(logit)

    def threshold(self, update: ProductUpdate) -> float:
        return self._policy.threshold(update.category)


class Noted(Span):
    """Notes how a span ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, dict[str, Any]]] = []

    def end_as(self, outcome: str, **facts: Any) -> None:  # noqa: ANN401 - as it is
        self.ended.append((outcome, facts))


def passage(*, order: int | None = 7, superseded_by: int | None = None, **changes: Any) -> Passage:  # noqa: ANN401
    """Return a passage whose engine has been asked."""
    came = Incoming(b"mug", b"{}", [], AT, datetime(2026, 1, 1, tzinfo=UTC), lambda: None)
    update = ProductUpdate(id="mug", title="Blue mug" * 100, product_type="Home > Mugs", image_link=URL)
    turn = Turn(order, AT)
    turn.superseded_by = superseded_by
    facts: dict[str, Any] = {"origin": None, "update": update, "turn": turn, "serving": Release(), "features": FEATURES}
    return Passage(came, Telemetry(), **(facts | changes))


def test_score_of_a_judgement_says_who_judged_and_what_of() -> None:
    """The logit, its meaning to the release that the event stays with, and what the picture and the text were like."""
    record = passage().score("scored", "i" * 64, "t" * 64, Judgement(2.0, CONTRADICTS))
    assert (record.release, record.logit, record.threshold) == ("small-0123456789ab", 2.0, 0.5)
    assert record.probability == pytest.approx(0.881, abs=1e-3)
    assert (record.features, record.contradicts) == (FEATURES, CONTRADICTS)
    assert record.title == ("Blue mug" * 100)[:MAX_TITLE_CHARS]
    assert (record.order, record.source, record.category) == (7, AT, "Home")


def test_score_below_the_threshold_contradicts_nothing() -> None:
    """What was named when another release judged alerts nobody now."""
    record = passage().score("unchanged", "i", "t", Judgement(-2.0, CONTRADICTS))
    assert record.contradicts is msgspec.UNSET


@pytest.mark.parametrize("outcome", ["superseded", "deleted"])
def test_score_of_what_nobody_judged_says_nothing_of_the_picture(outcome: RecordedOutcome) -> None:
    """Also when the engine had been asked already, and a newer update came in between."""
    record = passage(superseded_by=8).score(outcome)
    assert (record.probability, record.threshold, record.release) == (None, None, None)
    assert {record.logit, record.model, record.features, record.contradicts} == {msgspec.UNSET}
    assert record.superseded_by == 8


def test_record_of_a_replayed_update_says_where_it_first_stood() -> None:
    """So that its order among its product's updates is that of then."""
    first = SourcePosition(topic="product-updates", partition=0, offset=1)
    assert passage(origin=first).score("deleted").origin == first


def test_dead_letter_names_the_release_that_judged_or_else_the_one_that_runs() -> None:
    """A release that is swapped meanwhile has failed at nothing."""
    error = InferenceFailed("not finite")
    assert passage().dead_letter(error, release="r-new").release == "small-0123456789ab"
    letter = passage(serving=None, update=None, turn=None).dead_letter(RejectedEvent("x", "y"), release="r-new")
    assert (letter.release, letter.product_id, letter.image_url) == ("r-new", None, None)


def test_account_counts_one_outcome_ends_the_span_and_writes_one_line() -> None:
    """With the stages that were clocked, and without a URL, whose credentials a log must not hold."""
    one = passage()
    one.span = span = Noted()
    one.clock("fetch", 0.0125)
    with structlog.testing.capture_logs() as lines:
        one.account(one.score("scored", "i", "t", Judgement(2.0, ())))
    (line,) = lines
    assert (line["event"], line["outcome"], line["fetch_ms"], line["offset"]) == ("event.recorded", "scored", 12.5, 9)
    assert "secret" not in str(line)
    assert [outcome for outcome, _ in span.ended] == ["scored"]
    value = one.telemetry.registry.get_sample_value
    assert value("streamer_events_total", {"outcome": "scored"}) == 1
    assert value("streamer_mismatch_probability_count") == 1
    assert value("streamer_stage_seconds_count", {"stage": "fetch"}) == 1


def test_account_of_a_rejection_warns_with_its_reason() -> None:
    """Counted once, as rejected and by why."""
    one = passage(serving=None)
    one.span = span = Noted()
    with structlog.testing.capture_logs() as lines:
        one.account(one.dead_letter(RejectedEvent("image_too_large", "9 MB"), release="r"))
    (line,) = lines
    assert (line["log_level"], line["reason"], line["outcome"]) == ("warning", "image_too_large", "rejected")
    assert "secret" not in str(line)
    assert [outcome for outcome, _ in span.ended] == ["rejected"]
    value = one.telemetry.registry.get_sample_value
    assert value("streamer_events_total", {"outcome": "rejected"}) == 1
    assert value("streamer_rejected_total", {"reason": "image_too_large"}) == 1


def test_record_of_every_outcome_is_one_that_readers_take() -> None:
    """What is left out is not there, rather than null."""
    told = msgspec.json.decode(msgspec.json.encode(passage().score("superseded")))
    assert not {"logit", "model", "features", "contradicts", "origin"} & told.keys()
    assert msgspec.convert(told, ProductScore).outcome == "superseded"
