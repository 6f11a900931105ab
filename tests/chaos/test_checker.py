"""The checker finds what it is there to find."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from tests.chaos.checker import Span, check
from tests.chaos.history import Commit, History, Published, Record
from tests.chaos.images import png
from tests.chaos.traffic import Event, draw, reference


def update(order: int, *, mismatch: bool, accepted: bool = True) -> Event:
    """Return an update of product p."""
    return Event("p", b"as it came", "update", order, mismatch, accepted, picture=f"{order:06x}.png", title="Mug")


def score(offset: int, at_ms: int, order: int, outcome: str = "scored", *, mismatch: bool = True) -> Record:
    """Return the outcome of the update at this offset."""
    body = {"outcome": outcome, "product_id": "p", "order": order}
    if outcome in {"scored", "unchanged"}:
        body |= {"probability": 0.9 if mismatch else 0.1, "threshold": 0.5}
    return Record((0, offset), at_ms, body, (0, offset))


def alert(  # noqa: PLR0917 - as it stands in the topic
    offset: int, at_ms: int, order: int, transition: str, identity: str, reason: str = "mismatch"
) -> Record:
    """Return an alert of product p."""
    data = {
        "order": order,
        "reason": reason,
        "image_sha256": hashlib.sha256(png(f"{order:06x}.png")).hexdigest(),
        "title": "Mug",
    }
    body: dict[str, Any] = {"id": identity, "subject": "p", "type": f"x.{transition}", "data": data}
    return Record((0, offset), at_ms, body, None)


def letter(offset: int, number: int = 0, **changes: Any) -> Record:  # noqa: ANN401 - fields of a letter
    """Return the dead letter of a malformed record of product p."""
    body = {
        "key": base64.b64encode(b"p").decode(),
        "value": base64.b64encode(b"as it came").decode(),
        "headers": [["number", base64.b64encode(str(number).encode()).decode()]],
        "product_id": "p",
        "reason": "malformed_json",
        "attempts": 1,
        "release": "r",
    }
    return Record((0, offset), 20, body | changes, (0, offset))


@pytest.fixture
def sound() -> History:
    """A run of two updates, in which nothing is wrong."""
    history = History(
        updates={
            (0, 0): Published(update(1, mismatch=True), 0, 0),
            (0, 1): Published(update(2, mismatch=False), 10, 1),
        },
        scores=[score(0, 5, 1), score(1, 15, 2, mismatch=False)],
        alerts=[alert(0, 7, 1, "opened", "a"), alert(1, 17, 2, "resolved", "b")],
    )
    history.states = {"p": {"order": 2, "generation": 1}}
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
    sound.dead_letters.append(letter(0))
    assert "rejected" in check(sound).wrong[0]


def test_checker_finds_a_superseded_update_that_nothing_followed(sound: History) -> None:
    """The newest update of a product is superseded by nothing; the one before it may be."""
    sound.scores[1] = score(1, 15, 2, "superseded")
    assert any("superseded, but nothing is newer" in line for line in check(sound).wrong)
    sound.scores = [score(0, 5, 1, "superseded"), score(1, 15, 2, mismatch=False)]
    sound.alerts.clear()
    assert check(sound).wrong == []


@pytest.mark.parametrize("change", [{"product_id": "q"}, {"order": 3}, {"probability": 0.2}])
def test_checker_finds_a_score_that_is_not_its_event_s(sound: History, change: dict[str, Any]) -> None:
    """Another product, another version, or the verdict on another picture."""
    sound.scores[0] = Record((0, 0), 5, sound.scores[0].body | change, (0, 0))
    assert any("says" in line for line in check(sound).wrong)


@pytest.mark.parametrize(
    "change",
    [{"value": None}, {"value": "Zm9v"}, {"key": None}, {"headers": []}, {"attempts": 0}, {"release": None}],
)
def test_checker_finds_a_dead_letter_that_is_not_its_event_s(sound: History, change: dict[str, Any]) -> None:
    """What was rejected can be replayed only as it came."""
    sound.updates[0, 2] = Published(Event("p", b"as it came", "malformed", accepted=False), 12, 7)
    sound.dead_letters.append(letter(2, 7))
    assert check(sound).wrong == []
    sound.dead_letters[0] = letter(2, 7, **change)
    assert any("dead letter" in line for line in check(sound).wrong)


@pytest.mark.parametrize("change", [{"image_sha256": "0" * 64}, {"title": "Cup"}])
def test_checker_finds_an_open_alert_about_another_picture_or_text(sound: History, change: dict[str, Any]) -> None:
    """A sequential run leaves the alert open about the last update that could be scored."""
    del sound.updates[0, 1], sound.scores[1], sound.alerts[1], sound.commits["updates"][1], sound.commits["scores"][1]
    sound.states["p"] = {"order": 1, "alert": "a", "generation": 1}
    assert check(sound).wrong == []
    sound.alerts[0].body["data"] |= change
    assert any("is about" in line for line in check(sound).wrong)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"order": 2, "alert": "a"}, "p: an alert is remembered as open"),
        ({"order": 1}, "p: 1 is remembered as the newest, not 2"),
        ({}, "p: None is remembered as the newest, not 2"),
    ],
    ids=["an alert that was resolved", "an older update", "nothing"],
)
def test_checker_finds_a_state_that_is_behind_its_alert(sound: History, state: dict[str, Any], told: str) -> None:
    """A commit that was ahead of its state shows there alone, where no update follows."""
    sound.states["p"] = state
    assert check(sound).wrong == [told]


def test_checker_finds_a_commit_ahead_of_its_outcome(sound: History) -> None:
    """An outcome that came after the commit would have been lost with the worker."""
    sound.commits["updates"][0] = Commit(0, 1, 4)
    assert check(sound).ahead == ["0: 1 committed, the outcome of 0 came 1 ms later"]


def test_checker_finds_a_commit_ahead_of_its_alert(sound: History) -> None:
    """The same for the scores, whose outcome is the alert."""
    sound.commits["scores"][0] = Commit(0, 1, 6)
    assert check(sound).ahead == ["0: 1 committed, the alert of 0 came 1 ms later"]


def test_checker_finds_a_commit_ahead_of_the_resolution_by_a_deletion(sound: History) -> None:
    """A deletion without a version resolves under the order of the update before it, whose own commit was in order."""
    sound.updates[0, 1] = Published(Event("p", None, "tombstone"), 10, 1)
    sound.scores[1] = Record((0, 1), 15, {"outcome": "deleted", "product_id": "p", "order": None}, (0, 1))
    sound.alerts[1] = alert(1, 17, 1, "resolved", "b", "deleted")
    assert check(sound).holds
    sound.commits["scores"][1] = Commit(0, 2, 16)
    assert check(sound).ahead == ["0: 2 committed, the alert of 1 came 1 ms later"]


def test_checker_finds_a_commit_that_takes_one_back(sound: History) -> None:
    """Only who no longer owns the partition commits less than was committed."""
    sound.commits["updates"].append(Commit(0, 1, 18))
    assert check(sound).wrong == ["updates-0: 1 after 2"]


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
    assert reference([opened, late, broken])["p"].shows is opened
    assert reference([opened, Event("p", None, "tombstone")])["p"].shows is None
    assert reference([opened, Event("p", b"", "tombstone", 4)])["p"].shows is opened


def test_traffic_of_a_seed_is_the_same_again() -> None:
    """A run can be repeated."""
    hosts = {"good": "h:1"}
    assert draw(200, 7, hosts) == draw(200, 7, hosts)
    assert draw(200, 7, hosts) != draw(200, 8, hosts)
