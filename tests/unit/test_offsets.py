"""The rule of what may be committed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.offsets import PartitionLedger


def test_ledger_untouched_has_nothing_to_commit() -> None:
    """A partition from which nothing was delivered commits nothing."""
    assert PartitionLedger(7).committable() is None


def test_ledger_holds_at_first_unfinished_event() -> None:
    """Events that finished behind one that has not are not committed past it."""
    ledger = PartitionLedger(0)
    for offset in (0, 1, 2):
        ledger.deliver(offset)
    ledger.acknowledge(1)
    ledger.acknowledge(2)
    assert ledger.committable() is None
    ledger.acknowledge(0)
    assert ledger.committable() == 3


def test_ledger_commits_across_offsets_that_the_log_does_not_hold() -> None:
    """A gap left by compaction or a transaction marker neither blocks a commit nor counts as work."""
    ledger = PartitionLedger(0)
    ledger.deliver(3)
    ledger.deliver(9)
    ledger.acknowledge(3)
    assert ledger.committable() == 9
    ledger.acknowledge(9)
    assert ledger.committable() == 10


def test_ledger_refuses_to_deliver_an_offset_twice() -> None:
    """Delivering backwards is a bug of the caller and raises."""
    ledger = PartitionLedger(0)
    ledger.deliver(4)
    with pytest.raises(ValueError, match="delivered before"):
        ledger.deliver(4)


def test_ledger_ignores_acknowledgement_of_what_is_not_outstanding() -> None:
    """An acknowledgement from before a seek neither raises nor moves the offset."""
    ledger = PartitionLedger(10)
    ledger.acknowledge(3)
    ledger.acknowledge(12)
    ledger.deliver(12)
    assert ledger.committable() is None or ledger.committable() == 12


@given(st.data())
def test_ledger_never_commits_past_work_in_flight(data: st.DataObject) -> None:
    """Whatever the gaps and the order of finishing, no offset at or above an unfinished event is committable."""
    gaps = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=30))
    offsets = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    ledger = PartitionLedger(0)
    unfinished: set[int] = set()
    waiting = iter(offsets)
    to_finish = data.draw(st.permutations(offsets))
    for offset in to_finish:
        for delivered in waiting:
            ledger.deliver(delivered)
            unfinished.add(delivered)
            if delivered == offset:
                break
        if offset in unfinished:
            ledger.acknowledge(offset)
            unfinished.discard(offset)
        committable = ledger.committable()
        if committable is not None:
            assert all(committable <= other for other in unfinished)
            ledger.committed = committable
    assert len(ledger) == len(unfinished)
    if not unfinished:
        assert ledger.committed == ledger.next_offset
