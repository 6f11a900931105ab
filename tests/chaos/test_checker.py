"""The checker finds what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.checker import Span, check
from tests.chaos.history import Commit, History, Published, Record
from tests.chaos.traffic import Event, draw, reference


def update(order: int, *, mismatch: bool, accepted: bool = True) -> Event:
    """Return an update of product p."""
    return Event("p", b"", "update", order, mismatch, accepted)


def score(offset: int, at_ms: int, order: int, outcome: str = "scored") -> Record:
    """Return the outcome of the update at this offset."""
    body = {"outcome": outcome, "product_id": "p", "order": order}
    return Record((0, offset), at_ms, body, (0, offset))


def alert(offset: int, at_ms: int, order: int, transition: str, identity: str) -> Record:
    """Return an alert of product p."""
    body: dict[str, Any] = {"id": identity, "subject": "p", "type": f"x.{transition}", "data": {"order": order}}
    return Record((0, offset), at_ms, body, None)


@pytest.fixture
def sound() -> History:
    """A run of two updates, in which nothing is wrong."""
    history = History(
        updates={(0, 0): Published(update(1, mismatch=True), 0), (0, 1): Published(update(2, mismatch=False), 10)},
        scores=[score(0, 5, 1), score(1, 15, 2)],
        alerts=[alert(0, 7, 1, "opened", "a"), alert(1, 17, 2, "resolved", "b")],
    )
    history.commits["updates"] = [Commit(0, 1, 6), Commit(0, 2, 16)]
    history.commits["scores"] = [Commit(0, 1, 8), Commit(0, 2, 18)]
    return history


def test_checker_of_a_sound_run_finds_nothing(sound: History) -> None:
    """No false alarm."""
    verdict = check(sound)
    assert (verdict.lost, verdict.wrong, verdict.ahead, verdict.duplicates, verdict.lag) == (0, [], [], 0, 0)


def test_checker_counts_an_event_without_outcome_as_lost(sound: History) -> None:
    """And the commit that passed it was ahead, whenever it came."""
    sound.scores.pop()
    verdict = check(sound)
    assert verdict.lost == 1
    assert any("never came" in line for line in verdict.ahead)


def test_checker_counts_a_repeated_outcome_as_a_duplicate(sound: History) -> None:
    """The same outcome again is no error, and one under another name is told apart."""
    sound.scores.append(Record((0, 2), 30, sound.scores[0].body | {"outcome": "superseded"}, (0, 0)))
    verdict = check(sound)
    assert (verdict.duplicates, verdict.changed, verdict.wrong) == (1, 1, [])


def test_checker_finds_an_outcome_that_the_event_cannot_have(sound: History) -> None:
    """A sound update that was rejected is wrong."""
    sound.dead_letters.append(Record((0, 0), 30, {}, (0, 0)))
    assert "rejected" in check(sound).wrong[0]


def test_checker_finds_a_commit_ahead_of_its_outcome(sound: History) -> None:
    """An outcome that came after the commit would have been lost with the worker."""
    sound.commits["updates"][0] = Commit(0, 1, 4)
    assert check(sound).ahead == ["0: 1 committed, the outcome of 0 came 1 ms later"]


def test_checker_finds_a_commit_ahead_of_its_alert(sound: History) -> None:
    """The same for the scores, whose outcome is the alert."""
    sound.commits["scores"][0] = Commit(0, 1, 6)
    assert check(sound).ahead == ["0: 1 committed, the alert of 0 came 1 ms later"]


def test_checker_finds_an_alert_that_stayed_open(sound: History) -> None:
    """The last update resolves it in a sequential run."""
    sound.alerts.pop()
    assert check(sound).wrong == ["p: the alert is open after ['opened']"]


def test_checker_finds_a_transition_under_two_ids(sound: History) -> None:
    """A redelivered alert has the id that it had."""
    sound.alerts.append(alert(2, 30, 2, "resolved", "c"))
    assert any("ids ['b', 'c']" in line for line in check(sound).wrong)


def test_checker_measures_the_time_until_commits_go_on(sound: History) -> None:
    """From the end of a fault to the commit that passes what waited."""
    assert check(sound, [Span(9, 11)]).recovery_s == 0.005
    assert check(sound, [Span(9, 17)]).recovery_s == 0
    assert check(sound, [Span(9, 11), Span(10, 17)]).recovery_s == 0


def test_reference_takes_late_rejected_and_deleted_updates_as_a_sequential_run_does() -> None:
    """What is older than what is known, or cannot be scored, changes nothing; a tombstone closes."""
    opened, late, broken = (
        update(5, mismatch=True),
        update(3, mismatch=False),
        update(7, mismatch=False, accepted=False),
    )
    assert reference([opened, late, broken]) == {"p": True}
    assert reference([opened, Event("p", None, "tombstone")]) == {"p": False}
    assert reference([opened, Event("p", b"", "tombstone", 4)]) == {"p": True}


def test_traffic_of_a_seed_is_the_same_again() -> None:
    """A run can be repeated."""
    hosts = {"good": "h:1"}
    assert draw(200, 7, hosts) == draw(200, 7, hosts)
    assert draw(200, 7, hosts) != draw(200, 8, hosts)
