"""When an alert opens, changes and resolves, and that redelivery changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, structs

from streamer.alert import decide, stems_from
from streamer.alert_state import AlertState, from_table, to_table
from streamer.events import Contradiction, MismatchAlert, ProductScore, RecordedOutcome
from streamer.wire import SourcePosition

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def score(
    order: int | None,
    probability: float | None = None,
    *,
    image: str = "a",
    outcome: RecordedOutcome = "scored",
    release: str = "r1",
) -> ProductScore:
    """Return the outcome of one update of product p."""
    scored = probability is not None
    return ProductScore(
        product_id="p",
        order=order,
        outcome=outcome,
        source=SourcePosition(topic="product-updates", partition=0, offset=0),
        published_at=NOW,
        scored_at=NOW,
        image_sha256=image if scored else None,
        text_sha256="t" if scored else None,
        probability=probability,
        threshold=0.5 if scored else None,
        release=release if scored else None,
    )


def in_log_order(scores: Iterable[ProductScore]) -> list[ProductScore]:
    """Give each score the offset of its place."""
    return [
        structs.replace(one, source=SourcePosition(topic="product-updates", partition=0, offset=offset))
        for offset, one in enumerate(scores)
    ]


def run(*scores: ProductScore, state: AlertState | None = None) -> tuple[AlertState | None, list[MismatchAlert]]:
    """Decide the scores one after another, the state going through the table's form each time."""
    alerts = []
    for one in scores:
        state, alert = decide(state, one, source="/test")
        state = from_table(to_table(state)) if state is not None else None
        alerts += [alert] if alert else []
    return state, alerts


def kinds(alerts: list[MismatchAlert]) -> list[str]:
    """Return the transitions."""
    return [alert.type.rpartition(".")[2] for alert in alerts]


def test_alert_opens_at_the_threshold() -> None:
    """A probability equal to the threshold is a mismatch; below it is none."""
    assert kinds(run(score(1, 0.5))[1]) == ["opened"]
    assert kinds(run(score(1, 0.49))[1]) == []


def test_alert_resolves_when_the_picture_matches_again() -> None:
    """The resolution names the alert that it closes."""
    _, (opened, resolved) = run(score(1, 0.9), score(2, 0.1, image="b"))
    assert (opened.type, resolved.type) == ("catalogue.mismatch.opened", "catalogue.mismatch.resolved")
    assert resolved.data.alert_id == opened.id == opened.data.alert_id
    assert resolved.data.reason == "matches"


def test_alert_updates_only_when_the_evidence_changed() -> None:
    """A new version with the same picture, text and engine says nothing new."""
    assert kinds(run(score(1, 0.9), score(2, 0.9))[1]) == ["opened"]
    assert kinds(run(score(1, 0.9), score(2, 0.9, image="b"))[1]) == ["opened", "updated"]
    assert kinds(run(score(1, 0.9), score(2, 0.9, release="r2"))[1]) == ["opened", "updated"]


def test_alert_reopened_with_the_same_picture_has_another_id() -> None:
    """Consumers that drop ids they know still hear of the second opening."""
    _, alerts = run(score(1, 0.9), score(2, 0.1, image="b"), score(3, 0.9))
    assert kinds(alerts) == ["opened", "resolved", "opened"]
    assert alerts[0].id != alerts[2].id


def test_alert_of_a_deleted_product_resolves() -> None:
    """A tombstone without a version closes the alert and keeps older updates out."""
    state, alerts = run(*in_log_order([score(5, 0.9), score(None, outcome="deleted"), score(4, 0.9), score(5, 0.9)]))
    assert kinds(alerts) == ["opened", "resolved"]
    assert alerts[1].data.reason == "deleted"
    assert state == AlertState(order=5, partition=0, offset=1, deleted=True, floor=(0, 1))


def test_product_published_again_after_deletion_is_judged_anew() -> None:
    """A newer version brings the product back."""
    assert kinds(run(score(1, 0.9), score(2, outcome="deleted"), score(3, 0.9))[1]) == ["opened", "resolved", "opened"]


