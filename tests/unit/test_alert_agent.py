"""In which order the alert agent carries out what it has decided, and what happens where a step fails."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import orjson
import pytest

from streamer.errors import FatalError
from streamer.events import ALERT_REDECISIONS, CLOUD_EVENT, DEAD_LETTERS, MISMATCH_ALERTS, PRODUCT_SCORES
from streamer.tracing import Span, Tracing
from streamer.wire import encode
from tests.deciding import LENIENT, STRICT, UNSURE, Owner, Table, score
from tests.fakes import Published

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from streamer.events import MismatchAlert
    from streamer.policy import Policy
    from streamer.wire import SourcePosition


def scored(order: int, logit: float = UNSURE, *, product: str = "p", by: Policy = STRICT) -> tuple[str, bytes]:
    """Return a record of product-scores."""
    return PRODUCT_SCORES, encode(score(order, logit, by, product=product))


class Noting(Published):
    """Notes what was published beside what a table was told, in order; refuses what it is told to."""

    def __init__(self, steps: list[str]) -> None:
        super().__init__()
        self._steps = steps
        self.headers: list[Sequence[tuple[str, bytes]]] = []
        self.refuses: Exception | None = None

    async def __call__(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        if self.refuses is not None:
            raise self.refuses
        await super().__call__(topic, key, value, headers)
        self._steps.append(topic)
        self.headers.append(headers)


class NotingTable(Table):
    """Notes that a state was written."""

    def __init__(self, steps: list[str]) -> None:
        super().__init__()
        self._steps = steps

    def __setitem__(self, key: str, value: object) -> None:
        super().__setitem__(key, value)
        self._steps.append("state")


class Pointer:
    """A keeper that notes which alerts it was told of, and by which release they were scored."""

    def __init__(self, steps: list[str]) -> None:
        self._steps = steps
        self.told: list[tuple[str, str | None]] = []

    async def point(self, alert: MismatchAlert, *, scored_by: str | None) -> None:
        self._steps.append("evidence")
        self.told.append((alert.id, scored_by))


async def test_alert_is_published_after_its_evidence_and_before_its_state() -> None:
    """Whoever hears of it finds what it is about; a crash before the state is written repeats it and loses nothing."""
    steps: list[str] = []
    owner = Owner(STRICT, NotingTable(steps), published=Noting(steps), keeper=Pointer(steps))
    await owner.take(scored(1))
    assert steps == ["evidence", MISMATCH_ALERTS, "state"]


async def test_alert_says_in_a_header_that_it_is_a_cloud_event() -> None:
    """In the binding's structured mode, for whoever reads headers only."""
    published = Noting([])
    await Owner(STRICT, published=published).take(scored(1))
    assert published.headers == [[CLOUD_EVENT]]


async def test_evidence_is_pointed_to_by_the_release_that_scored() -> None:
    """Also where another has decided; an alert that resolves is about nothing that people could judge."""
    pointer = Pointer([])
    owner = Owner(LENIENT, keeper=pointer)
    await owner.take(scored(1, by=LENIENT))
    assert pointer.told == []
    owner.runs = STRICT
    await owner.take((ALERT_REDECISIONS, orjson.dumps({"schema_version": 1, "product_id": "p", "release": "r-strict"})))
    assert pointer.told == [(owner.alerts[0]["id"], LENIENT.release)]
    await owner.take(scored(2, logit=-3.0))
    assert owner.alerts[-1]["data"]["reason"] == "matches"
    assert len(pointer.told) == 1


async def test_score_is_acknowledged_when_the_broker_has_the_change_of_its_state() -> None:
    """The next one need not wait for that; one that changes nothing is acknowledged at once, and writes nothing."""
    table = Table()
    table.holds = True
    owner = Owner(STRICT, table)
    await owner.take(scored(1), scored(1, product="q"))
    assert owner.acknowledged == []
    for change in table.changes:
        change.set_result(None)
    await owner.take(scored(0), scored(0, product="q"))
    assert owner.acknowledged == [0, 1, 0, 1]
    assert len(table.changes) == 2


async def test_score_that_comes_again_writes_its_state_again_and_alerts_no_more() -> None:
    """A store on disk may have what its changelog lacks: the next owner knows the changelog only."""
    owner = Owner(STRICT)
    await owner.take(scored(1))
    await owner.take(scored(1))
    assert len(owner.alerts) == 1
    assert len(owner.table.changes) == 2


