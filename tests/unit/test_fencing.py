"""`streamer.fencing`: a worker that goes on after its session has ended spoils no state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.fencing import follows, generation_of, stamped, standing

KEYS = "ab"


def entry(state: int, generation: int, held: object = None) -> dict[str, object]:
    """Return an entry as a worker of this generation writes it."""
    return stamped({"state": state}, generation=generation, held=held)


def test_change_of_an_older_generation_does_not_stand_behind_a_newer_one() -> None:
    """Among equals the later one counts; other keys are not concerned."""
    changes = [("a", entry(1, 3)), ("a", entry(2, 2)), ("b", entry(3, 2)), ("a", entry(4, 3))]
    assert standing(changes, {}.get) == [True, False, True, True]
    assert standing(changes, {"b": entry(0, 9)}.get) == [True, False, False, True]


def test_entry_of_an_earlier_version_counts_as_the_oldest() -> None:
    """It knows no generations; neither does anything that is no entry."""
    assert standing([("a", {"state": 1}), ("a", {"state": 2})], {}.get) == [True, True]
    assert [generation_of(strange) for strange in (None, {"state": 1}, {"generation": "x"}, "x")] == [0] * 4


def test_entry_of_a_group_that_counts_anew_still_stands() -> None:
    """A group without members for a week is forgotten, and begins with generation one."""
    held = entry(1, 50)
    assert standing([("a", entry(2, 1, held))], {"a": held}.get) == [True]


@pytest.mark.parametrize(
    ("held", "written", "expected"), [(None, 0, True), (None, 3, False), (4, 5, True), (4, 6, False)]
)
def test_store_holds_the_changelog_only_as_far_as_nobody_else_wrote(
    held: int | None, written: int, expected: bool
) -> None:
    """A gap before a change of one's own is a change of somebody else's, which the store lacks."""
    assert follows(held, written) is expected


@dataclass
class Worker:
    """A worker that processes numbered scores of one partition; it writes the highest number of each key."""

    on_disk: bool
    store: dict[str, dict[str, object]] = field(default_factory=dict)
    offset: int | None = None
    generation: int = 0
    next_score: int = 0
    unsent: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def take_over(self, generation: int, log: list[tuple[str, Any]], committed: int) -> None:
        """Recover, and go on from the committed score."""
        if not self.on_disk:
            self.store, self.offset = {}, None
        start = 0 if self.offset is None else self.offset + 1
        changes = log[start:]
        for (key, change), counts in zip(changes, standing(changes, self.store.get), strict=True):
            if counts:
                self.store[key] = change
        self.offset = len(log) - 1 if log else self.offset
        self.generation, self.next_score, self.unsent = generation, committed, []

    def process(self, scores: list[str]) -> None:
        """Take the next score; one that is older than what is known changes nothing, the same is written again."""
        number, self.next_score = self.next_score, self.next_score + 1
        key = scores[number]
        held = self.store.get(key)
        if held is None or number >= int(str(held["state"])):
            self.store[key] = entry(number, self.generation, held)
            self.unsent.append((key, self.store[key]))

    def send(self, log: list[tuple[str, Any]]) -> None:
        """Let the oldest change that was not sent reach the log."""
        if self.unsent:
            log.append(self.unsent.pop(0))
            if follows(self.offset, len(log) - 1):
                self.offset = len(log) - 1


@given(st.data())
def test_state_after_any_pauses_is_that_of_the_last_scores(data: st.DataObject) -> None:
    """Whoever goes on when: who recovers at last has of every key what its last score led to."""
    scores = data.draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=12))
    workers = [Worker(on_disk=data.draw(st.booleans())) for _ in range(3)]
    log: list[tuple[str, Any]] = []
    committed, owner, generation = 0, 0, 1
    workers[owner].take_over(generation, log, committed)
    for _ in range(data.draw(st.integers(0, 60))):
        who = data.draw(st.integers(0, 2))
        match data.draw(st.sampled_from(("process", "process", "send", "commit", "take over"))):
            case "process" if workers[who].generation and workers[who].next_score < len(scores):
                workers[who].process(scores)  # whether it still owns the partition or only thinks so
            case "send":
                workers[who].send(log)
            case "commit" if not workers[owner].unsent:
                committed = workers[owner].next_score
            case "take over":
                owner, generation = who, generation + 1
                workers[owner].take_over(generation, log, committed)
            case _:
                pass
    while workers[owner].next_score < len(scores):
        workers[owner].process(scores)
    for worker in (workers[owner], *workers):
        while worker.unsent:
            worker.send(log)
    for last in workers:
        last.take_over(generation + 1, log, len(scores))
        found = {key: last.store[key]["state"] for key in last.store}
        assert found == {key: max(n for n, of in enumerate(scores) if of == key) for key in set(scores)}
