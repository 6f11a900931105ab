"""Which offset of a partition may be committed: the rule on which "nothing is lost" stands. Pure; no Kafka here.

A partition's events are delivered in offset order and finish in any order. What may be committed is the first
delivered offset that has not been acknowledged, or, when all have been, the next offset to deliver. Offsets that the
log does not hold (compacted, transaction markers) need no treatment: they are never delivered.
"""

from __future__ import annotations

from collections import deque


class PartitionLedger:
    """The delivered and not yet committed offsets of one partition, in order.

    Attributes:
        next_offset: the smallest offset that may be delivered next.
        committed: where a successor would start: the group's committed offset, or, when it has none, the offset
            that this worker started from.
    """

    def __init__(self, start: int) -> None:
        self.next_offset = start
        self.committed = start
        self._delivered: deque[int] = deque()
        self._outstanding: set[int] = set()

    def __len__(self) -> int:
        """Return how many delivered events have not been acknowledged."""
        return len(self._outstanding)

    def deliver(self, offset: int) -> None:
        """Record that the event at `offset` is about to be handed over; offsets must grow.

        Raises:
            ValueError: the offset was delivered before.
        """
        if offset < self.next_offset:
            raise ValueError(f"offset {offset} was delivered before; the next is {self.next_offset}")
        self._delivered.append(offset)
        self._outstanding.add(offset)
        self.next_offset = offset + 1

    def acknowledge(self, offset: int) -> None:
        """Record that the event's outcome is with the broker; an offset that is not outstanding is ignored.

        Acknowledgements from before a seek arrive that way: either the offset is outstanding again, and the outcome
        that was just published is its own, or it is not, and there is nothing to record.
        """
        self._outstanding.discard(offset)

    def committable(self) -> int | None:
        """Return the offset to commit, or None when the group has that already."""
        while self._delivered and self._delivered[0] not in self._outstanding:
            self._delivered.popleft()
        first = self._delivered[0] if self._delivered else self.next_offset
        return first if first > self.committed else None
