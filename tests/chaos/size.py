"""How large a run is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.faults import Fault

PER_SECOND = 1000
SHORTEST_S = 8.0  # of publishing: the faults fall into it

PLANNED: tuple[Fault, ...] = ("terminate", "scale")
"""Faults in which nobody vanishes: a worker that is only slow must not be given up."""


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    events: int = 50_000
    partitions: int = 12
    workers: int = 3

    @property
    def publishing_s(self) -> float:
        """How long its events are published, in seconds."""
        return max(SHORTEST_S, self.events / PER_SECOND)