def test_tombstone_redelivered_after_the_product_came_back_is_old() -> None:
    """It has no version, so its offset says that it precedes what the product is now."""
    sequence = in_log_order([score(1, 0.9), score(None, outcome="deleted"), score(2, 0.9)])
    state, _ = run(*sequence)
    assert run(*sequence[1:], state=state) == (state, [])


def test_superseded_score_changes_nothing() -> None:
    """It says nothing about the product, whatever its order: the newer one will."""
    state, _ = run(score(1, 0.9))
    newer = structs.replace(score(9, outcome="superseded"), superseded_by=10)
    assert run(newer, state=state) == (state, [])
    assert run(newer) == (None, [])


@pytest.mark.parametrize("known", [[], [score(1, 0.9)]])
def test_update_that_a_tombstone_without_version_ended_is_known_as_newer(known: list[ProductScore]) -> None:
    """An older update that comes after both does not bring the product back, nor does the ended one again."""
    sequence = [*known, score(5, outcome="superseded"), score(None, outcome="deleted"), score(3, 0.9)]
    in_order = in_log_order(sequence)
    state, _ = run(*in_order[:-1])
    assert state is not None
    assert (state.deleted, state.order, state.alert) == (True, 5, None)
    assert run(in_order[-1], state=state) == (state, [])
    assert run(in_order[-3], state=state) == (state, [])


def test_replay_that_stands_before_a_tombstone_without_version_does_not_reopen() -> None:
    """Also where that tombstone ended another update, whose version is lower than the replayed one's."""
    rejected, ended, deleted = in_log_order(
        [score(6, 0.9), score(5, outcome="superseded"), score(None, outcome="deleted")]
    )
    state, _ = run(ended, deleted)
    assert run(replay(rejected, 40), state=state) == (state, [])


def test_tombstone_of_an_unknown_product_keeps_out_what_stands_before_it() -> None:
    """An update that was rejected, and is replayed after its product was deleted, does not bring it back."""
    rejected, tombstone, after = in_log_order([score(5, 0.9), score(None, outcome="deleted"), score(6, 0.9)])
    state, alerts = run(tombstone)
    assert alerts == []
    assert kinds(run(replay(rejected, 7), state=state)[1]) == []
    assert kinds(run(after, state=state)[1]) == ["opened"]


def replay(one: ProductScore, offset: int) -> ProductScore:
    """Return the score of an update that was replayed: it stands at another offset now."""
    return structs.replace(one, source=structs.replace(one.source, offset=offset), origin=one.source)


def test_replay_of_an_older_version_changes_nothing() -> None:
    """What a newer version has settled stays settled."""
    old, new = in_log_order([score(1, 0.9), score(2, 0.1, image="b")])
    state, _ = run(new)
    assert run(replay(old, 9), state=state) == (state, [])


def test_replay_of_the_same_version_that_another_followed_changes_nothing() -> None:
    """Two updates of one version are ordered by their offsets, and a replay keeps its own."""
    first, second = in_log_order([score(1, 0.9), score(1, 0.1, image="b")])
    state, _ = run(second)
    assert run(replay(first, 9), state=state) == (state, [])
    state, alerts = run(first, replay(second, 9))
    assert kinds(alerts) == ["opened", "resolved"]


def test_replay_of_a_newer_version_that_a_tombstone_followed_changes_nothing() -> None:
    """A tombstone without a version deletes what stands before it, also what was rejected then; twice does too."""
    log = in_log_order(
        [score(4, 0.9), score(5, 0.9), score(None, outcome="deleted"), score(6, 0.9), score(None, outcome="deleted")]
    )
    state, alerts = run(log[0], log[2], replay(log[1], 9), log[4], replay(log[3], 10))
    assert kinds(alerts) == ["opened", "resolved"]
    assert state is not None
    assert state.deleted


def test_replayed_tombstone_deletes_nothing_that_came_after_it() -> None:
    """Its place is where it first stood."""
    tombstone, after = in_log_order([score(None, outcome="deleted"), score(1, 0.9)])
    state, _ = run(after)
    assert run(replay(tombstone, 9), state=state) == (state, [])