async def test_worker_killed_between_alert_and_state_repeats_the_alert_under_its_id() -> None:
    """Consumers drop what they have seen; the score was not acknowledged, so it comes again."""
    table = Table()
    table.lost = True
    killed = Owner(STRICT, table)
    await killed.take(scored(1))
    assert killed.acknowledged == []
    table.lost = False
    successor = Owner(STRICT, table)
    await successor.take(scored(1))
    assert [one["id"] for one in killed.alerts] == [one["id"] for one in successor.alerts]
    assert successor.acknowledged == [0]


async def test_state_carries_the_generation_in_which_its_record_was_delivered() -> None:
    """Of a score as of what is decided anew, and never a lower one than it replaces: recovery keeps the highest."""
    owner = Owner(STRICT)
    await owner.take(scored(1), generation=3)
    assert owner.table["p"]["generation"] == 3
    owner.runs = LENIENT
    again = orjson.dumps({"schema_version": 1, "product_id": "p", "release": LENIENT.release})
    await owner.take((ALERT_REDECISIONS, again), generation=4)
    assert owner.table["p"]["generation"] == 4
    await owner.take(scored(2), generation=1)
    assert owner.table["p"]["generation"] == 4


async def test_state_that_cannot_be_written_stops_the_worker() -> None:
    """A full disk: it says so, by what to look at."""
    owner = Owner(STRICT)
    owner.table.lost = True
    await owner.take(scored(1))
    error = owner.agent.fatal.result()
    assert error.code == "state_not_written"
    assert "full?" in str(error)


async def test_change_that_the_changelog_refuses_stops_the_worker_unacknowledged() -> None:
    """Its partition's next owner would never hear of it."""
    owner = Owner(STRICT)
    owner.table.holds = True
    await owner.take(scored(1))
    owner.table.changes[0].set_exception(OSError("record too large"))
    await owner.take()
    assert owner.agent.fatal.result().code == "state_not_written"
    assert owner.acknowledged == []


async def test_change_that_is_given_up_is_not_acknowledged_and_stops_nobody() -> None:
    """Its partition has been taken away: whoever has it now is given the score again."""
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    owner = Owner(STRICT)
    owner.table.holds = True
    await owner.take(scored(1))
    owner.table.changes[0].cancel()
    await owner.take()
    assert unseen == []
    assert not owner.agent.fatal.done()
    assert owner.acknowledged == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(FatalError("broker_unauthorised", "no"), "broker_unauthorised"), (ValueError("a bug"), "alert_agent_failed")],
)
async def test_alert_that_cannot_be_published_stops_the_worker_before_its_state(error: Exception, code: str) -> None:
    """Nothing behind it is taken, and nothing is acknowledged: the product would have a state that nobody was told."""
    published = Noting([])
    published.refuses = error
    owner = Owner(STRICT, published=published)
    await owner.take(scored(1), scored(1, logit=-3.0, product="q"))
    assert owner.agent.fatal.result().code == code
    assert owner.table == {}
    assert owner.acknowledged == []


async def test_records_that_no_worker_wrote_go_to_the_dead_letters() -> None:
    """And stop nobody."""
    owner = Owner(STRICT)
    await owner.take((ALERT_REDECISIONS, b"{"), (PRODUCT_SCORES, b"{"), scored(1))
    assert owner.acknowledged == [0, 1, 2]
    letters = owner.published.topic(DEAD_LETTERS)
    assert [one["reason"] for one in letters] == ["malformed_json", "malformed_event"]
    assert {one["release"] for one in letters} == {STRICT.release}


async def test_score_that_cannot_be_read_for_an_unforeseen_reason_goes_to_the_dead_letters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would stop each worker that is given it."""

    def fails(value: bytes) -> None:
        raise RecursionError(len(value))

    owner = Owner(STRICT)
    with monkeypatch.context() as broken:
        broken.setattr("streamer.alert_agent.parse_score", fails)
        await owner.take(scored(1))
    await owner.take(scored(2))
    assert owner.acknowledged == [0, 0]
    assert [one["reason"] for one in owner.published.topic(DEAD_LETTERS)] == ["event_unreadable"]


async def test_every_record_is_traced_while_it_is_carried_out() -> None:
    """Those of both topics, so that an alert's send is under the record that led to it."""
    inside: list[str] = []

    class Noted(Tracing):
        @contextmanager
        def processing(self, position: SourcePosition, *_: object, **__: object) -> Generator[Span]:
            inside.append(f"in {position.topic}")
            yield Span()
            inside.append("out")

    owner = Owner(STRICT, published=Noting(inside), tracing=Noted())
    await owner.take(scored(1), (ALERT_REDECISIONS, b"{"))
    assert inside == [
        *(f"in {PRODUCT_SCORES}", MISMATCH_ALERTS, "out"),
        *(f"in {ALERT_REDECISIONS}", DEAD_LETTERS, "out"),
    ]
