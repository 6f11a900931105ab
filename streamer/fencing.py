"""Which change of a table counts when two workers wrote to its changelog: pure rules, no Kafka here.

A worker that stood still for longer than its session (a machine that swaps, a virtual machine that is moved) goes on
writing when it goes on, though its partitions have been given away, and Kafka fences nobody without transactions. So:

* an entry carries the generation of the group in which its event was delivered, and recovery keeps of each key's
  changes the last one of the highest generation;
* a store on disk says that it holds the changelog up to an offset only while nobody else has written before it.

Source: the epochs by which Kafka fences producers, KIP-98; here it is the reader who fences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Key = TypeVar("Key")

GENERATION: Final = "generation"


def stamped(entry: dict[str, object], *, generation: int, held: object) -> dict[str, object]:
    """Return the entry as it is written.

    Args:
        entry: the new state.
        generation: in which the event was delivered that it comes of.
        held: the entry that it replaces, None for none. A group that was forgotten counts from one again: what it
            writes is of no lower generation than what it has read.
    """
    return entry | {GENERATION: max(generation, generation_of(held))}


def generation_of(entry: object) -> int:
    """Return the generation in which an entry was written; 0 for what an earlier version wrote."""
    found = entry.get(GENERATION) if isinstance(entry, Mapping) else None
    return found if isinstance(found, int) else 0


def standing(changes: Iterable[tuple[Key, Any]], held: Callable[[Key], object]) -> list[bool]:
    """Return of each change whether it counts: it is of no lower generation than what is known of its key.

    Args:
        changes: key and entry, in the order of the changelog.
        held: returns the entry of a key before these changes, None for none.
    """
    known: dict[Key, int] = {}
    counts = []
    for key, entry in changes:
        before = known[key] if key in known else generation_of(held(key))
        counts.append(generation_of(entry) >= before)
        known[key] = max(generation_of(entry), before)
    return counts


def follows(held: int | None, written: int) -> bool:
    """Whether a store that holds the changelog up to `held` and now its own change at `written` holds it up to there.

    Args:
        held: an offset, None where the store has read nothing yet.
        written: the offset of a change of its own.
    """
    return written == (-1 if held is None else held) + 1