scores = st.builds(
    score,
    st.integers(0, 5),
    st.sampled_from([0.1, 0.9]),
    image=st.sampled_from("ab"),
    release=st.sampled_from(["r1", "r2"]),
) | st.builds(score, st.integers(0, 5) | st.none(), outcome=st.sampled_from(["deleted", "superseded"]))


@given(st.lists(scores, max_size=12), st.data())
def test_redelivery_of_a_run_of_scores_changes_nothing(sequence: list[ProductScore], data: st.DataObject) -> None:
    """Scores that come again, from any earlier point on, publish no id that was not published before.

    The same version scored twice with different evidence is left out: its two results have no order.
    """
    evidence: dict[int, ProductScore] = {}
    sequence = in_log_order(s for s in sequence if s.order is None or evidence.setdefault(s.order, s) == s)
    state, alerts = run(*sequence)
    again = data.draw(st.integers(0, len(sequence)))
    state_again, alerts_again = run(*sequence[again:], state=state)
    assert {alert.id for alert in alerts_again} <= {alert.id for alert in alerts}
    assert state_again == state


@given(st.lists(scores, max_size=12))
def test_alerts_of_a_product_alternate(sequence: list[ProductScore]) -> None:
    """Nothing opens twice, nothing resolves or updates that is not open, and the state knows what is open."""
    state, alerts = run(*in_log_order(sequence))
    order = kinds(alerts)
    assert order[:1] in ([], ["opened"])
    allowed = {"opened": {"updated", "resolved"}, "updated": {"updated", "resolved"}, "resolved": {"opened"}}
    assert all(after in allowed[before] for before, after in pairwise(order))
    is_open = bool(order) and order[-1] != "resolved"
    assert (state is not None and state.alert is not None) == is_open
    orders = [alert.data.order for alert in alerts]
    assert orders == sorted(orders)


def test_alert_names_what_the_score_names_under_the_same_id() -> None:
    """Contradicted claims travel in the alert, are no part of its identity, and are gone when it resolves."""
    named = structs.replace(score(1, 0.9), contradicts=(Contradiction(field="color", value="navy", share=0.9),))
    _, (plain,) = run(score(1, 0.9))
    state, (opened, resolved) = run(named, score(2, 0.1, image="b"))
    assert opened.data.contradicts == named.contradicts
    assert opened.id == plain.id
    assert structs.replace(opened, data=plain.data) == plain
    assert resolved.data.contradicts is UNSET
    assert state is not None


def test_state_of_a_redelivered_score_stems_from_it() -> None:
    """A score that comes again is told from one that changes nothing: its state is written again, for the changelog."""
    first, second = in_log_order([score(1, 0.9), score(2, 0.9, image="b")])
    state, _ = run(first, second)
    again, alerts = run(second, state=state)
    assert again is not None
    assert (again, alerts) == (state, [])
    assert stems_from(again, second)
    assert not stems_from(again, first)


def overtaken(late: ProductScore, settled: list[ProductScore]) -> bool:
    """Whether something settled is newer: a higher version anywhere, or a tombstone without one behind it."""
    return any(
        one.place.offset > late.place.offset if one.order is None else one.order > (late.order or 0)
        for one in settled
        if one.outcome != "superseded"
    )


@given(st.lists(scores, min_size=1, max_size=12), st.data())
def test_replays_in_any_order_never_reopen_what_is_settled(sequence: list[ProductScore], data: st.DataObject) -> None:
    """Of updates that were rejected at first, those that something newer has settled meanwhile change nothing."""
    log = in_log_order(sequence)
    rejected = data.draw(st.sets(st.sampled_from(range(len(log)))))
    settled = [one for i, one in enumerate(log) if i not in rejected]
    late = [log[i] for i in sorted(rejected) if log[i].order is not None and overtaken(log[i], settled)]
    state, _ = run(*settled)
    again = data.draw(st.permutations([replay(one, len(log) + n) for n, one in enumerate(late)]))
    assert run(*again, state=state) == (state, [])
